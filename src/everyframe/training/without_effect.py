"""Options that were set and change nothing: told before a run, not refused, as recipes and grids share options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

from everyframe.models.heads.scale_attention import ScaleAttention
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.ssltm import SSLTM
from everyframe.training.recipe import Config, defaults, flat


def without_effect(config: Config, model: Segmenter) -> str:
    """Name the options that differ from their default and change nothing, with the reason; "" where there are none.

    Args:
        config: what `resolve` returned.
        model: what `create_model` made of it.
    """
    now, unset = flat(config), defaults()
    # Options of a part of the model have no default here: they are set where they are named.
    changed = [key for key, value in now.items() if key not in unset or unset[key] != value]
    told = []
    for idle, reason, patterns in _needs(now, model):
        named = [key for key in changed if any(fnmatch(key, pattern) for pattern in patterns)]
        if idle and named:
            told.append(f"{', '.join(named)} ({reason})")
    return f"without effect: {'; '.join(told)}" if told else ""


def _needs(now: Mapping[str, Any], model: Segmenter) -> Iterator[tuple[bool, str, tuple[str, ...]]]:
    """Yield whether options are idle, why they would be, and the patterns of their names."""
    objective = {key.removeprefix("objective."): value for key, value in now.items() if key.startswith("objective.")}
    temporal = model.temporal
    no_prototypes = not (isinstance(temporal, SSLTM) and temporal.prototypes is not None)
    yield model.head.predicts == "logits", "the model predicts no masks", ("masks.*",)
    yield (
        no_prototypes,
        "the model has no class prototypes",
        ("objective.prototypes", "model.temporal.update", "model.temporal.prototype_*"),
    )
    yield not isinstance(model.head, ScaleAttention), "the head has one scale", ("objective.scales",)
    yield not now["teacher.weight"], "teacher.weight is 0", ("teacher.*",)
    yield not now["teacher.threshold"], "teacher.threshold is 0", ("teacher.class_thresholds",)
    yield not objective["contrastive"], "objective.contrastive is 0", ("objective.contrastive_*",)
    yield not objective["motion"], "objective.motion is 0", ("objective.motion_mask", "objective.flow")
    yield (
        objective["distill_from"] is None,
        "objective.distill_from is not set",
        ("objective.distillation", "objective.*_distillation"),
    )
    yield now["masks.class_weights"] is None, "masks.class_weights are not set", ("masks.weigh_masks",)
    yield not objective["edges"], "objective.edges is 0", ("objective.edge_*", "objective.inverse_form")
    yield not objective["ohem"], "objective.ohem is off", ("objective.ohem_*",)
    yield (
        objective["cross_entropy_form"] != "relaxed",
        "objective.cross_entropy_form is not relaxed",
        ("objective.relaxed_border", "objective.strict_classes"),
    )
