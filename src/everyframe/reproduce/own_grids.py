"""Experiments of our own: what helps to choose a model."""

from __future__ import annotations

from everyframe.reproduce.experiment import ONE_LABEL, Experiment, Row, row

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


OWN_EXPERIMENTS: dict[str, Experiment] = {
    "temporal": Experiment(
        "heads alone, with a recurrent memory (GRU) and with SSLTM's module, one label per video",
        temporal,
        differences=tuple((f"{label}, {module}", label) for label in HEADS for module in ("GRU", "SSLTM")),
    ),
}
