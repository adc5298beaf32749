"""What an experiment is: rows, which are trainings, and what is to be compared.

A row of a grid is one training repeated with several seeds; everything it changes stands in its `overrides`, which
`everyframe train RECIPE --KEY VALUE` takes as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Overrides = Mapping[str, Any]

BEST_MEMBER = "the best of its members"
"""In differences: seed by seed the member with the highest mIoU. It is known afterwards only, so what beats it would
have beaten whichever member one had chosen."""

PRIOR = "PRIOR"
"""In `Row.views`: the file that `everyframe data check --json` writes of the training split."""

REPORT = "REPORT"
"""In `Row.overrides` of a row with members: the report of the first of them."""


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: as the table prints it; unique in its experiment.
        recipe: a name of `everyframe.training.recipe_files.recipes`; "" where nothing is trained.
        overrides: dotted options of `everyframe train`; those of the scale come before, these win.
        without: options of the caller that this row leaves out, such as "data.also" in the row without more data.
        loop: options of `everyframe self-train`, which then runs in the place of `everyframe train`.
        members: labels of rows whose models, of the same seed, are joined; with one that this row trains for itself
            from the first of them where it has a recipe.
        join: "mean", "vote", "soft" (each half of the videos with the weight of two members that is best on the other
            half), "specialists" (the first member, and in each class the others, with the say that is best on the other
            half); "" for a single member, which is scored once more.
        imitates: label of a row whose model, of the same seed, the training imitates (`objective.distill_from`).
        views: words of `everyframe evaluate` with which a single member is scored, such as ("--smooth", "0.4"); `PRIOR`
            among them stands for the file of the training split's pixels by class.
        look: how the trained model looks at frames when it is scored, alone or joined: options of
            `everyframe.inference.views.with_views`, such as {"short": 896, "window": 896, "stride": 512}.
        needs: options that the caller must give for this row, with what to write for them.
        fresh: dotted options besides, where the caller gives no model to start from (`--init`).
        x: where the row stands on the horizontal axis of a line plot.
        series: which line of that plot it belongs to.
    """

    label: str
    recipe: str
    overrides: Overrides = field(default_factory=dict)
    without: tuple[str, ...] = ()
    loop: Overrides | None = None
    members: tuple[str, ...] = ()
    join: str = ""
    imitates: str = ""
    views: tuple[str, ...] = ()
    look: Overrides = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)
    fresh: Overrides = field(default_factory=dict)
    x: float | None = None
    series: str = ""

    def __post_init__(self) -> None:
        if self.members and self.imitates:
            raise ValueError(f"{self.label}: expected members or a row to imitate, came both")

    @property
    def asks(self) -> tuple[str, ...]:
        """Labels of the rows whose models must be there first."""
        return (*self.members, self.imitates) if self.imitates else self.members

    @property
    def slug(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.label.lower().replace("+", " plus ")).strip("-")


@dataclass(frozen=True)
class Scale:
    """How large an experiment is run.

    Attributes:
        backbone: last part of the names of recipes and models.
        overrides: options of every training.
    """

    backbone: str
    overrides: Overrides = field(default_factory=dict)


SCALES: dict[str, Scale] = {
    "small": Scale(
        "tiny",
        {
            "steps": 1200,
            "save_every": 400,
            "data.val_split": None,  # `evaluate` scores the last step, once
            "data.crop": (96, 128),
            "data.scale": (0.75, 1.5),
            "data.photometric": False,  # costs a network of this size more than it gains in so short a time
            "data.batch_size": 4,
            "data.workers": 0,
            "optimizer.lr": 0.003,
            "teacher.momentum": 0.98,  # 0.999 is for tens of thousands of steps: of 1200, it would average them all
            "teacher.threshold": 0.7,  # at 0.9 it teaches what the student knows already
            "teacher.cutmix": 1.0,
            "teacher.validate_student": False,
        },
    ),
    "full": Scale("swin-small"),
}
"""small: table1 within three hours on two CPU cores (docs/reproduce.md has the arithmetic). full: as published."""


@dataclass(frozen=True)
class Experiment:
    """One experiment of a paper.

    Attributes:
        title: one line.
        rows: backbone -> the rows.
        differences: pairs (a, b) of labels; mIoU of a minus that of b, paired by seed, is printed below the table. Rows
            of several models are compared with their members besides, see `pairs`.
        axis: what `Row.x` means, for experiments that are drawn as lines.
        noisy: whether frames whose classes differ from the reference's are scored apart from the others.
        video: labels of two rows whose predictions are written side by side as a video.
    """

    title: str
    rows: Callable[[str], tuple[Row, ...]]
    differences: tuple[tuple[str, str], ...] = ()
    axis: str | None = None
    noisy: bool = False
    video: tuple[str, str] | None = None

    def pairs(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Return the differences between these rows: `differences`, and joined rows against `BEST_MEMBER` and members.

        A label of another scale is left out.
        """
        labels = {row.label for row in rows}
        pairs = [pair for pair in self.differences if labels.issuperset(pair)]
        for row in rows:
            if row.join in ("mean", "vote", "soft"):
                pairs += [(row.label, BEST_MEMBER), *((row.label, member) for member in row.members)]
        return pairs


ONE_LABEL: Overrides = MappingProxyType({"data.budget": 1})
ALL_LABELS: Overrides = MappingProxyType({"data.budget": "all"})
TEACHER: Overrides = MappingProxyType({"teacher.weight": 1.0})

SYSTEMS: dict[str, str] = {
    "DeepLabv3+": "deeplab",
    "UperNet": "uper",
    "PSPNet": "psp",
    "OCRNet": "ocr",
    "Segmenter": "segmenter",
    "ETC": "etc-ocr",
    "NetWarp": "netwarp-ocr",
    "TCB-PPM": "tcb-psp",
    "TCB-OCR": "tcb-ocr",
    "TCB-OCR with memory": "tcb-ocr-memory",
    "SSLTM": "ssltm",
}
"""Label -> system of the zoo: the rows of table 1."""


def row(label: str, model: str, *overrides: Overrides, **more: Any) -> Row:
    """Return the row that trains `model` by its own recipe."""
    return Row(label, model, {key: value for part in overrides for key, value in part.items()}, **more)
