"""Every parameter of a temporal model has a gradient after a step: distributed training stops at one that has none."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from moving_scenes import SPACE, build, close

from everyframe.data.sampling import ClipSampling
from everyframe.frames import Clip
from everyframe.models.cost import count_parameters
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.ssltm import CONTEXTS
from everyframe.models.zoo import create_model
from everyframe.testing import moving_scene
from everyframe.testing.scenes import run_stream, run_training_clip
from everyframe.training.objectives_mask import MaskOptions
from everyframe.training.objectives_temporal import video_objective

PROTOTYPES: dict[str, dict[str, Any]] = {"none": {"prototypes": 0}, "mse": {}, "ema": {"update": "ema"}}
SSLTM_OPTIONS = [
    *({"context": context, **prototypes} for context, prototypes in product(CONTEXTS, PROTOTYPES.values())),
    {"depth": 0, "context": "none", "prototypes": 0},
    {"depth": 0, "context": "query"},
    {"depth": 2, "context": "none"},
    {"adjacent": [], "context": "reference"},
    {"adjacent": [], "context": "none", "prototypes": 0},
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("netwarp-ocr", {}),
    ("netwarp-psp", {"form": "vspw"}),
    ("tcb-ocr", {}),
    ("tcb-ocr", {"memory": "vspw_compat"}),
    ("tcb-psp", {"weighted": True}),
    ("ocr-gru", {}),
    ("etc-ocr", {}),
]


def trained(model: Segmenter, **weights: float) -> list[str]:
    """Names of the parameters that stay without a gradient in a training step on the clips that the model asks for."""
    roles = ClipSampling(model.temporal.adjacent, "far_end" if model.temporal.reference else None).roles
    shape = (2, len(roles), 32, 48)
    clip = Clip(
        images=torch.randint(0, 256, (*shape[:2], 3, *shape[2:]), dtype=torch.uint8),
        labels=torch.randint(0, 3, shape, dtype=torch.uint8),
        labelled=torch.ones(shape[:2], dtype=torch.bool),
        roles=roles,
        indices=torch.arange(len(roles)).expand(shape[:2]),
        videos=("a", "b"),
    )
    objective = video_objective(model.train(), MaskOptions(points=16), **weights)
    objective(model(clip.images, roles), clip)["loss"].backward()
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


ON_OTHER_HEADS = [{"context": "none", "prototypes": 0}, {"context": "none"}, {"context": "both", "prototypes": 0}]
MICRO = {"encoder_layers": 1, "decoder_layers": 1, "queries": 4}


@pytest.mark.parametrize(
    ("system", "choices", "head"),
    [
        ("ssltm", SSLTM_OPTIONS, {"width": 16}),
        ("psp-ssltm", ON_OTHER_HEADS, {"width": 16}),  # coarse scores by an auxiliary head
        ("uper-ssltm", ON_OTHER_HEADS, {"width": 16}),  # and without one
        ("mask2former-ssltm", ON_OTHER_HEADS, MICRO),
    ],
)
def test_ssltm_builds_nothing_that_is_not_trained(
    system: str, choices: list[dict[str, Any]], head: dict[str, int]
) -> None:
    for options in choices:
        backbone = {"width": 8, "stem_width": 8}
        model = create_model(f"{system}-tiny", SPACE, backbone=backbone, head=head, temporal=options)
        assert trained(model) == [], options


@pytest.mark.parametrize(("system", "options"), OTHERS)
def test_nothing_else_is_built_in_vain(system: str, options: dict[str, Any]) -> None:
    model = create_model(f"{system}-tiny", SPACE, backbone={"width": 8, "stem_width": 8}, temporal=options)
    assert trained(model) == []


def test_what_is_left_out_where_no_contexts_come() -> None:
    """On OCR the head's attention, or all of it but the pixels' query vectors; on other heads what the site brings."""
    whole, asking, plain = (
        create_model("ssltm-tiny", SPACE, temporal={"context": context, "prototypes": prototypes})
        for context, prototypes in (("query", 3), ("none", 3), ("none", 0))
    )
    sides = [module.head.attention.to_query for module in (whole, asking)]
    attention = count_parameters(whole.head.attention)
    assert count_parameters(sides[0]) == count_parameters(sides[1]) == count_parameters(asking.head.attention) > 0
    assert plain.head.attention is None
    assert count_parameters(whole.head) - count_parameters(plain.head) == attention
    site = create_model("uper-ssltm-tiny", SPACE, temporal={"context": "none", "prototypes": 0}).temporal.site
    assert list(site.parameters()) == []


@pytest.mark.parametrize("options", SSLTM_OPTIONS)
def test_a_training_clip_equals_the_stream_whatever_the_options(options: dict[str, Any]) -> None:
    model = build("ssltm", **options)
    now = max((-offset for offset in model.temporal.adjacent), default=3)
    clip = moving_scene(now + 1)
    got, want = run_training_clip(model, clip, now), run_stream(model, clip)[0][:, now]
    close(got, want)


@pytest.mark.parametrize(
    ("system", "rests"),
    [("psp", True), ("uper", False), ("ocr", False), ("psp-ssltm", False), ("tcb-psp", True), ("netwarp-psp", True)],
)
def test_an_auxiliary_head_without_a_loss_rests_unless_regions_are_made_by_it(system: str, rests: bool) -> None:
    model = create_model(f"{system}-tiny", SPACE, backbone={"width": 8, "stem_width": 8}, head={"width": 16})
    assert trained(model, auxiliary=0.0) == []
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad and "prototypes" not in name]
    assert bool(frozen) == rests
    assert all(name.startswith("head.auxiliary.") for name in frozen)
