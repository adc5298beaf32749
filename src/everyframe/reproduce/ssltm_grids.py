"""The experiments of SSLTM (Lao et al., CVPR 2023, and its supplement)."""

from __future__ import annotations

from everyframe.reproduce.experiment import ALL_LABELS, ONE_LABEL, SYSTEMS, TEACHER, Experiment, Overrides, Row, row


def table1(backbone: str) -> tuple[Row, ...]:
    """Table 1: every system from one label per video, with and without Mean Teacher; and with all labels."""
    rows = [row(label, f"{system}-{backbone}", ONE_LABEL) for label, system in SYSTEMS.items()]
    rows += [
        row(f"{label}, Mean Teacher", f"{system}-{backbone}", ONE_LABEL, TEACHER) for label, system in SYSTEMS.items()
    ]
    rows += [row(f"{label}, all labels", f"{SYSTEMS[label]}-{backbone}", ALL_LABELS) for label in ("OCRNet", "SSLTM")]
    return tuple(rows)


SSLTM_DEFAULTS: Overrides = {
    "model.temporal.context": "reference",
    "model.temporal.prototypes": 3,
    "model.temporal.update": "mse",
}
"""What the recipes of SSLTM leave as it is: a row that sets nothing else is SSLTM in `table1` and shares its cells."""


def _beyond_defaults(options: Overrides) -> Overrides:
    return {key: value for key, value in options.items() if value != SSLTM_DEFAULTS[key]}


def gcc(backbone: str) -> tuple[Row, ...]:
    """Fig. 1: prototypes per class and how they move; without any as the baseline."""
    model = f"ssltm-{backbone}"
    rows = [row("no prototypes", model, ONE_LABEL, {"model.temporal.prototypes": 0})]
    for update in ("mse", "ema"):
        for count in range(1, 6):
            options = _beyond_defaults({"model.temporal.prototypes": count, "model.temporal.update": update})
            rows.append(row(f"K={count}, {update.upper()}", model, ONE_LABEL, options, x=count, series=update.upper()))
    return tuple(rows)


def reference_distance(backbone: str) -> tuple[Row, ...]:
    """Fig. 4a: how far from the query the reference frame of training lies; at test it is the first frame."""
    return tuple(
        row(f"{d} frames", f"ssltm-{backbone}", ONE_LABEL, {"data.reference": d}, x=d, series="SSLTM")
        for d in range(0, 90, 10)
    )


def noisy_reference(backbone: str) -> tuple[Row, ...]:
    """Fig. 4b: contexts of the query, of the reference, of both (ours), of the reference and the prototypes."""
    contexts = {"QFCE": ("query", 0), "RFCE": ("reference", 0), "QFCE+RFCE": ("both", 0), "RFCE+GCC": ("reference", 3)}
    return tuple(
        row(
            label,
            f"ssltm-{backbone}",
            ONE_LABEL,
            _beyond_defaults({"model.temporal.context": context, "model.temporal.prototypes": count}),
        )
        for label, (context, count) in contexts.items()
    )


ITERATIVE: dict[str, Overrides] = {
    "1 round": {"rounds": 1},
    "1 round, every pixel": {"rounds": 1, "threshold": 0.0},
    "2 rounds": {"rounds": 2},
}
"""Pseudo-labels from a probability of 0.9 on, or everywhere, as in Naive-Student (Chen et al., ECCV 2020)."""


def mean_teacher_vs_iterative(backbone: str) -> tuple[Row, ...]:
    """Fig. 3: a teacher inside one run, against teacher, label maps on disk, student."""
    rows: list[Row] = []
    for label in ("OCRNet", "SSLTM"):
        model = f"{SYSTEMS[label]}-{backbone}"
        rows += [
            row(f"{label}, labels alone", model, ONE_LABEL),
            row(f"{label}, Mean Teacher", model, ONE_LABEL, TEACHER),
            *(row(f"{label}, iterative, {way}", model, ONE_LABEL, loop=loop) for way, loop in ITERATIVE.items()),
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


def table2(backbone: str) -> tuple[Row, ...]:
    """Table 2: the methods of the paper's Cityscapes table, here on one ground and one backbone."""
    edges = {"objective.edges": 0.3, "objective.edge_attention": 0.1}
    relaxed = {"objective.cross_entropy_form": "relaxed", "objective.rare_classes": 1.0}
    moved: Overrides = {"rounds": 0, "propagate": 5}
    refined: Overrides = {"rounds": 1, "threshold": 0.0, "labels": "refined", "reach": 5}
    return (
        row("DeepLabv3+", f"deeplab-{backbone}", ONE_LABEL),
        row("DeepLabv3+, moved labels, relaxed borders", f"deeplab-{backbone}", ONE_LABEL, relaxed, loop=moved),
        row("Panoptic-DeepLab", f"panoptic-deeplab-{backbone}", ONE_LABEL),
        row(
            "Panoptic-DeepLab, Naive-Student", f"panoptic-deeplab-{backbone}", ONE_LABEL,
            loop=ITERATIVE["1 round, every pixel"],
        ),
        row("OCRNet", f"ocr-{backbone}", ONE_LABEL),
        row("OCRNet, multi-scale attention", f"hmsa-ocr-{backbone}", ONE_LABEL),
        row("OCRNet, Warp-Refine", f"ocr-{backbone}", ONE_LABEL, loop=refined),
        row("OCRNet, edges", f"ocr-{backbone}", ONE_LABEL, edges),
        row("SSLTM, Mean Teacher", f"ssltm-{backbone}", ONE_LABEL, TEACHER),
    )  # fmt: skip


SSLTM_EXPERIMENTS: dict[str, Experiment] = {
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
    "table2": Experiment(
        "the methods of SSLTM's Cityscapes table, one label per video",
        table2,
        differences=(
            ("DeepLabv3+, moved labels, relaxed borders", "DeepLabv3+"),
            ("Panoptic-DeepLab, Naive-Student", "Panoptic-DeepLab"),
            *((f"OCRNet, {more}", "OCRNet") for more in ("multi-scale attention", "Warp-Refine", "edges")),
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
        differences=(("RFCE", "QFCE"), ("QFCE+RFCE", "QFCE"), ("QFCE+RFCE", "RFCE"), ("RFCE+GCC", "RFCE")),
        noisy=True,
    ),
    "mean-teacher-vs-iterative": Experiment(
        "a teacher inside one run against pseudo-labels on disk: mIoU, hours, bytes",
        mean_teacher_vs_iterative,
        differences=tuple(
            (f"{label}, Mean Teacher", f"{label}, {other}")
            for label in ("OCRNet", "SSLTM")
            for other in ("labels alone", *(f"iterative, {way}" for way in ITERATIVE), "all labels")
        ),
    ),
    "stt": Experiment(
        "the spatial-temporal transformer, with a video side by side",
        stt,
        differences=(("with STT", "without STT"),),
        video=("without STT", "with STT"),
    ),
}
