"""The experiments of the VSPW 2023 challenge's winner."""

from __future__ import annotations

from everyframe.reproduce.experiment import ALL_LABELS, ONE_LABEL, SYSTEMS, Experiment, Overrides, Row, row

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
    """The spatial-temporal contrastive loss over 2 and 4 frames, beside as many frames without it; all labels.

    The published model is Mask2Former on a BEiTv2 adapter; at the small scale OCRNet stands for it.
    """
    recipe = "ocr-tiny" if backbone == "tiny" else "vspw2023-contrastive"

    def trained(label: str, frames: int, weight: float) -> Row:
        return Row(label, recipe, {**ALL_LABELS, "data.queries": frames, "objective.contrastive": weight})

    return (
        trained("1 frame", 1, 0.0),
        trained("2 frames", 2, 0.0),
        trained("2 frames, NCE2", 2, 0.1),
        trained("4 frames", 4, 0.0),
        trained("4 frames, NCE4", 4, 0.1),
    )


CROPS: dict[str, tuple[tuple[int, int], ...]] = {
    "tiny": ((64, 80), (80, 112), (96, 128)),
    "swin-small": ((320, 320), (480, 480), (640, 640)),
}
"""Backbone of the scale -> crops that are compared."""


def crop_size(backbone: str) -> tuple[Row, ...]:
    """One model, crops of several sizes; all labels."""
    return tuple(
        row(f"{height}x{width}", f"ocr-{backbone}", ALL_LABELS, {"data.crop": (height, width)})
        for height, width in CROPS[backbone]
    )


DROPOUT_PLACES = {
    "pixel decoder": "encoder_dropout",
    "decoder, attention": "attention_dropout",
    "decoder, projections": "projection_dropout",
    "decoder, feed-forward": "mlp_dropout",
}
"""Where the published configuration of Mask2Former has a dropout, set to 0 -> option of the head."""


def dropout(backbone: str) -> tuple[Row, ...]:
    """Mask2Former with a dropout of 0.1 at one place or another; the paper used 0.5 and does not say where."""
    model = f"mask2former-{backbone}"
    places = {label: {f"model.head.{name}": 0.1} for label, name in DROPOUT_PLACES.items()}
    return tuple(row(label, model, ALL_LABELS, options) for label, options in {"none": {}, **places}.items())


IMBALANCE: dict[str, Overrides] = {
    "as it is": {},
    "weights, inverse square root": {"objective.class_weights": "inverse-sqrt"},
    "weights, median frequency": {"objective.class_weights": "median-frequency"},
    "weights, effective number": {"objective.class_weights": "effective-number"},
    "repeat factor 0.5": {"data.repeat_threshold": 0.5},
    "rare classes first": {"data.rare_class_temperature": 0.1},
}
"""What is done against rare classes, in training."""

SMOOTHED = {"flow smoothing 0.2": ("--smooth", "0.2"), "flow smoothing 0.4": ("--smooth", "0.4")}
"""What the plain model is scored with once more."""


def other_attempts(backbone: str) -> tuple[Row, ...]:
    """What the winner tried and left out: class weights, rare classes more often, smoothing along flow; all labels."""
    trained = [row(label, f"ocr-{backbone}", ALL_LABELS, options) for label, options in IMBALANCE.items()]
    return (*trained, *(Row(label, "", members=("as it is",), views=words) for label, words in SMOOTHED.items()))


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
    "crop-size": Experiment("crops of several sizes, all labels", crop_size),
    "dropout": Experiment(
        "Mask2Former with a dropout at one place or another, all labels",
        dropout,
        differences=tuple((label, "none") for label in DROPOUT_PLACES),
    ),
    "other-attempts": Experiment(
        "class weights, rare classes more often, smoothing along flow; all labels",
        other_attempts,
        differences=tuple((label, "as it is") for label in (*list(IMBALANCE)[1:], *SMOOTHED)),
    ),
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
