"""The rows of the VSPW 2023 winner's experiments at full scale: the paper's own models, by the recipes `vspw2023-*`.

Losses and their weights, optimiser, schedule and augmentation stand in the recipes alone; a row says what it changes of
them. The paper trained the contrastive model on 2 GPUs with one clip of 2 frames each, the model of many data sets on 6
with one image each: `--trainer.devices` is the caller's.
"""

from __future__ import annotations

from typing import Any

from everyframe.reproduce.experiment import ALL_LABELS, ONE_LABEL, Overrides, Row, row

CONTRASTIVE, MULTI_DATASET = "vspw2023-contrastive", "vspw2023-multi-dataset"

NOT_TRAINED: dict[str, str] = {
    "vspw2023-contrastive-tiny": "the small scale trains OCRNet, at a fifth of the time and level with it",
    "vspw2023-multi-dataset-tiny": "the small scale trains OCRNet, at a fifth of the time and level with it",
}
"""Recipe of the family that no experiment trains -> why."""

PLAIN: Overrides = {"data.queries": 1, "objective.contrastive": 0.0}
"""The contrastive recipe without its loss: the paper's Mask2Former on BEiTv2-L, 480 crop."""

MORE_DATA = {"data.also": """'[{"data": "LAYOUT:ROOT", "mapping": "FILE.csv"}]'"""}
"""What rows of many data sets need of the caller: COCO-Stuff in the paper."""

STRIDES = {480: 320, 640: 426, 896: 512}
"""Crop -> stride of the published sliding windows."""


FRESH: Overrides = {"optimizer.layer_decay_form": "corrected"}
"""Without `--init` the head's queries and classes are new: the published layer decay, made for heads trained on
COCO-Stuff and ADE20K, would hold them at 0.07 of the rate."""


def at(crop: int) -> Overrides:
    """How models of a crop are tested: frames with that short side, windows of the crop."""
    return {"short": crop, "window": crop, "stride": STRIDES[crop]}


def mask_row(label: str, recipe: str, *overrides: Overrides, **more: Any) -> Row:
    """Return a row that trains Mask2Former by one of the two recipes."""
    return row(label, recipe, *overrides, fresh=FRESH, **more)


def contrastive_row(label: str, frames: int, weight: float, without: tuple[str, ...] = ()) -> Row:
    """Return a row that trains on clips of so many frames."""
    changed = {"data.queries": frames, "objective.contrastive": weight}
    return mask_row(label, CONTRASTIVE, ALL_LABELS, changed, without=without, look=at(480))


FRAMES_AND_LOSS: dict[str, tuple[int, float]] = {
    "1 frame": (1, 0.0),
    "2 frames": (2, 0.0),
    "2 frames, NCE2": (2, 0.1),
    "4 frames": (4, 0.0),
    "4 frames, NCE4": (4, 0.1),
}
"""Label -> (frames of a clip, weight of the contrastive loss): the rows of `contrastive` at either scale."""


def backbones() -> tuple[Row, ...]:
    """Table 1: each backbone under the head that it was published with.

    The weights of InternImage-XL and EVA-g cannot be downloaded by name: convert them and train with `--init`.
    """
    eva = {**PLAIN, "model.name": "mask2former-eva-adapter-giant", "model.pretrained": False}
    return (
        row("UperNet, FocalNet-B", "uper-focalnet-base", ALL_LABELS),
        row("UperNet, Swin-L", "uper-swin-large", ALL_LABELS),
        row("UperNet, InternImage-XL", "uper-internimage-xl", ALL_LABELS),
        mask_row("Mask2Former, EVA-g adapter", CONTRASTIVE, ALL_LABELS, eva, look=at(480)),
        contrastive_row("Mask2Former, BEiTv2-L adapter", 1, 0.0),
    )


def contrastive() -> tuple[Row, ...]:
    """Table 3: NCE2 and NCE4, beside as many frames without the loss."""
    return tuple(contrastive_row(label, *trained) for label, trained in FRAMES_AND_LOSS.items())


def crop_size() -> tuple[Row, ...]:
    """The model of 896 crops with smaller ones; each is tested at the size that it was trained at."""
    return tuple(
        mask_row(
            f"{crop}x{crop}", MULTI_DATASET, ALL_LABELS,
            {"data.crop": crop, "data.base": crop, "model.backbone.size": crop}, look=at(crop),
        )
        for crop in STRIDES
    )  # fmt: skip


def dropout(places: dict[str, str]) -> tuple[Row, ...]:
    """0.5, the paper's figure, at one place or another; "none" keeps ViT-Adapter's own 0.3 of branches.

    Args:
        places: label -> option of the head.
    """
    own = {**PLAIN, "model.backbone.drop_path": 0.3}
    options: dict[str, Overrides] = {
        "none": own,
        "backbone, branches": {**PLAIN, "model.backbone.drop_path": 0.5},
        "backbone, tokens and layers": {**own, "model.backbone.dropout": 0.5},
        **{label: {**own, f"model.head.{name}": 0.5} for label, name in places.items()},
    }
    return tuple(mask_row(label, CONTRASTIVE, ALL_LABELS, changed, look=at(480)) for label, changed in options.items())


def multi_dataset() -> tuple[Row, ...]:
    """VSPW alone and joined with more data sets, from one label per video and from all."""
    return tuple(
        mask_row(f"{labels}, {more}", MULTI_DATASET, budget, look=at(896), **kept)
        for labels, budget in (("one label", ONE_LABEL), ("all labels", ALL_LABELS))
        for more, kept in (("alone", {"without": ("data.also",)}), ("joined", {"needs": MORE_DATA}))
    )


def members() -> tuple[Row, ...]:
    """What is joined, the pair of the paper's soft sum first: tau weighs the contrastive model."""
    alone = ("data.also",)
    return (
        contrastive_row("contrastive, 2 frames", 2, 0.1, alone),
        mask_row("many data sets", MULTI_DATASET, ALL_LABELS, needs=MORE_DATA, look=at(896)),
        contrastive_row("contrastive, 4 frames", 4, 0.1, alone),
        contrastive_row("1 frame", 1, 0.0, alone),
    )
