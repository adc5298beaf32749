"""What `everyframe data check` found: as plain values for JSON, and as tables for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from everyframe.data.findings import Finding
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace
from everyframe.metrics.results_text import counted

SHOWN = 5
"""Files printed with each problem; the JSON holds them all."""
SHOWN_NAMES = 20
"""Names of videos printed that the rule holds out; the JSON holds them all."""


@dataclass(slots=True)
class SplitCount:
    """Videos, frames and labels of one split.

    Attributes:
        labels_per_video: labelled frames of each video, in the order of the split.
        pixels: train id -> pixels in its masks; 255 = left out.
        masks: train id -> masks in which it occurs.
    """

    frames: int = 0
    labels_per_video: list[int] = field(default_factory=list)
    pixels: Counter[int] = field(default_factory=Counter)
    masks: Counter[int] = field(default_factory=Counter)

    @property
    def labelled(self) -> int:
        """Number of labelled frames."""
        return sum(self.labels_per_video)


@dataclass(slots=True)
class CheckReport:
    """The result of a check.

    Attributes:
        layout: name of the layout.
        root: folder of the data set.
        space: label space, None when it could not be read.
        splits: what each split holds.
        kinds: kind of mask file ("palette", "grey", "RGB", ...) -> how many.
        unknown: raw id or colour outside the class table -> pixels.
        findings: all problems, errors first.
        held_out: names of the videos of val where the rule of `pick_split` chose them, and no list did.
    """

    layout: str
    root: Path
    space: LabelSpace | None = None
    splits: dict[str, SplitCount] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """Problems with which training would stop or be wrong."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """What is left out or looks odd."""
        return [finding for finding in self.findings if finding.level == "warning"]

    @property
    def ok(self) -> bool:
        """Whether training on this data would be right."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the lists of files are complete."""
        names = self.space.names if self.space else ()
        return {
            "layout": self.layout,
            "root": str(self.root),
            "ok": self.ok,
            "label_space": self.space.to_dict() if self.space else None,
            "splits": {
                split: {
                    "videos": len(count.labels_per_video),
                    "frames": count.frames,
                    "labelled_frames": count.labelled,
                    "labels_per_video": count.labels_per_video,
                    "pixels": {name: count.pixels[train] for train, name in enumerate(names)},
                    "masks": {name: count.masks[train] for train, name in enumerate(names)},
                    "ignored_pixels": count.pixels[IGNORE],
                }
                for split, count in self.splits.items()
            },
            "held_out_by_rule": self.held_out,
            "mask_kinds": dict(self.kinds),
            "unknown_pixels": dict(self.unknown),
            "errors": [finding.to_dict() for finding in self.errors],
            "warnings": [finding.to_dict() for finding in self.warnings],
        }


def print_report(report: CheckReport, console: Console) -> None:
    """Print splits, classes, problems and the verdict."""
    classes = counted(len(report.space), "class", "classes") if report.space else "no classes"
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.kinds.most_common())
    # Without classes nothing is listed, so that nothing is known about masks either.
    noun = "mask" if report.kinds.total() == 1 else "masks"
    masks = f", {kinds or 'no'} {noun}" if report.space else ""
    console.print(f"[bold]{escape(str(report.root))}[/]  layout {report.layout}, {classes}{masks}")
    if report.splits:
        console.print(_split_table(report))
    if report.held_out:
        console.print(f"val (held out by rule): {escape(_some(report.held_out))}", soft_wrap=True, highlight=False)
    if report.space is not None and any(count.labelled for count in report.splits.values()):
        console.print(_class_table(report, report.space))
    for finding in report.findings:
        _print_finding(finding, console)
    verdict = "[green]fit for training[/]" if report.ok else "[red]training would be wrong[/]"
    console.print(f"{verdict}: {counted(len(report.errors), 'error')}, {counted(len(report.warnings), 'warning')}")


def _some(names: list[str]) -> str:
    more = f", ... {len(names)} in all (see --json)" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def _split_table(report: CheckReport) -> Table:
    table = Table("split", *(_right(name) for name in ("videos", "frames", "labelled", "labelled per video")))
    for split, count in report.splits.items():
        per_video = count.labels_per_video
        spread = f"{min(per_video)} / {median(per_video):g} / {max(per_video)}" if per_video else "-"
        table.add_row(split, str(len(per_video)), str(count.frames), str(count.labelled), spread)
    table.caption = "labelled per video: fewest / median / most"
    return table


def _class_table(report: CheckReport, space: LabelSpace) -> Table:
    # The numbers never wrap, so at 80 columns three splits fit beside a class name; SIMPLE spends no width on lines.
    table = Table("class", _right("id"), _right("raw"), box=box.SIMPLE, padding=(0, 1, 0, 0))
    labelled = {split: count for split, count in report.splits.items() if count.labelled}
    for split in labelled:
        table.add_column(f"{split} %", justify="right", no_wrap=True)
        table.add_column("masks", justify="right", no_wrap=True)
    table.caption = "id: train id; raw: ids in the files; %: share of the pixels with a known id; masks that show it"
    raw_ids: dict[int, list[int]] = {}
    for raw, train in sorted(space.raw_to_train.items()):
        raw_ids.setdefault(train, []).append(raw)
    for train in [*range(len(space)), IGNORE]:
        name = "(left out)" if train == IGNORE else escape(space.names[train])
        row = [name, str(train), _ids(raw_ids.get(train, []))]
        for count in labelled.values():
            share = count.pixels[train] / max(1, sum(count.pixels.values()))
            row += [_percent(share), str(count.masks[train])]
        table.add_row(*row, style=None if any(c.masks[train] for c in labelled.values()) else "dim")
    return table


def _print_finding(finding: Finding, console: Console) -> None:
    mark = "[red]error[/]  " if finding.level == "error" else "[yellow]warning[/]"
    fix = f"; {finding.fix}" if finding.fix else ""
    number = f" [{len(finding.files)} files]" if len(finding.files) > 1 else ""
    console.print(f"{mark} {escape(finding.what)}{escape(number)}{escape(fix)}", soft_wrap=True)
    for file in finding.files[:SHOWN]:
        console.print(f"          {escape(file)}", soft_wrap=True, highlight=False)
    if len(finding.files) > SHOWN:
        console.print(f"          ... and {len(finding.files) - SHOWN} more (all in --json)", highlight=False)


def _right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")


def _ids(ids: list[int]) -> str:
    return ", ".join(map(str, ids)) if len(ids) <= 4 else f"{ids[0]}, {ids[1]}, ... {ids[-1]}"


def _percent(share: float) -> str:
    return "-" if share == 0 else f"{100 * share:.2f}" if share >= 0.00005 else "<0.01"
