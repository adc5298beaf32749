"""The figures of a grid: read from the files of its cells, put together over seeds, written as Markdown and JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everyframe.files import write_whole
from everyframe.metrics.results import Results, Score
from everyframe.reproduce.experiment import BEST_MEMBER
from everyframe.reproduce.plan import Cell, Setting
from everyframe.reproduce.records import CellRecord, read_record
from everyframe.reproduce.subsets import SUBSETS

Figures = dict[str, float]
"""Name -> number of one cell; shares (mIoU, VC, TC) in 0..1. What is not known is left out."""

SCORES = ("mIoU", "VC8", "VC16", "TC")


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: key of `Figures`.
        title: heading.
        show: number -> text.
        deviates: whether the deviation over seeds is printed beside the mean.
        optional: left out of tables in which no row has the number.
    """

    name: str
    title: str
    show: Callable[[float], str]
    deviates: bool = True
    optional: bool = False


COLUMNS = (
    Column("mIoU", "mIoU", _percent),
    Column("mIoU noisy", "mIoU noisy", _percent, optional=True),
    Column("mIoU clean", "mIoU clean", _percent, optional=True),
    Column("mIoU lacking", "mIoU lacking", _percent, optional=True),
    Column("mIoU covered", "mIoU covered", _percent, optional=True),
    Column("VC8", "VC8", _percent),
    Column("VC16", "VC16", _percent),
    Column("TC", "TC", _percent),
    Column("params", "parameters (M)", lambda value: f"{value / 1e6:.2f}", deviates=False, optional=True),
    Column("gmacs", "GMACs", lambda value: f"{value:.2f}", deviates=False, optional=True),
    Column("frames_per_second", "frames/s", lambda value: f"{value:.2f}", optional=True),
    Column("hours", "hours", lambda value: f"{value:.3f}", optional=True),
    Column("label_coverage", "pixels labelled", _percent, deviates=False, optional=True),
    Column("label_precision", "of them right", _percent, optional=True),
    Column("label_bytes", "label maps (MB)", lambda value: f"{value / 1e6:.2f}", deviates=False, optional=True),
)
INTERVAL_AFTER = "mIoU"
OF_CLASS = "IoU "
"""Before the name of a class in `Figures`."""


@dataclass(frozen=True)
class Line:
    """A row over its seeds.

    Attributes:
        label: of the row.
        seeds: seed -> figures of its cell, of finished cells only.
        planned: number of seeds that the grid has.
        keys: seed -> digest of the commands of its cell.
    """

    label: str
    seeds: Mapping[int, Figures]
    planned: int
    keys: Mapping[int, str] = field(default_factory=dict)

    def values(self, name: str) -> list[float]:
        """The number of every seed that has it."""
        return [figures[name] for _, figures in sorted(self.seeds.items()) if name in figures]

    def mean(self, name: str) -> float:
        """Arithmetic mean over seeds; NaN without any."""
        values = self.values(name)
        return statistics.fmean(values) if values else math.nan

    def deviation(self, name: str) -> float:
        """Standard deviation over seeds, n - 1 in the denominator; NaN with fewer than two."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def text(self, column: Column) -> str:
        """Mean ± deviation as the table prints it."""
        mean, deviation = self.mean(column.name), self.deviation(column.name)
        if math.isnan(mean):
            return "–"
        spread = "" if math.isnan(deviation) or not column.deviates else f" ± {column.show(deviation)}"
        return f"{column.show(mean)}{spread}"

    @property
    def interval(self) -> str:
        """Mean over seeds of both ends of the bootstrap interval over videos."""
        low, high = self.mean("mIoU low"), self.mean("mIoU high")
        return "–" if math.isnan(low) else f"{_percent(low)} .. {_percent(high)}"


def read_figures(cell: Cell, record: CellRecord) -> Figures:
    """Read everything that the steps of a finished cell wrote, or what a published table says of it."""
    if record.figures is not None:
        return record.figures
    results = Results.from_json(cell.folder / "report" / "results.json")
    found = scores_of(results)
    measured = cell.folder / "cost.json"
    if measured.exists():  # joined models have none of their own
        cost = json.loads(measured.read_text(encoding="utf-8"))
        found |= {"params": cost["params"], "gmacs": cost["gmacs"], "state_bytes": cost["state_bytes"]}
        found["frames_per_second"] = cost["frames_per_second"]["stream"]
    found["hours"] = record.seconds.get("train", math.nan) / 3600
    loop = cell.folder / "run" / "self_training.json"
    if loop.exists():
        stages = json.loads(loop.read_text(encoding="utf-8"))["stages"]
        labelled = [stage for stage in stages if stage["name"].endswith("/label") or stage["name"] == "propagate"]
        found["label_bytes"] = sum(stage["bytes"] for stage in labelled)
        last = labelled[-1]["results"] if labelled else {}
        found |= {f"label_{name}": last.get(name) for name in ("coverage", "precision")}
    for subset in SUBSETS:
        part = cell.folder / f"report-{subset}" / "results.json"
        if part.exists():
            found[f"mIoU {subset}"] = Results.from_json(part).score("mIoU").value
    return known(found)


def scores_of(results: Results) -> dict[str, float | None]:
    """Return what the table shows of the results of an evaluation."""
    found: dict[str, float | None] = {}
    for name in SCORES:
        score = _score(results, name)
        if score is not None:
            found[name] = score.value
        if score is not None and name == "mIoU":
            found |= {"mIoU low": score.low, "mIoU high": score.high}
    return found | {f"{OF_CLASS}{of_class.name}": of_class.iou for of_class in results.classes}


def known(found: Mapping[str, float | None]) -> Figures:
    """Return the figures that are numbers."""
    return {name: float(value) for name, value in found.items() if value is not None and not math.isnan(value)}


def _score(results: Results, name: str) -> Score | None:
    try:
        return results.score(name)
    except KeyError:  # not measured: videos without flow have no TC
        return None


def gather(cells: Sequence[Cell]) -> tuple[list[Line], list[CellRecord]]:
    """Return the rows in their order with the figures of all finished cells, and the records of the failed ones."""
    seeds: dict[str, dict[int, Figures]] = {}
    keys: dict[str, dict[int, str]] = {}
    planned: dict[str, int] = {}
    failed = []
    for cell in cells:
        record = read_record(cell)
        label = cell.row.label
        planned[label] = planned.get(label, 0) + 1
        seeds.setdefault(label, {})
        if record.status == "done":
            seeds[label][cell.seed] = read_figures(cell, record)
            keys.setdefault(label, {})[cell.seed] = record.key
        elif record.status == "failed":
            failed.append(record)
    lines = [Line(label, figures, planned[label], keys.get(label, {})) for label, figures in seeds.items()]
    return lines, failed


def difference(first: Line, second: Line, name: str = "mIoU") -> tuple[float, float, int]:
    """Compare two rows seed by seed.

    Returns:
        Mean of first - second over the seeds that both have, the standard deviation of these differences (NaN with
        fewer than two), and how many they are.
    """
    shared = [
        first.seeds[seed][name] - second.seeds[seed][name]
        for seed in sorted(first.seeds.keys() & second.seeds.keys())
        if name in first.seeds[seed] and name in second.seeds[seed]
    ]
    mean = statistics.fmean(shared) if shared else math.nan
    return mean, statistics.stdev(shared) if len(shared) > 1 else math.nan, len(shared)


def best_of(lines: Sequence[Line], name: str = "mIoU") -> Line:
    """Return a line that has, of each seed that all lines have, the highest figure."""
    seeds = [{seed for seed, figures in line.seeds.items() if name in figures} for line in lines]
    shared = sorted(set.intersection(*seeds)) if seeds else []
    best = {seed: {name: max(line.seeds[seed][name] for line in lines)} for seed in shared}
    return Line(BEST_MEMBER, best, len(shared))


def markdown(setting: Setting, lines: Sequence[Line], failed: Sequence[CellRecord]) -> str:
    """Return the table, the differences, and what failed."""
    columns = [c for c in COLUMNS if not c.optional or any(line.values(c.name) for line in lines)]
    titles = ["", "seeds"]
    for column in columns:
        titles += [column.title, "95 % interval"] if column.name == INTERVAL_AFTER else [column.title]
    rows = []
    for line in lines:
        cells = [line.label, f"{len(line.seeds)}/{line.planned}"]
        for column in columns:
            cells.append(line.text(column))
            if column.name == INTERVAL_AFTER:
                cells.append(line.interval)
        rows.append(cells)
    text = [
        f"# {setting.name}: {setting.experiment.title}",
        "",
        f"{setting.data}, split {setting.split}, scale {setting.scale}{_extra(setting)}. Mean ± standard deviation "
        f"over seeds; mIoU in percent over the classes in the ground truth, its interval by the bootstrap over videos "
        f"(mean of the seeds' ends); GMACs and frames/s of one {setting.size[0]}x{setting.size[1]} frame of a "
        f"stream, resized and cut into windows as for the scores; hours of training.",
        "",
        _row(titles),
        "|---|" + "---:|" * (len(titles) - 1),
        *map(_row, rows),
    ]
    text += _differences(setting, lines)
    if failed:
        text += ["", "Failed; the same command tries them again:", ""]
        text += [f"- {record.label}, seed {record.seed}: {record.message}" for record in failed]
    return "\n".join(text) + "\n"


def class_table(lines: Sequence[Line]) -> str:
    """Return the IoU of every class in percent, a line per row of the grid: mean ± deviation over seeds."""
    names = dict.fromkeys(name for line in lines for figures in line.seeds.values() for name in figures)
    columns = [
        Column(name, name.removeprefix(OF_CLASS), lambda value: f"{100 * value:.1f}")
        for name in names
        if name.startswith(OF_CLASS)
    ]
    measured = [line for line in lines if any(line.values(column.name) for column in columns)]
    rows = [[line.label, *(line.text(column) for column in columns)] for line in measured]
    titles = ["IoU", *(column.title for column in columns)]
    return "\n".join([_row(titles), "|---|" + "---:|" * len(columns), *map(_row, rows)]) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _extra(setting: Setting) -> str:
    given = ", ".join(f"--{key} {value}" for key, value in setting.extra.items())
    return f", {given}" if given else ""


def _differences(setting: Setting, lines: Sequence[Line]) -> list[str]:
    by_label = {line.label: line for line in lines}
    text = []
    members = {row.label: row.members for row in setting.rows}
    for a, b in setting.experiment.pairs(setting.rows):
        if b == BEST_MEMBER and by_label.keys() >= set(members[a]):
            second = best_of([by_label[name] for name in members[a]])
        else:
            second = by_label.get(b, Line(b, {}, 0))
        if a in by_label:
            mean, deviation, count = difference(by_label[a], second)
            if count:
                spread = "" if math.isnan(deviation) else f" ± {_percent(deviation)}"
                text.append(f"| {a} − {b} | {count} | {100 * mean:+.2f}{spread} |")
    return ["", "| mIoU, seed by seed | seeds | difference |", "|---|---:|---:|", *text] if text else []


def as_json(setting: Setting, lines: Sequence[Line], failed: Sequence[CellRecord]) -> dict[str, Any]:
    """Return all figures as plain values."""
    names = list(dict.fromkeys(name for line in lines for figures in line.seeds.values() for name in figures))
    return {
        **setting.identity(),
        "size": list(setting.size),
        "rows": [
            {
                "label": line.label,
                "planned": line.planned,
                "seeds": {str(seed): figures for seed, figures in sorted(line.seeds.items())},
                "keys": {str(seed): key for seed, key in sorted(line.keys.items())},
                "mean": {name: line.mean(name) for name in names if line.values(name)},
                "deviation": {name: line.deviation(name) for name in names if len(line.values(name)) > 1},
            }
            for line in lines
        ],
        "failed": [{"label": r.label, "seed": r.seed, "message": r.message} for r in failed],
    }


def write_table(setting: Setting, lines: Sequence[Line], failed: Sequence[CellRecord]) -> Path:
    """Write `table.md`, `classes.md` and `table.json` into the folder of the grid; returns the first."""
    path = setting.out / "table.md"
    write_whole(setting.out / "classes.md", class_table(lines))
    write_whole(setting.out / "table.json", json.dumps(as_json(setting, lines, failed), indent=1) + "\n")
    write_whole(path, markdown(setting, lines, failed))
    return path
