"""`everyframe ensemble store | sweep | specialists | run`: several models on the same frames, joined."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from everyframe.cli.ensemble_chosen import Chosen
from everyframe.cli.ensemble_members import (
    Footage,
    absolute,
    join_of,
    looking_as,
    members_of,
    short_names,
    tau_of,
    videos_of,
)
from everyframe.cli.parser import Parser
from everyframe.cli.predict import progress
from everyframe.cli.stopped import Told, tell_stopped
from everyframe.cli.views import add_device
from everyframe.data.held_out import HALVES
from everyframe.errors import InputError, writing
from everyframe.files import write_whole
from everyframe.inference.scores import SCORE_NORMS
from everyframe.inference.specialist_choice import ALPHAS

if TYPE_CHECKING:
    from everyframe.ensemble import Join
    from everyframe.inference.members import Member
    from everyframe.metrics.results import Results

EPILOG = """\
A MEMBER is a saved model's folder or hub id, which runs on the frames, or a folder that `store` wrote, which is read.
Both mix; frames are decoded once for all models. Models of other crops and sizes mix as well: write behind an @ how one
of them looks at a frame, MODEL@short=896,window=896x896,stride=512 (short side, window and stride in pixels, height x
width), flip or flip=no, scales=0.75+1+1.25; MODEL@480/320 is short for window and stride. --flip and --scales hold for
members that do not say otherwise. docs/ensembles.md has the formats, and how ties of a vote are broken.

examples:
  everyframe ensemble store runs/a vspw:/data/VSPW_480p --split val --out scores/a
  everyframe ensemble sweep runs/a@short=480,window=480 scores/b --data vspw:/data/VSPW_480p --split val --out sweep
  everyframe ensemble run runs/a runs/b --data vspw:/data/VSPW_480p --split test --tau-from sweep/sweep.json --out both
  everyframe ensemble run runs/a runs/b runs/c --data folder:videos --method vote --out voted
  everyframe ensemble specialists runs/a runs/rare --data folder:videos --split val --out special
  everyframe ensemble run runs/a runs/rare --data folder:videos --split test --specialists-from \\
      special/specialists.json --out labels
"""

LEFT = {
    "store": "the score maps so far are whole, in {out}; the same command writes all of them anew",
    "sweep": "nothing was written",
    "specialists": "nothing was written",
    "run": "the label maps so far are whole, in {out}; results.json needs every frame and was not written",
}
"""What each action leaves when it is stopped."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = Parser(
        prog="everyframe ensemble",
        description="Join several models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = made.add_subparsers(dest="action", required=True, metavar="ACTION")

    store = actions.add_parser("store", help="write a model's score maps, to join them later")
    store.add_argument("members", nargs=1, metavar="MODEL", help="saved model, as MEMBER above")
    store.add_argument("data", metavar="DATA", help="LAYOUT:ROOT")
    store.add_argument(
        "--dtype-stored",
        choices=("uint8", "float16"),
        default="uint8",
        help="float16 keeps scores as they come (norm none), whatever --score-norm says (default: %(default)s)",
    )
    store.add_argument(
        "--stride-stored",
        type=int,
        metavar="PIXELS",
        help="per cell (default: 4, or the finest stride at which a 480p frame takes 6 MB or less)",
    )
    store.set_defaults(run=_store)

    sweep = actions.add_parser("sweep", help="tau P1 + (1 - tau) P2 for tau = 0, .1, ... 1: table, plot and best tau")
    sweep.add_argument("members", nargs=2, metavar="MEMBER", help="P1, then P2")
    sweep.set_defaults(run=_sweep)

    special = actions.add_parser("specialists", help="how much say models of a few classes get: table and weights")
    special.add_argument("members", nargs="+", metavar="MEMBER", help="the model of all classes, then the specialists")
    special.add_argument("--classes", nargs="+", metavar="NAME", help="default: those that they share, matched by name")
    special.add_argument(
        "--alphas", type=float, nargs="+", default=ALPHAS, metavar="A", help="weights to try (default: %(default)s)"
    )
    special.add_argument(
        "--delta",
        type=float,
        default=0.005,
        metavar="IOU",
        help="gain of a class below which it keeps 0 (default: %(default)s)",
    )
    special.add_argument(
        "--below", type=float, metavar="IOU", help="ask them only about classes in which the first model is below this"
    )
    special.set_defaults(run=_specialists)

    run = actions.add_parser("run", help="label a split by one join, and measure it beside its members")
    run.add_argument("members", nargs="+", metavar="MEMBER", help="two or more; for a vote the most trusted one first")
    run.add_argument("--method", choices=("mean", "vote", "soft"), help="default: mean; soft with --tau or --tau-from")
    run.add_argument("--tau", type=float, help="soft: weight of the first of two members, 0..1")
    run.add_argument("--tau-from", type=Path, metavar="FILE", help="soft: the best tau of this sweep.json")
    run.add_argument("--specialists-from", type=Path, metavar="FILE", help="the weights of this specialists.json")
    run.set_defaults(run=_run)

    unsaid = {
        store: "; of heads that predict masks none, which can be joined by any",
        run: ", or under which the --tau-from or --specialists-from was chosen",
    }
    for action in (store, sweep, special, run):
        if action is not store:
            action.add_argument("--data", required=True, help="LAYOUT:ROOT")
        action.add_argument("--split", default="val", help="which videos of the data (default: %(default)s)")
        action.add_argument(
            "--half",
            choices=HALVES,
            help="one half of the split's videos, by name: choose on one, score on the other (default: all)",
        )
        action.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
        action.add_argument(
            "--score-norm",
            choices=SCORE_NORMS,
            default=None if action in unsaid else "softmax",
            help=f"what is averaged (default: softmax{unsaid.get(action, '')})",
        )
        action.add_argument("--flip", action="store_true", help="models look at the mirrored frame too")
        action.add_argument("--scales", type=float, nargs="+", default=(), metavar="FACTOR", help="and at these sizes")
        add_device(action.add_argument_group("run"))
        action.add_argument("--quiet", action="store_true", help="print nothing but errors and tables")
    return made


def main(arguments: list[str]) -> int:
    """Run one action; returns 0, or 130 and 143 when Ctrl-C and SIGTERM stopped it."""
    options = parser().parse_args(arguments)
    options.told = Told("after {frames} frames, at {done} of {total} of video {video}")
    options.words = arguments
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except KeyboardInterrupt as stopped:
        return tell_stopped("ensemble", stopped, f"{options.told}; {LEFT[options.action].format(out=options.out)}")


def _store(options: argparse.Namespace) -> int:
    from everyframe.ensemble import store
    from everyframe.inference.members import LiveMember
    from everyframe.inference.scores import view_norm
    from everyframe.io.score_maps import ScoreFormat, finest_stride

    videos = videos_of(options).videos
    (member,) = members_of(options)
    if not isinstance(member, LiveMember):
        raise InputError(f"{options.members[0]}: expected a model, came score maps that are stored already")
    dtype, stride = options.dtype_stored, options.stride_stored
    norm = "none" if dtype == "float16" else options.score_norm or view_norm(member.predictor)
    stride = finest_stride(len(member.label_space), norm, dtype) if stride is None else stride
    layout = ScoreFormat(norm, dtype, stride)
    with progress(options.quiet) as options.told.show:
        written = store(member, videos, options.out, layout, options.told)
    frames = sum(len(video.frames) for video in videos)
    print(f"written: {options.out}, {frames} score maps, {written / max(frames, 1) / 1e6:.2f} MB a frame")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from everyframe.ensemble import sweep_joins
    from everyframe.inference.sweep import Sweep
    from everyframe.report.sweep import sweep_svg

    names = short_names(options.members)
    footage = videos_of(options)
    results = _measured(options, footage, sweep_joins(options.score_norm), bootstrap=0)
    one, two = looking_as(options)
    sweep = Sweep.of((one, two), footage.called, options.score_norm, results)
    print(sweep.table())
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
        sweep.save(options.out / "sweep.json")
        ends = f"tau 0: {names[1]}", f"tau 1: {names[0]}"
        plot = sweep_svg(sweep.taus, sweep.miou, sweep.best, f"mIoU (%) over tau, {Path(footage.called).name}", ends)
        write_whole(options.out / "sweep.svg", plot)
    print(f"best tau {sweep.best:g}; written: {options.out}/sweep.json and sweep.svg")
    where = "on another split" if options.half is None else "on the other half"
    print(f"next, {where}: everyframe ensemble run ... --tau-from {options.out / 'sweep.json'}")
    return 0


def _specialists(options: argparse.Namespace) -> int:
    from everyframe.ensemble import choose_specialists

    videos, space, called = videos_of(options)
    with progress(options.quiet) as options.told.show:
        choice = choose_specialists(
            members_of(options), videos, space, called,
            classes=options.classes, alphas=options.alphas, delta=options.delta, below=options.below,
            norm=options.score_norm,
            progress=options.told,
        )  # fmt: skip
    choice = replace(choice, members=tuple(absolute(text) for text in options.members))
    print(choice.table())
    file = options.out / "specialists.json"
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
        choice.save(file)
    print(f"written: {file}; next, on other videos: everyframe predict ... --specialists {file}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from everyframe.ensemble import single

    names = short_names(options.members)
    if options.specialists_from is not None:
        return _run_specialists(options, names)
    tau, chosen = tau_of(options)
    options.score_norm = chosen.norm(options.score_norm) if chosen else options.score_norm or "softmax"
    name, join = join_of(options, tau)
    footage = videos_of(options)
    notes = _notes(options, chosen, looking_as(options), footage) if chosen else []
    joins = {name: join, **{member: single(i) for i, member in enumerate(names)}}
    results = _measured(options, footage, joins, (name, options.out), notes=notes)
    return _report(options, name, results)


def _run_specialists(options: argparse.Namespace, names: Sequence[str]) -> int:
    """Label a split by the general model and its specialists, measured beside the general model alone."""
    from everyframe.ensemble import single
    from everyframe.inference.specialist_choice import SpecialistChoice
    from everyframe.inference.specialists import Fusion

    file = options.specialists_from
    choice = SpecialistChoice.load(file)
    if options.method or options.tau is not None or options.tau_from is not None:
        raise InputError("ensemble run: expected --specialists-from alone, came --method or a tau with it")
    if len(names) != len(choice.members):
        raise InputError(
            f"ensemble run: expected the {len(choice.members)} members of {file} ({', '.join(choice.members)}), came "
            f"{len(names)}"
        )
    chosen = Chosen(f"the say of {file}", file, choice.members, choice.score_norm, choice.data, choice.videos)
    options.score_norm = chosen.norm(options.score_norm)
    footage = videos_of(options)
    notes = _notes(options, chosen, [absolute(text) for text in options.members], footage)
    members = members_of(options)
    spaces = [member.label_space for member in members]
    fused = f"with {len(names) - 1} specialist{'s' * (len(names) > 2)}"
    joins: dict[str, Join] = {
        fused: Fusion(spaces[0], spaces[1:], choice.alphas, options.score_norm),
        names[0]: single(0),
    }
    results = _measured(options, footage, joins, (fused, options.out), members, notes=notes)
    return _report(options, fused, results)


def _notes(options: argparse.Namespace, chosen: Chosen, members: Sequence[str], footage: Footage) -> list[str]:
    """What a reader of the figures must know of a choice: of other members, or on these videos."""
    notes = chosen.other_members(members, options.members), chosen.seen(options.data, footage.videos)
    return [note for note in notes if note]


def _report(options: argparse.Namespace, name: str, results: Mapping[str, Results]) -> int:
    """Write the results of a join, and print them beside its members'."""
    file = "results.json" if options.half is None else f"results-{options.half}.json"  # both halves share a folder
    with writing(options.out):
        results[name].to_json(options.out / file)
    wanted = ("mIoU", "VC8", "VC16", "flicker")
    width = max(map(len, results))
    print(" " * width + "".join(f"{score:>10}" for score in wanted) + "   mIoU, 95 % interval over videos")
    shown = {score.name: score.variant for score in reversed(next(iter(results.values())).overall)}
    for row, result in results.items():
        there = {score.name: score for score in reversed(result.overall)}
        values = (there[score].value if score in there else float("nan") for score in wanted)
        miou = there.get("mIoU")
        interval = f"   {miou.low:.2%} .. {miou.high:.2%}" if miou and None not in (miou.low, miou.high) else ""
        print(f"{row:{width}}" + "".join("         -" if v != v else f"{v:10.2%}" for v in values) + interval)
    print("; ".join(f"{score} [{shown[score]}]" for score in wanted if score in shown))
    print(f"written: {options.out}, label maps by {name} and {file}")
    _print_next(options)
    return 0


def _print_next(options: argparse.Namespace) -> None:
    """Print what scores the label maps; of one half of the videos first what labels the other into the same folder."""
    words = ["--pred", str(options.out), "--data", options.data, "--split", options.split, "--out", "report"]
    report = f"TC and the report: everyframe evaluate {shlex.join(words)}"
    if options.half is None or all((options.out / f"results-{half}.json").exists() for half in HALVES):
        print(f"next, {report}")
        return
    (other,) = set(HALVES) - {options.half}
    values: dict[str, str] = {"--half": other}
    for option, file in (("--tau-from", options.tau_from), ("--specialists-from", options.specialists_from)):
        if file is not None:  # chosen on the other half, so of no use there
            values[option] = f"CHOSEN_ON_THE_{options.half.upper()}_HALF/{file.name}"
    more = shlex.join(_with_values(options.words, values))
    print(f"next, the other half into the same folder: everyframe ensemble {more}")
    print(f"then {report}")


def _with_values(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the words of a command with other values of some options, written `--option value` or `--option=value`."""
    found: list[str] = []
    pending = None  # the value that the next word is replaced by
    for word in words:
        name, equals, _ = word.partition("=")
        value = next((new for option, new in values.items() if len(name) > 2 and option.startswith(name)), None)
        found.append(pending or (f"{name}={value}" if equals and value else word))
        pending = None if pending or equals else value
    return found


def _measured(
    options: argparse.Namespace,
    footage: Footage,
    joins: Mapping[str, Join],
    save: tuple[str, Path] | None = None,
    special: list[Member] | None = None,
    bootstrap: int = 1000,
    notes: Sequence[str] = (),
) -> dict[str, Results]:
    """Run all joins in one pass.

    `special` members differ in classes; `notes` are what a reader of the figures of the join that is saved must know.
    """
    from everyframe.ensemble import measure

    members = special or members_of(options)
    with progress(options.quiet) as options.told.show:
        results = measure(members, footage.videos, footage.space, joins, save, options.told, special is None, bootstrap)
    if save is not None:
        results[save[0]].notes += notes
    for note in dict.fromkeys(note for result in results.values() for note in result.notes):
        print(f"note: {note}", file=sys.stderr)
    return results
