"""One experiment from end to end: plan, run what is missing, and rewrite table and plots after every cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from everyframe.data.layouts import load_split
from everyframe.data.reading import read_frame
from everyframe.errors import InputError
from everyframe.files import write_whole
from everyframe.reproduce.plan import Cell, Setting, check, pick, plan
from everyframe.reproduce.plots import write_plots
from everyframe.reproduce.records import CellRecord, read_record
from everyframe.reproduce.runner import PROGRAM, run_grid
from everyframe.reproduce.steps import Step
from everyframe.reproduce.subsets import compare_frames
from everyframe.reproduce.table import gather, write_table
from everyframe.reproduce.video import write_side_by_side

VIDEOS_SHOWN = 4
"""Videos of the split that the side-by-side video shows."""


def reproduce(
    name: str,
    data: str,
    *,
    scale: str = "small",
    seeds: int = 3,
    out: str | Path | None = None,
    jobs: int = 1,
    reuse: Sequence[str | Path] = (),
    rows: Sequence[str] = ("*",),
    extra: Mapping[str, Any] | None = None,
    program: Sequence[str] = PROGRAM,
    asked: Callable[[], object] = lambda: None,
    say: Callable[[str], None] = print,
) -> list[CellRecord]:
    """Run an experiment, or what is missing of it.

    Args:
        name: a key of `everyframe.reproduce.grid.EXPERIMENTS`.
        data: "LAYOUT:ROOT" with a training and a validation split.
        scale: a key of `everyframe.reproduce.experiment.SCALES`.
        seeds: how many seeds each row is trained with; more may be asked for later.
        out: folder of the results; results/NAME-SCALE when left out.
        jobs: cells at a time.
        reuse: folders of other grids, or a `table.json` of one; a cell that one of them has finished with the same
            commands is taken over, from a table its figures alone.
        rows: labels of the rows to run now, or patterns of them; the others are left for another call.
        extra: options of every training, as in `everyframe train`.
        program: see `run_grid`.
        asked: see `run_grid`.
        say: see `run_grid`.

    Returns:
        A record per cell; the folder holds `table.md`, `table.json`, `classes.md`, plots, and `commands.sh`.

    Raises:
        InputError: an option or the data cannot be used, or the folder holds another grid.
    """
    setting = prepared(name, data, scale, seeds, out, extra)
    if jobs < 1:
        raise InputError(f"jobs: expected at least 1, came {jobs}")
    check(setting)
    cells = plan(setting)

    def changed(_: CellRecord | None = None) -> None:
        report(setting, cells)

    picked = pick(cells, rows)
    waiting = sum(read_record(cell).status != "done" for cell in picked)
    say(f"{name}: {len(picked)} cells, {waiting} of them to run; writes to {setting.out}")
    found = [Path(folder) for folder in reuse]
    records = run_grid(setting, picked, program=program, jobs=jobs, reuse=found, asked=asked, changed=changed, say=say)
    changed()
    return records


def prepared(
    name: str, data: str, scale: str, seeds: int, out: str | Path | None, extra: Mapping[str, Any] | None
) -> Setting:
    """Return the setting with what the data say: size of a frame, noisy references where the experiment asks."""
    folder = Path(out) if out is not None else Path("results") / f"{name}-{scale}"
    setting = Setting(name, data, folder, scale, seeds, dict(extra or {}))
    videos, space = load_split(data, setting.split)
    if not videos:
        raise InputError(f"{data}: expected videos in split {setting.split!r} to score on, found none")
    setting = replace(setting, size=read_frame(videos[0], 0).size)
    if setting.experiment.noisy:
        setting = replace(setting, compared=compare_frames(videos, space))
    return setting


def report(setting: Setting, cells: Sequence[Cell]) -> None:
    """Rewrite table, plots, commands and video from what lies on disk."""
    lines, failed = gather(cells)
    write_table(setting, lines, failed)
    write_plots(setting, lines)
    write_whole(setting.out / "commands.sh", commands((cell, cell.steps) for cell in cells))
    if setting.experiment.noisy:
        write_whole(setting.out / "noisy.json", json.dumps(setting.compared, indent=1) + "\n")
    _write_video(setting, cells)


def commands(cells: Iterable[tuple[Cell, Sequence[Step]]]) -> str:
    """Return the commands of cells as a shell script, a comment line per cell."""
    blocks = ["\n".join([f"# {cell.row.label}, seed {cell.seed}", *map(str, steps)]) for cell, steps in cells]
    return "\n\n".join(blocks) + "\n"


def _write_video(setting: Setting, cells: Sequence[Cell]) -> None:
    """Write the side-by-side video once both of its rows are there with the first seed."""
    path = setting.out / "side_by_side.mp4"
    if setting.experiment.video is None or path.exists():
        return
    shown = {cell.row.label: cell for cell in cells if cell.seed == 0}
    picked = [shown[label] for label in setting.experiment.video]
    records = [read_record(cell) for cell in picked]
    if any(record.status != "done" or record.figures is not None for record in records):
        return
    videos, space = load_split(setting.data, setting.split)
    predictions = [(cell.row.label, cell.folder / "labels") for cell in picked]
    write_side_by_side(videos[:VIDEOS_SHOWN], space, predictions, path)
