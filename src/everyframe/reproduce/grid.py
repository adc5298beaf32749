"""The experiments as data: which trainings, on which recipes, with which options, and what is to be compared.

A row of a grid is one training repeated with several seeds; everything it changes stands in its `overrides`, which
`everyframe train RECIPE --KEY VALUE` takes as they are. `EXPERIMENTS` holds them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from everyframe.errors import InputError

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        label: as the table prints it; unique in its experiment.
        recipe: a name of `everyframe.training.recipe.recipes`.
        overrides: dotted options of `everyframe train`; those of the scale come before, these win.
        loop: options of `everyframe self-train`, which then runs in the place of `everyframe train`.
        members: labels of rows whose models, of the same seed, are joined; nothing is trained then, and `recipe` is "".
        join: "mean", "vote", or "soft" (the weight of two members that is best on the split, see `sweep`).
        x: where the row stands on the horizontal axis of a line plot.
        series: which line of that plot it belongs to.
    """

    label: str
    recipe: str
    overrides: Overrides = field(default_factory=dict)
    loop: Overrides | None = None
    members: tuple[str, ...] = ()
    join: str = ""
    x: float | None = None
    series: str = ""

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
            "steps": 600,
            "save_every": 200,
            "data.val_split": None,  # `evaluate` scores the last step, once
            "data.crop": (96, 128),
            "data.scale": (0.75, 1.5),
            "data.photometric": False,  # costs a network of this size more than it gains within 600 steps
            "data.batch_size": 4,
            "data.workers": 0,
            "optimizer.lr": 0.003,
            "teacher.momentum": 0.98,  # 0.999 is for tens of thousands of steps: of 600, it would average them all
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
        differences: pairs (a, b) of labels; mIoU of a minus that of b, paired by seed, is printed below the table.
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

BORROWED: dict[str, str] = {"psp-tiny": "ocr-tiny", "tcb-ocr-memory-tiny": "tcb-ocr-tiny"}
"""Models without a recipe of their own -> whose recipe trains them."""


def row(label: str, model: str, *overrides: Overrides, **more: Any) -> Row:
    """Return the row that trains `model` by its own recipe, or by the one of `BORROWED`."""
    named: Overrides = {"model.name": model} if model in BORROWED else {}
    joined = {key: value for part in (named, *overrides) for key, value in part.items()}
    return Row(label, BORROWED.get(model, model), joined, **more)


# -- SSLTM (CVPR 2023) -----------------------------------------------------------------------------------------------


def table1(backbone: str) -> tuple[Row, ...]:
    """Table 1: every system from one label per video, with and without Mean Teacher; and with all labels."""
    rows = [row(label, f"{system}-{backbone}", ONE_LABEL) for label, system in SYSTEMS.items()]
    rows += [
        row(f"{label}, Mean Teacher", f"{system}-{backbone}", ONE_LABEL, TEACHER) for label, system in SYSTEMS.items()
    ]
    rows += [row(f"{label}, all labels", f"{SYSTEMS[label]}-{backbone}", ALL_LABELS) for label in ("OCRNet", "SSLTM")]
    return tuple(rows)


def gcc(backbone: str) -> tuple[Row, ...]:
    """Fig. 1: prototypes per class and how they move; without any as the baseline."""
    model = f"ssltm-{backbone}"
    rows = [row("no prototypes", model, ONE_LABEL, {"model.temporal.prototypes": 0})]
    for update in ("mse", "ema"):
        for count in range(1, 6):
            options = {"model.temporal.prototypes": count, "model.temporal.update": update}
            rows.append(row(f"K={count}, {update.upper()}", model, ONE_LABEL, options, x=count, series=update.upper()))
    return tuple(rows)


def reference_distance(backbone: str) -> tuple[Row, ...]:
    """Fig. 4a: how far from the query the reference frame of training lies; at test it is the first frame."""
    return tuple(
        row(f"{d} frames", f"ssltm-{backbone}", ONE_LABEL, {"data.reference": d}, x=d, series="SSLTM")
        for d in range(0, 90, 10)
    )


def noisy_reference(backbone: str) -> tuple[Row, ...]:
    """Fig. 4b: contexts of the query, of the reference, of the reference and the prototypes."""
    contexts = {"QFCE": ("query", 0), "RFCE": ("reference", 0), "RFCE+GCC": ("reference", 3)}
    return tuple(
        row(
            label,
            f"ssltm-{backbone}",
            ONE_LABEL,
            {"model.temporal.context": context, "model.temporal.prototypes": count},
        )
        for label, (context, count) in contexts.items()
    )


def mean_teacher_vs_iterative(backbone: str) -> tuple[Row, ...]:
    """Fig. 3: a teacher inside one run, against teacher, label maps on disk, student."""
    rows: list[Row] = []
    for label in ("OCRNet", "SSLTM"):
        model = f"{SYSTEMS[label]}-{backbone}"
        rows += [
            row(f"{label}, labels alone", model, ONE_LABEL),
            row(f"{label}, Mean Teacher", model, ONE_LABEL, TEACHER),
            row(f"{label}, iterative, 1 round", model, ONE_LABEL, loop={"rounds": 1}),
            row(f"{label}, iterative, 2 rounds", model, ONE_LABEL, loop={"rounds": 2}),
            row(f"{label}, all labels", model, ALL_LABELS),
        ]
    return tuple(rows)


def stt(backbone: str) -> tuple[Row, ...]:
    """Fig. 2: with and without the spatial-temporal transformer."""
    model = f"ssltm-{backbone}"
    return (
        row("without STT", model, ONE_LABEL, {"model.temporal.depth": 0}),
        row("with STT", model, ONE_LABEL),
    )


# -- the VSPW 2023 challenge -------------------------------------------------------------------------------------------

BACKBONES: dict[str, tuple[str, ...]] = {
    "tiny": ("tiny", "resnet18"),
    "swin-small": ("resnet50", "resnet101", "swin-tiny", "swin-small", "swin-base", "convnext-small", "convnext-base"),
}
"""Backbone of the scale -> those that are compared, all under OCRNet with the recipe of the scale's own."""


def backbones(backbone: str) -> tuple[Row, ...]:
    """OCRNet on several backbones, one schedule for all."""
    return tuple(
        Row(name, f"ocr-{backbone}", {**ONE_LABEL, "model.name": f"ocr-{name}"}) for name in BACKBONES[backbone]
    )


def contrastive(backbone: str) -> tuple[Row, ...]:
    """The spatial-temporal contrastive loss over 2 and 4 frames, beside as many frames without it; all labels."""

    def trained(label: str, frames: int, weight: float) -> Row:
        return row(label, f"ocr-{backbone}", ALL_LABELS, {"data.queries": frames, "objective.contrastive": weight})

    return (
        trained("1 frame", 1, 0.0),
        trained("2 frames", 2, 0.0),
        trained("2 frames, NCE2", 2, 0.1),
        trained("4 frames", 4, 0.0),
        trained("4 frames, NCE4", 4, 0.1),
    )


def ensemble(backbone: str) -> tuple[Row, ...]:
    """Four heads alone, and joined: mean, majority vote, weighted sum of two; all labels."""
    labels = ("OCRNet", "UperNet", "DeepLabv3+", "Segmenter")
    singles = [row(label, f"{SYSTEMS[label]}-{backbone}", ALL_LABELS) for label in labels]
    joined = [
        Row("mean of 2", "", members=labels[:2], join="mean"),
        Row("soft sum of 2, best tau", "", members=labels[:2], join="soft"),
        Row("mean of 3", "", members=labels[:3], join="mean"),
        Row("vote of 3", "", members=labels[:3], join="vote"),
        Row("mean of 4", "", members=labels, join="mean"),
        Row("vote of 4", "", members=labels, join="vote"),
    ]
    return (*singles, *joined)


EXPERIMENTS: dict[str, Experiment] = {
    "table1": Experiment(
        "every system from one label per video, with and without Mean Teacher, beside all labels",
        table1,
        differences=(
            *(("SSLTM", label) for label in SYSTEMS if label != "SSLTM"),
            ("SSLTM, Mean Teacher", "SSLTM"),
            ("SSLTM, Mean Teacher", "SSLTM, all labels"),
            ("OCRNet, Mean Teacher", "OCRNet, all labels"),
        ),
    ),
    "gcc": Experiment(
        "global category context: K prototypes a class, moved by a loss (MSE) or averaged (EMA)",
        gcc,
        differences=(
            *((f"K={k}, MSE", f"K={k}, EMA") for k in range(1, 6)),
            ("K=3, MSE", "no prototypes"),
        ),
        axis="prototypes per class",
    ),
    "reference-distance": Experiment(
        "distance of the reference frame from the query in training",
        reference_distance,
        differences=(("80 frames", "0 frames"),),
        axis="frames between query and reference",
    ),
    "noisy-reference": Experiment(
        "references that hold the query's classes (clean) and others (noisy)",
        noisy_reference,
        differences=(("RFCE", "QFCE"), ("RFCE+GCC", "RFCE")),
        noisy=True,
    ),
    "mean-teacher-vs-iterative": Experiment(
        "a teacher inside one run against pseudo-labels on disk: mIoU, hours, bytes",
        mean_teacher_vs_iterative,
        differences=tuple(
            (f"{label}, Mean Teacher", f"{label}, {other}")
            for label in ("OCRNet", "SSLTM")
            for other in ("labels alone", "iterative, 1 round", "iterative, 2 rounds", "all labels")
        ),
    ),
    "stt": Experiment(
        "the spatial-temporal transformer, with a video side by side",
        stt,
        differences=(("with STT", "without STT"),),
        video=("without STT", "with STT"),
    ),
    "backbones": Experiment("OCRNet on several backbones, one schedule for all", backbones),
    "ensemble": Experiment(
        "models joined by mean, vote and weighted sum, beside their members; all labels",
        ensemble,
        differences=tuple(
            (joined, member)
            for joined, members in {
                "mean of 2": ("OCRNet", "UperNet"),
                "mean of 3": ("OCRNet", "UperNet", "DeepLabv3+"),
                "vote of 3": ("OCRNet", "UperNet", "DeepLabv3+"),
                "mean of 4": ("OCRNet", "UperNet", "DeepLabv3+", "Segmenter"),
                "vote of 4": ("OCRNet", "UperNet", "DeepLabv3+", "Segmenter"),
            }.items()
            for member in members
        ),
    ),
    "contrastive": Experiment(
        "the spatial-temporal contrastive loss over 2 and 4 frames, all labels",
        contrastive,
        differences=(
            ("2 frames, NCE2", "2 frames"),
            ("4 frames, NCE4", "4 frames"),
            ("2 frames, NCE2", "1 frame"),
            ("4 frames, NCE4", "1 frame"),
        ),
    ),
}
"""Name of `everyframe reproduce NAME` -> experiment."""


def find(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises:
        InputError: there is none; the message lists them.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"no experiment {name!r}; expected one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]
