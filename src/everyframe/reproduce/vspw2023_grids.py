"""The experiments of the VSPW 2023 challenge's winner: small networks here, the paper's own in `vspw2023_full`.

The functions take the backbone of the scale: "tiny" is that of the small one.
"""

from __future__ import annotations

from everyframe.reproduce import vspw2023_full as full
from everyframe.reproduce.experiment import (
    ALL_LABELS,
    ONE_LABEL,
    PRIOR,
    REPORT,
    SYSTEMS,
    Experiment,
    Overrides,
    Row,
    row,
)

MASKS: Overrides = {"optimizer.lr": 0.0015, "masks.points": 784}
"""What Mask2Former needs at the small scale: half the rate of its heads of pixels, and points about as dense in crops
of 96x128 as the published 12,544 in 512x512."""

PAIRS: dict[str, tuple[str, str]] = {
    "UperNet, FocalNet": ("uper-tiny", "uper-focalnet-micro"),
    "UperNet, Swin": ("uper-tiny", "uper-swin-micro"),
    "UperNet, InternImage": ("uper-tiny", "uper-internimage-micro"),
    "Mask2Former, ViT-Adapter (plain)": ("mask2former-tiny", "mask2former-vit-adapter-micro"),
    "Mask2Former, ViT-Adapter (BEiT)": ("mask2former-tiny", "mask2former-beit-adapter-micro"),
    "Mask2Former, ViT-Adapter (EVA)": ("mask2former-tiny", "mask2former-eva-adapter-micro"),
}
"""Label -> (recipe, model): the pairs of backbone and head of the paper's table 1, small."""


def backbones(backbone: str) -> tuple[Row, ...]:
    """Table 1 of the winner's report: backbones with the head that each was published with; all labels."""
    if backbone != "tiny":
        return full.backbones()
    return tuple(
        row(label, recipe, ALL_LABELS, {"model.name": name}, MASKS if recipe.startswith("mask2former") else {})
        for label, (recipe, name) in PAIRS.items()
    )


def contrastive(backbone: str) -> tuple[Row, ...]:
    """The spatial-temporal contrastive loss over 2 and 4 frames, beside as many frames without it; all labels.

    The published model is Mask2Former on a BEiTv2 adapter; at the small scale OCRNet stands for it.
    """
    if backbone != "tiny":
        return full.contrastive()

    def trained(label: str, frames: int, weight: float) -> Row:
        return Row(label, "ocr-tiny", {**ALL_LABELS, "data.queries": frames, "objective.contrastive": weight})

    return tuple(trained(label, frames, weight) for label, (frames, weight) in full.FRAMES_AND_LOSS.items())


CROPS = ((64, 80), (80, 112), (96, 128))
"""Crops that are compared at the small scale."""


def crop_size(backbone: str) -> tuple[Row, ...]:
    """One model, crops of several sizes; all labels."""
    if backbone != "tiny":
        return full.crop_size()
    return tuple(
        row(f"{height}x{width}", "ocr-tiny", ALL_LABELS, {"data.crop": (height, width)}) for height, width in CROPS
    )


DROPOUT_PLACES = {
    "pixel decoder": "encoder_dropout",
    "decoder, attention": "attention_dropout",
    "decoder, projections": "projection_dropout",
    "decoder, feed-forward": "mlp_dropout",
}
"""Where the published configuration of Mask2Former has a dropout, set to 0 -> option of the head."""


def dropout(backbone: str) -> tuple[Row, ...]:
    """Mask2Former with a dropout at one place or another, 0.1 of a small network; the paper does not say where."""
    if backbone != "tiny":
        return full.dropout(DROPOUT_PLACES)
    places = {label: {f"model.head.{name}": 0.1} for label, name in DROPOUT_PLACES.items()}
    return tuple(
        row(label, "mask2former-tiny", ALL_LABELS, MASKS, options) for label, options in {"none": {}, **places}.items()
    )


PLAIN = "as it is"
SPECIALIST = "weights, inverse square root"

IMBALANCE: dict[str, Overrides] = {
    PLAIN: {},
    SPECIALIST: {"objective.class_weights": "inverse-sqrt"},
    "weights, median frequency": {"objective.class_weights": "median-frequency"},
    "weights, effective number": {"objective.class_weights": "effective-number"},
    "repeat factor 0.5": {"data.repeat_threshold": 0.5},
    "rare classes first": {"data.rare_class_temperature": 0.1},
}
"""What is done against rare classes, in training."""

VIEWS: dict[str, tuple[str, ...]] = {
    "logit adjustment 0.25": ("--logit-adjustment", "0.25", "--prior", PRIOR),
    "logit adjustment 0.5": ("--logit-adjustment", "0.5", "--prior", PRIOR),
    "flow smoothing 0.2": ("--smooth", "0.2"),
    "flow smoothing 0.4": ("--smooth", "0.4"),
    "flow window of 3": ("--smooth-window", "1"),
    "flow vote of 3": ("--smooth-window", "1", "--smooth-vote"),
}
"""What the plain model is scored with once more."""


ON_WEAK_CLASSES: Overrides = {"data.focus": REPORT, "data.rare_class_temperature": 0.01}
"""A copy of the plain model, trained on to tell its weak classes from each other and from the rest, on clips that show
them. Which are weak is read from the report on the scored videos; how much say the copy gets in them is not."""

SPECIALISTS = ("specialist of rare classes", "specialist of weak classes and rest")


def other_attempts(backbone: str) -> tuple[Row, ...]:
    """What the winner tried and left out; all labels.

    Class weights, rare classes more often, rare classes lifted afterwards, smoothing along flow, and models that are
    asked about rare classes alone: that with class weights, and one that was trained for them.
    """
    weighted, focused = SPECIALISTS
    recipe = f"ocr-{backbone}"
    return (
        *(row(label, recipe, ALL_LABELS, options) for label, options in IMBALANCE.items()),
        *(Row(label, "", members=(PLAIN,), views=words) for label, words in VIEWS.items()),
        Row(weighted, "", members=(PLAIN, SPECIALIST), join="specialists"),
        row(focused, recipe, ALL_LABELS, ON_WEAK_CLASSES, members=(PLAIN,), join="specialists"),
    )


def multi_dataset(backbone: str) -> tuple[Row, ...]:
    """More data sets, their labels mapped onto the first one's, with one label per video and with all."""
    if backbone != "tiny":
        return full.multi_dataset()
    return tuple(
        row(f"{labels}, {more}", "ocr-tiny", budget, **kept)
        for labels, budget in (("one label", ONE_LABEL), ("all labels", ALL_LABELS))
        for more, kept in (("alone", {"without": ("data.also",)}), ("joined", {"needs": full.MORE_DATA}))
    )


def ensemble(backbone: str) -> tuple[Row, ...]:
    """Four models alone, and joined: mean, majority vote, weighted sum of two; all labels."""
    heads = ("OCRNet", "UperNet", "DeepLabv3+", "Segmenter")
    small = tuple(row(label, f"{SYSTEMS[label]}-{backbone}", ALL_LABELS) for label in heads)
    singles = small if backbone == "tiny" else full.members()
    labels = tuple(single.label for single in singles)
    joined = (
        Row("mean of 2", "", members=labels[:2], join="mean"),
        Row("soft sum of 2", "", members=labels[:2], join="soft"),
        Row("mean of 3", "", members=labels[:3], join="mean"),
        Row("vote of 3", "", members=labels[:3], join="vote"),
        Row("mean of 4", "", members=labels, join="mean"),
        Row("vote of 4", "", members=labels, join="vote"),
    )
    return (*singles, *joined)


VSPW2023_EXPERIMENTS: dict[str, Experiment] = {
    "backbones": Experiment("backbones with the head that each was published with, all labels", backbones),
    "crop-size": Experiment("crops of several sizes, all labels", crop_size),
    "dropout": Experiment(
        "Mask2Former with a dropout at one place or another, all labels",
        dropout,
        differences=tuple(
            (label, "none") for label in ("backbone, branches", "backbone, tokens and layers", *DROPOUT_PLACES)
        ),
    ),
    "other-attempts": Experiment(
        "class weights, rare classes more often or lifted afterwards, a specialist, smoothing along flow; all labels",
        other_attempts,
        differences=tuple((label, PLAIN) for label in (*list(IMBALANCE)[1:], *VIEWS, *SPECIALISTS)),
    ),
    "multi-dataset": Experiment(
        "more data sets, their labels mapped onto the first one's",
        multi_dataset,
        differences=tuple((f"{labels}, joined", f"{labels}, alone") for labels in ("one label", "all labels")),
    ),
    "ensemble": Experiment("models joined by mean, vote and weighted sum, beside their members; all labels", ensemble),
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
