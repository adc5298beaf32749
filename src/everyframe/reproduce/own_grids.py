"""Experiments of our own: what helps to choose a model, or where its labels come from."""

from __future__ import annotations

from everyframe.reproduce.experiment import ALL_LABELS, ONE_LABEL, TEACHER, Experiment, Overrides, Row, row

HEADS = {"FCN": "fcn", "OCRNet": "ocr", "UperNet": "uper"}
"""Label -> head."""


def temporal(backbone: str) -> tuple[Row, ...]:
    """Heads alone, with a recurrent memory, and with SSLTM's temporal module, from one label per video."""
    rows: list[Row] = []
    for label, head in HEADS.items():
        recipe = f"{'uper' if head == 'fcn' else head}-{backbone}"  # an FCN trains as UperNet does
        name = {"model.name": f"fcn-{backbone}"} if head == "fcn" else {}
        rows += [
            row(label, recipe, ONE_LABEL, name),
            row(f"{label}, GRU", recipe, ONE_LABEL, {"model.name": f"{head}-gru-{backbone}"}),
        ]
        if head == "ocr":  # the SSLTM of the paper
            rows.append(row(f"{label}, SSLTM", f"ssltm-{backbone}", ONE_LABEL))
        else:
            rows.append(row(f"{label}, SSLTM", recipe, ONE_LABEL, {"model.name": f"{head}-ssltm-{backbone}"}))
    return tuple(rows)


LABEL_SOURCES: dict[str, Overrides] = {
    "labels moved": {"rounds": 0, "propagate": 5},
    "moved and filled": {"rounds": 1, "threshold": 0.0, "labels": "filled", "reach": 5},
    "moved and refined": {"rounds": 1, "threshold": 0.0, "labels": "refined", "reach": 5},
    "predicted": {"rounds": 1, "threshold": 0.0},
}
"""Row -> options of `everyframe self-train`: Zhu et al. (CVPR 2019); warp-inpaint and Warp-Refine (Ganeshan et al.,
ICCV 2021); Naive-Student (Chen et al., ECCV 2020)."""


def label_sources(backbone: str) -> tuple[Row, ...]:
    """Label maps for the frames around labelled ones, by flow, by a model, by both; beside labels alone and all."""
    model = f"ocr-{backbone}"
    return (
        row("labels alone", model, ONE_LABEL),
        *(row(label, model, ONE_LABEL, loop=loop) for label, loop in LABEL_SOURCES.items()),
        row("Mean Teacher", model, ONE_LABEL, TEACHER),
        row("all labels", model, ALL_LABELS),
    )


IMITATING: dict[str, Overrides] = {"distillation alone": {"objective.motion": 0.0}, "motion and distillation": {}}
"""Row of ETC -> options; its three distillation losses have their default weights."""


def distillation(backbone: str) -> tuple[Row, ...]:
    """ETC (Liu et al., ECCV 2020): OCRNet, with the motion loss, and imitating a better model of single frames."""
    model = f"etc-ocr-{backbone}"
    return (
        row("UperNet", f"uper-{backbone}", ONE_LABEL),
        row("OCRNet", f"ocr-{backbone}", ONE_LABEL),
        row("ETC, motion alone", model, ONE_LABEL),
        *(row(f"ETC, {way}", model, ONE_LABEL, options, imitates="UperNet") for way, options in IMITATING.items()),
    )


OWN_EXPERIMENTS: dict[str, Experiment] = {
    "temporal": Experiment(
        "heads alone, with a recurrent memory (GRU) and with SSLTM's module, one label per video",
        temporal,
        differences=tuple((f"{label}, {module}", label) for label in HEADS for module in ("GRU", "SSLTM")),
    ),
    "distillation": Experiment(
        "ETC with its distillation of UperNet, without it, and without the motion loss; one label per video",
        distillation,
        differences=(
            *((f"ETC, {way}", "OCRNet") for way in ("motion alone", *IMITATING)),
            *((f"ETC, {way}", "ETC, motion alone") for way in IMITATING),
        ),
    ),
    "label-sources": Experiment(
        "OCRNet on label maps moved along flow, filled in, refined, predicted; one label per video",
        label_sources,
        differences=(
            *((label, "labels alone") for label in (*LABEL_SOURCES, "Mean Teacher")),
            ("moved and refined", "moved and filled"),
        ),
    ),
}
