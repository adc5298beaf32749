"""`everyframe evaluate`: numbers of predictions or of a model, each beside its variant, and a report."""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everyframe.cli.parser import Parser, seed_value
from everyframe.cli.progress import progress_bar
from everyframe.cli.stopped import Told, tell_stopped
from everyframe.cli.views import RUNS_MODEL, add_device, add_views
from everyframe.metrics.results_text import percent

if TYPE_CHECKING:
    from rich.console import Console

    from everyframe.metrics.results import Results


def main(arguments: list[str]) -> int:
    """Evaluate and print tables, or JSON; with `--out` also write results.json and report.html."""
    from everyframe.evaluate import evaluate

    options = vars(_parser(evaluate).parse_args(arguments))
    as_json = options.pop("json")
    options["flow"] = None if options["flow"] == "none" else options["flow"]
    options = {name: value for name, value in options.items() if name not in RUNS_MODEL or value is not None}
    told = Told("after {done} of {total} frames, in video {video}")
    try:
        with progress_bar("frames") as told.show:
            results = evaluate(**options, progress=told)
    except KeyboardInterrupt as stopped:
        kept = f"; the label maps so far are whole, in {options['save']}" if options["save"] else ""
        return tell_stopped("evaluate", stopped, f"{told}; no results were written, they need every frame{kept}")
    if as_json:
        print(results.to_json())
    else:
        _print(results)
    if options["out"] is not None:
        print(f"wrote {Path(options['out']) / 'report.html'} and results.json", file=sys.stderr)
    return 0


def _parser(function: Any) -> argparse.ArgumentParser:
    default = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    parser = Parser(
        prog="everyframe evaluate",
        description="Measure predictions on disk, or a model, against the label maps of a data set.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--pred", metavar="DIR", help="label maps <video>/<frame>.png, as `everyframe predict` writes them"
    )
    what.add_argument("--model", metavar="M", help="folder of a saved model or of a run, or its id on the hub")
    add = parser.add_argument
    add("--data", required=True, metavar="LAYOUT:ROOT", help="data set, such as vspw:/data/VSPW_480p")
    add("--split", default=default["split"], help="videos to evaluate (default: %(default)s)")
    add("--out", default=default["out"], metavar="DIR", help="write results.json and report.html there")
    add("--json", action="store_true", help="print JSON instead of tables")
    add(
        "--pred-ids",
        choices=("raw", "train"),
        default=default["pred_ids"],
        help="ids in the files of --pred: raw as in the masks, or train ids 0..K-1 (default: %(default)s)",
    )
    add("--allow-missing", action="store_true", help="evaluate although labelled frames have no prediction, and say so")
    add(
        "--windows",
        type=int,
        nargs="+",
        default=default["windows"],
        metavar="N",
        help=f"lengths n of VC_n in frames (default: {' '.join(map(str, default['windows']))})",
    )
    add(
        "--flow",
        default=default["flow"],
        metavar="F",
        help="optical flow for TC and flicker: dis, raft, raft:WEIGHTS.pth, none (default: %(default)s)",
    )
    add(
        "--bootstrap",
        type=int,
        default=default["bootstrap"],
        metavar="R",
        help="resamples of the videos for 95 %% intervals, 0 for none (default: %(default)s)",
    )
    add("--seed", type=seed_value, default=default["seed"], help="of the resampling (default: %(default)s)")
    add(
        "--worst",
        type=int,
        default=default["worst"],
        metavar="N",
        help="worst frames shown in the report (default: %(default)s)",
    )
    add("--workers", type=int, default=default["workers"], metavar="N",
        help="threads that decode (default: %(default)s)")  # fmt: skip
    model = parser.add_argument_group("with --model")
    model.add_argument("--save", default=default["save"], metavar="DIR", help="keep the label maps there")
    add_views(model)
    add_device(model)
    return parser


# -- tables ------------------------------------------------------------------------------------------------------------


def _print(results: Results) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(f"\n{results.title}", style="bold", markup=False)
    _print_classes(console, results)
    _print_videos(console, results)
    _print_overall(console, results)
    for note in results.notes:
        console.print(f"note: {note}", style="yellow", markup=False)


def _table(title: str, *columns: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    return table


def _print_overall(console: Console, results: Results) -> None:
    table = _table("all videos", "score", "variant", "value %", "95 % interval", "videos")
    table.columns[1].justify = "left"
    for score in results.overall:
        known = results.defined_in(score)
        over = "" if known is None else f"{known} of {len(results.videos)}"
        table.add_row(score.name, score.variant, percent(score.value), score.interval, over)
    console.print(table)


def _print_classes(console: Console, results: Results) -> None:
    seen = [c for c in results.classes if c.pixels or c.predicted]
    if not seen:
        return
    table = _table("classes, over all labelled pixels", "class", "IoU %", "recall %", "precision %", "pixels")
    for c in seen:
        table.add_row(c.name, *map(percent, (c.iou, c.accuracy, c.precision)), f"{c.pixels:,}")
    console.print(table)
    if len(seen) < len(results.classes):
        console.print(f"({len(results.classes) - len(seen)} classes neither in the ground truth nor predicted)")


def _print_videos(console: Console, results: Results) -> None:
    columns = results.video_columns()
    heads = [f"{score.name} %\n{score.variant}" for score in columns]
    table = _table("videos", "video", "labelled\nframes", "frames", *heads)
    for video in results.videos:
        values = (percent(video.value(score)) for score in columns)
        table.add_row(video.name, f"{video.labelled}", f"{video.frames}", *values)
    console.print(table)
