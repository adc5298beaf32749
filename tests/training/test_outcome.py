"""What several terms need of a batch is computed once per step, and kept no longer than the step."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_run import make_clip, tiny_model
from torch import Tensor

from everyframe.flow import FlowPair
from everyframe.frames import Clip, Role
from everyframe.labels import LabelSpace
from everyframe.losses import pixel
from everyframe.losses.inverse_form import TransformRegressor
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model
from everyframe.training import objective_boundary
from everyframe.training.objective import Objective, pixel_objective
from everyframe.training.objective_distillation import DistillationTeacher
from everyframe.training.objectives_mask import MaskOptions
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.outcome import Outcome

SPACE = LabelSpace(("a", "b", "c"))


def two_queries(model: Segmenter) -> Outcome:
    clip = Clip.stack([make_clip(2), make_clip(3)])
    clip.roles = (Role.QUERY, Role.QUERY)
    clip.indices[:] = torch.tensor([3, 6])
    return Outcome(model(clip.images, clip.roles), clip)


def cost(objective: Objective, outcome: Outcome) -> Tensor:
    return objective(outcome.prediction, outcome.clip)["loss"]


class Count:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.function(*args, **kwargs)


def test_the_first_who_asks_computes() -> None:
    outcome = two_queries(tiny_model())
    made = Count(lambda: torch.ones(2))
    assert outcome.once("x", made) is outcome.once("x", made)
    outcome.once(("x", 1), made)
    assert made.calls == 2
    assert outcome.labels is outcome.labels
    assert torch.equal(outcome.labels, outcome.clip.labels.flatten(0, 1))
    assert torch.equal(outcome.logits, outcome.prediction.logits.flatten(0, 1))
    another = Outcome(outcome.prediction, outcome.clip)
    another.once("x", made)
    assert made.calls == 3


def test_nothing_that_terms_share_outlives_the_step() -> None:
    """A graph that did would hold the activations of the whole model through the next step."""
    kept: list[weakref.ref[Tensor]] = []

    def shared(outcome: Outcome) -> Tensor:
        def compute() -> Tensor:
            value = outcome.logits.square()
            kept.append(weakref.ref(value))
            return value

        return outcome.once("square", compute)

    objective = Objective(
        {"a": (1.0, lambda o: shared(o).mean().detach()), "b": (1.0, lambda o: shared(o)[0, 0, 0, 0])}
    )
    outcome = two_queries(tiny_model())
    gc.disable()
    try:
        loss = cost(objective, outcome)
        loss.backward()
        del loss
        assert [own() for own in kept] == [None]
    finally:
        gc.enable()


def test_parts_of_the_set_loss_that_are_no_terms_leave_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("mask2former-tiny", SPACE, backbone={"width": 8, "stem_width": 8})
    options = MaskOptions(points=64, dice=0.0)
    parts: list[weakref.ref[Tensor]] = []
    compute = Count(MaskOptions.__call__)

    def watched(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        losses = compute(*args, **kwargs)
        parts.append(weakref.ref(losses["dice"]))
        return losses

    monkeypatch.setattr(MaskOptions, "__call__", watched)
    outcome = two_queries(model)
    costs = Objective(options.terms())(outcome.prediction, outcome.clip)
    assert set(costs) == {"class", "mask", "loss"}
    assert compute.calls == 1
    assert parts[0]() is None


def test_edges_are_seen_and_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(TransformRegressor(tile=4, hidden=6).state_dict(), tmp_path / "regressor.safetensors")
    model = create_model("ocr-tiny", LabelSpace(("a", "b")), head={"width": 8})
    objective = video_objective(
        model, edges=0.3, edge_attention=0.1, inverse_form=0.3, edge_regressor=str(tmp_path / "regressor.safetensors")
    )
    drawn = Count(objective_boundary.edge_map)
    monkeypatch.setattr(objective_boundary, "edge_map", drawn)
    detector = objective.get_submodule("edges.detector")
    seen = Count(detector.forward)
    monkeypatch.setattr(detector, "forward", seen)
    cost(objective, two_queries(model)).backward()
    assert (seen.calls, drawn.calls) == (1, 1)


def test_dice_and_lovasz_share_the_resized_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Count(pixel.labelled_pixels)
    monkeypatch.setattr(pixel, "labelled_pixels", made)
    outcome = two_queries(tiny_model())
    got = pixel_objective(dice=1.0, lovasz=1.0)(outcome.prediction, outcome.clip)
    assert made.calls == 1
    for name, loss in (("dice", pixel.dice), ("lovasz", pixel.lovasz)):
        torch.testing.assert_close(got[name], loss(outcome.logits, outcome.labels))


class CountedFlow:
    """Nothing moves."""

    def __init__(self) -> None:
        self.calls = 0

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        self.calls += 1
        return FlowPair(torch.zeros(2, *first.shape[-2:]).numpy())


def test_flow_is_found_once_for_a_pair_of_frames_backward_included() -> None:
    model, flow = tiny_model(), CountedFlow()
    cost(video_objective(model, motion=0.1, flow=flow), two_queries(model)).backward()  # type: ignore[arg-type]
    assert flow.calls == 2  # one pair of each clip


def test_the_teacher_runs_once_and_its_features_are_brought_to_one_size_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_model("psp-tiny", SPACE).save_pretrained(str(tmp_path))
    model = create_model("etc-ocr-tiny", SPACE)
    objective = video_objective(model, distill_from=str(tmp_path))
    predicted, sized = Count(DistillationTeacher._predict), Count(DistillationTeacher._pixels)
    monkeypatch.setattr(DistillationTeacher, "_predict", lambda *own: predicted(*own))
    monkeypatch.setattr(DistillationTeacher, "_pixels", lambda *own: sized(*own))
    outcome = two_queries(model)
    cost(objective, outcome).backward()
    assert (predicted.calls, sized.calls) == (1, 1)
    cost(objective, outcome)  # the next step, of the same clip
    assert predicted.calls == 2


def test_features_share_the_models_scores() -> None:
    model = create_model("mask2former-tiny", SPACE, backbone={"width": 8, "stem_width": 8})
    names = ["memory0", "memory1", "memory2"]
    scores = Count(model.head.semantic)
    model.head.semantic = scores  # type: ignore[method-assign]
    objective = video_objective(
        model, MaskOptions(points=16), contrastive=0.1, contrastive_feature=names, contrastive_anchors=8
    )  # type: ignore[arg-type]
    cost(objective, two_queries(model))
    assert scores.calls == 1
