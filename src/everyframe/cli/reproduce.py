"""`everyframe reproduce NAME`: an experiment of the papers as a grid of commands, with a table and plots."""

from __future__ import annotations

import argparse
import inspect
import shlex
import signal
import sys

from everyframe.cli.parser import refuse_near_misses
from everyframe.cli.train import split_options
from everyframe.errors import InputError

DESCRIPTION = """\
Train every row of an experiment with every seed, evaluate, and put the figures into OUT: table.md, table.json,
classes.md, plots, commands.sh (the exact commands), cells/ROW/SEED (everything else). The same command goes on after a
stop or a kill, and tries again what failed. Other options go to every training as in `everyframe train`: --steps 2000,
--data.per frame.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser; defaults are those of `everyframe.reproduce.reproduce.reproduce`."""
    from everyframe.reproduce.experiment import SCALES
    from everyframe.reproduce.reproduce import reproduce

    named = inspect.signature(reproduce).parameters
    made = argparse.ArgumentParser(  # options that it does not know go to every training
        prog="everyframe reproduce",
        usage="everyframe reproduce NAME --data LAYOUT:ROOT [--scale small|full] [--seeds N] [--out DIR] [--KEY X ...]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("name", nargs="?", metavar="NAME", help="an experiment of `everyframe reproduce --list`")
    add("--data", metavar="LAYOUT:ROOT", help="videos with the splits train and val, such as vspw:/data/VSPW_480p")
    add("--scale", choices=SCALES, default=named["scale"].default,
        help="small: tiny networks, hours on a CPU; full: the published recipes (%(default)s)")  # fmt: skip
    add("--seeds", type=int, default=named["seeds"].default, metavar="N", help="trainings of a row (%(default)s)")
    add("--out", metavar="DIR", help="folder of the results (default: results/NAME-SCALE)")
    add("--jobs", type=int, default=named["jobs"].default, metavar="N",
        help="cells at a time; frames/s and hours are then those beside others (%(default)s)")  # fmt: skip
    add("--reuse", action="append", default=[], metavar="DIR|FILE",
        help="results of another experiment, such as results/table1-small: cells with the same commands are copied "
        "from there; of a table.json, their figures alone; may be repeated")  # fmt: skip
    add("--rows", action="append", metavar="LABEL",
        help="run these rows alone now, such as 'SSLTM*'; may be repeated (all)")  # fmt: skip
    add("--dry-run", action="store_true", help="print the commands of everything that is not done nor reused, and stop")
    add("--list", action="store_true", help="list the experiments")
    return made


def main(arguments: list[str]) -> int:
    """Run the command; returns 0, 1 when cells failed, 130 after Ctrl-C; SIGTERM ends it in good order with 0."""
    made = parser()
    known, rest = made.parse_known_args(arguments)
    if known.list:
        print(_list())
        return 0
    if known.name is None:
        made.print_usage(sys.stderr)
        return 2
    if known.data is None:
        raise InputError(f"{known.name}: expected data, came none; add --data LAYOUT:ROOT")
    extra = split_options([known.name, *rest])[1] if rest else {}
    refuse_near_misses(made, extra)
    from everyframe.reproduce.left import missing
    from everyframe.reproduce.plan import check, pick, plan
    from everyframe.reproduce.reproduce import commands, prepared, reproduce

    rows = known.rows or ["*"]
    if known.dry_run:
        setting = prepared(known.name, known.data, known.scale, known.seeds, known.out, extra)
        check(setting)
        print(commands(missing(pick(plan(setting), rows), known.reuse)), end="")
        return 0
    from everyframe.training.last_checkpoint import StopSignals

    with StopSignals() as signals:
        records = reproduce(
            known.name,
            known.data,
            scale=known.scale,
            seeds=known.seeds,
            out=known.out,
            jobs=known.jobs,
            reuse=known.reuse,
            rows=rows,
            extra=extra,
            asked=lambda: signals.received,
            say=lambda line: print(line, flush=True),
        )
    if signals.received is not None and any(record.status != "done" for record in records):
        again = shlex.join(["everyframe", "reproduce", *arguments])
        print(f"stopped by {signals.received.name}; to go on: {again}", file=sys.stderr)
        return 0 if signals.received is signal.SIGTERM else 130
    out = known.out or f"results/{known.name}-{known.scale}"
    print(f"{out}/table.md: {sum(record.status == 'done' for record in records)} of {len(records)} cells")
    return 1 if any(record.status == "failed" for record in records) else 0


def _list() -> str:
    from everyframe.reproduce.experiment import SCALES
    from everyframe.reproduce.grid import EXPERIMENTS

    backbone = SCALES["small"].backbone
    return "\n".join(f"{name:26s} {len(e.rows(backbone)):3d} rows  {e.title}" for name, e in EXPERIMENTS.items())
