"""The experiments of the VSPW 2023 challenge's winner."""

from __future__ import annotations

from everyframe.reproduce.experiment import ALL_LABELS, ONE_LABEL, SYSTEMS, Experiment, Row, row

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


def multi_dataset(backbone: str) -> tuple[Row, ...]:
    """More data sets, their labels mapped onto the first one's, with one label per video and with all."""
    model = f"ocr-{backbone}"
    return tuple(
        row(f"{labels}, {more}", model, budget, without=without)
        for labels, budget in (("one label", ONE_LABEL), ("all labels", ALL_LABELS))
        for more, without in (("alone", ("data.also",)), ("joined", ()))
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


VSPW2023_EXPERIMENTS: dict[str, Experiment] = {
    "backbones": Experiment("OCRNet on several backbones, one schedule for all", backbones),
    "multi-dataset": Experiment(
        "more data sets, their labels mapped onto the first one's",
        multi_dataset,
        differences=tuple((f"{labels}, joined", f"{labels}, alone") for labels in ("one label", "all labels")),
        needs={"data.also": """'[{"data": "LAYOUT:ROOT", "mapping": "FILE.csv"}]'"""},
    ),
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
