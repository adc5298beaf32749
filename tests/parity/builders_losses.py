"""Builder for the case of mmsegmentation's pixel losses."""

from __future__ import annotations

import re

import torch
from cases import Builder, Case
from torch import Tensor

from everyframe.losses.pixel import cross_entropy, lovasz, ohem_weights


def pixel_losses(case: Case) -> dict[str, Tensor]:
    """Cross entropy in its averages, OHEM, Lovász; the case's notes hold the constants and say what each output is."""
    logits, labels = case.inputs["logits"], case.inputs["label"].to(torch.uint8)
    hard = ohem_weights(logits, labels, _constant(case, "thresh"), int(_constant(case, "min_kept")))
    no_void = torch.where(labels == 255, 0, labels)
    weighted = cross_entropy(logits, no_void, case.inputs["class_weight"], average="pixels")
    return {
        "ce": cross_entropy(logits, labels, average="pixels"),
        "ce_avg_non_ignore": cross_entropy(logits, labels),
        "ce_weighted_no_void": _constant(case, "loss_weight") * weighted,
        "ohem_weight": hard,
        "ce_ohem": cross_entropy(logits, labels, pixel_weights=hard, average="pixels"),
        "lovasz": lovasz(logits, labels),
    }


def _constant(case: Case, name: str) -> float:
    found = re.search(rf"{name}[ =]([\d.]+\d|\d)", " ".join(case.config["notes"]))
    assert found is not None, f"{case.path.name}: its notes do not say {name}"
    return float(found[1])


BUILDERS: dict[str, Builder] = {"CrossEntropyLoss, LovaszLoss, OHEMPixelSampler": pixel_losses}
"""mmseg classes -> builder."""
