"""Objectives of heads that predict masks: parts and weights, pseudo-label maps, label maps of few classes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from host_copies import HostCopies
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import IGNORE, Clip, Role
from everyframe.labels import LabelSpace
from everyframe.losses.mask_set import MaskSetLoss
from everyframe.models.segmenter import Prediction, Segmenter
from everyframe.models.zoo import create_model
from everyframe.semi.pseudo import Teaching, pseudo_labels
from everyframe.training.mean_teacher import MeanTeacher, query_logits
from everyframe.training.objective import AuxiliaryCrossEntropy
from everyframe.training.objectives_mask import MaskOptions, pseudo_label_objective
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.outcome import Outcome
from everyframe.training.supervised import Supervised

SPACE = LabelSpace(("a", "b", "c"))
QUERY = (Role.QUERY,)
POINTS = MaskOptions(points=64)


def small(name: str = "mask2former-tiny") -> Segmenter:
    torch.manual_seed(0)
    return create_model(name, SPACE, backbone={"width": 8, "stem_width": 8})


def clip(roles: tuple[Role, ...] = QUERY, batch: int = 2, labelled: bool = True) -> Clip:
    t = len(roles)
    labels = torch.randint(0, 3, (batch, t, 4, 6), dtype=torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    return Clip(
        images=torch.randint(0, 256, (batch, t, 3, 32, 48), dtype=torch.uint8),
        labels=labels if labelled else torch.full_like(labels, IGNORE),
        labelled=torch.full((batch, t), labelled),
        roles=roles,
        indices=torch.arange(t).expand(batch, t),
        videos=tuple(f"v{n}" for n in range(batch)),
    )


def seeded(objective: Any, prediction: Prediction, batch: Clip) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return objective(prediction, batch)


def set_loss(
    prediction: Prediction, labels: Tensor, supported: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    torch.manual_seed(5)
    outputs = {name: x.flatten(0, 1) for name, x in prediction.outputs.items()}
    return MaskSetLoss(points=64, **options)(**outputs, labels=labels, supported=supported)


def test_published_weights_and_those_of_vspw_2023() -> None:
    model, batch = small(), clip()
    prediction = model(batch.images, batch.roles)
    parts = set_loss(prediction, batch.labels[:, 0])
    for options, weights in ((POINTS, (2, 5, 5)), (replace(POINTS, mask=1.0), (2, 1, 5))):
        costs = seeded(video_objective(model, options), prediction, batch)
        assert set(costs) == {"class", "mask", "mask_dice", "loss"}
        want = sum(w * parts[name] for w, name in zip(weights, ("class", "mask", "dice"), strict=True))
        torch.testing.assert_close(costs["loss"], want)


def test_auxiliary_scores_have_a_loss_where_there_are_any() -> None:
    assert "auxiliary" not in video_objective(small()).terms
    model, batch = small("mask2former-ssltm-tiny"), clip((Role.REFERENCE, Role.ADJACENT, Role.ADJACENT, Role.QUERY))
    objective = video_objective(model, POINTS)
    prediction = model(batch.images, batch.roles)
    costs = seeded(objective, prediction, batch)
    torch.testing.assert_close(costs["auxiliary"], AuxiliaryCrossEntropy()(Outcome(prediction, batch)))
    want = 2 * costs["class"] + 5 * costs["mask"] + 5 * costs["mask_dice"] + 0.4 * costs["auxiliary"]
    torch.testing.assert_close(costs["loss"], want + costs["prototypes"])
    costs["auxiliary"].backward()
    assert model.temporal.site.coarse[1].weight.grad.abs().sum() > 0
    assert "auxiliary" not in video_objective(model, replace(POINTS, auxiliary=0.0)).terms


def test_left_out_the_objective_is_the_models() -> None:
    """A module without an objective trains any head."""
    for name in ("mask2former-tiny", "fcn-tiny"):
        module = Supervised(small(name))
        assert set(module.objective.terms) == set(video_objective(module.model).terms)
    batch = clip()
    module = Supervised(small())
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    module._trainer = FakeTrainer()  # type: ignore[assignment]
    module.training_step(batch, 0)["loss"].backward()


def test_a_step_waits_for_the_device_once() -> None:
    """Model, objective and backward pass: the matching alone needs to know what the device has found."""
    model, batch = small(), clip((Role.QUERY, Role.QUERY))
    batch.labels[0, 1] = IGNORE
    objective = video_objective(model, POINTS)
    with HostCopies() as copies:
        objective(model(batch.images, batch.roles), batch)["loss"].backward()
    assert copies.found == ["cpu"]


# -- label maps of few classes -----------------------------------------------------------------------------------------


def test_support_needs_clips_that_say_what_their_labels_know() -> None:
    model, batch = small(), clip()
    prediction = model(batch.images, batch.roles)
    with pytest.raises(InputError, match=r"Clip\.supported"):
        video_objective(model, replace(POINTS, support="merge"))(prediction, batch)
    with pytest.raises(InputError, match="expected one of ignore, merge, weigh, came 'on'"):
        MaskOptions(support="on")  # type: ignore[arg-type]


@pytest.mark.parametrize("support", ["merge", "weigh"])
def test_support_of_each_clip_reaches_its_query_frames(support: str) -> None:
    model, batch = small(), clip((Role.QUERY, Role.QUERY))
    batch.labels[1] = 1
    batch.supported = torch.tensor([[True] * 3, [False, True, False]])
    prediction = model(batch.images, batch.roles)
    costs = seeded(video_objective(model, replace(POINTS, support=support)), prediction, batch)
    each = batch.supported.repeat_interleave(2, 0)
    want = set_loss(prediction, batch.labels.flatten(0, 1), support=support, supported=each)
    torch.testing.assert_close(costs["class"], want["class"])
    plain = seeded(video_objective(model, POINTS), prediction, batch)
    assert costs["mask"] == plain["mask"]
    assert abs(costs["class"].item() - plain["class"].item()) > 1e-3


# -- pseudo-labels -----------------------------------------------------------------------------------------------------


class FakeTrainer:
    """As much of a trainer as a step looks at."""

    global_step, log_every_n_steps = 0, 1


def teacher(model: Segmenter, **teaching: Any) -> MeanTeacher:
    made = MeanTeacher(
        model,
        Teaching(**{"weight": 1.0, "threshold": 0.5, "ramp": 0.0, **teaching}),
        objective=video_objective(model, replace(POINTS, mask=1.0)),
        steps=10,
    )
    made._trainer, made.log_dict = FakeTrainer(), lambda *_, **__: None  # type: ignore[assignment, method-assign]
    return made


def test_pseudo_label_objective_takes_the_weights_and_spares_what_is_unknown() -> None:
    model = small()
    labelled = video_objective(model, replace(POINTS, mask=1.0, respect_ignore=False, support="merge"), contrastive=0.1)
    pseudo = pseudo_label_objective(labelled)
    assert pseudo is not None
    assert {name: weight for name, (weight, _) in pseudo.terms.items()} == {"class": 2, "mask": 1, "mask_dice": 5}
    loss = pseudo.terms["class"][1].shared.loss
    assert (loss.respect_ignore, loss.spare_ignored, loss.support, loss.points) == (True, True, "ignore", 64)
    assert pseudo_label_objective(video_objective(small("fcn-tiny"))) is None


def test_cost_of_pseudo_labels_by_hand() -> None:
    """The set loss on the teacher's map times the share of pixels that it is sure of; padding counts for nothing."""
    model, unlabelled = small(), clip(labelled=False)
    made = teacher(model, threshold=0.3)
    unlabelled.inside = torch.ones(2, 32, 48, dtype=torch.bool)
    unlabelled.inside[1, 16:] = False
    targets = torch.full((2, 1, 32, 48), IGNORE, dtype=torch.uint8)
    targets[0, 0, :, :12], targets[1, 0, 8:, 24:] = 1, 2
    prediction = model(unlabelled.images, unlabelled.roles)
    torch.manual_seed(5)
    cost = made.pseudo_label_cost(prediction, unlabelled, targets, unlabelled.inside)
    seen = targets[:, 0].clone()
    seen[1, 16:] = IGNORE
    parts = set_loss(prediction, seen, spare_ignored=True)
    share = (32 * 12 + 8 * 24) / (32 * 48 + 16 * 48)
    torch.testing.assert_close(cost, share * (2 * parts["class"] + parts["mask"] + 5 * parts["dice"]))


def test_pseudo_labels_of_a_mask_teacher_are_thresholded_as_probabilities() -> None:
    model, unlabelled = small(), clip(labelled=False)
    scores = query_logits(model.eval(), model(unlabelled.images, unlabelled.roles))
    total = torch.nn.functional.interpolate(scores, (32, 48), mode="bilinear").sum(1)
    for confidence in ("bounded", "l1", "softmax"):
        made = teacher(model, mask_confidence=confidence, threshold=0.35)
        want = pseudo_labels(scores, (32, 48), 0.35, confidence)
        assert torch.equal(made.targets(unlabelled)[:, 0], want)
    assert total.max() > 1  # 24 queries that are unsure of everything add up: scores are no probabilities
    assert teacher(small("fcn-tiny")).confidence == "softmax"


def test_a_step_of_a_mask_student() -> None:
    model = small()
    made, batches = teacher(model, threshold=0.0), {"labelled": clip(), "unlabelled": clip(labelled=False)}
    torch.manual_seed(5)
    costs = made.training_step(batches, 0)
    assert set(costs) == {"class", "mask", "mask_dice", "pseudo_label", "loss"}
    supervised = 2 * costs["class"] + costs["mask"] + 5 * costs["mask_dice"]
    torch.testing.assert_close(costs["loss"].detach(), supervised + costs["pseudo_label"])
    assert costs["pseudo_label"] > 0
    costs["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in made.teacher.parameters())


def test_a_teacher_that_is_sure_of_nothing_costs_nothing() -> None:
    model = small()
    made = teacher(model, threshold=1.0)
    costs = made.training_step({"labelled": clip(), "unlabelled": clip(labelled=False)}, 0)
    assert costs["pseudo_label"].item() == 0
    assert math.isfinite(costs["loss"].item())


def test_a_mask_student_learns_what_its_teacher_says() -> None:
    """Pseudo-labels alone: the student's map comes to be that of a fixed teacher, pixels it is unsure of left out."""
    model, unlabelled = small(), clip(batch=1, labelled=False)
    made = teacher(model, threshold=0.0)
    targets = torch.full((1, 1, 32, 48), IGNORE, dtype=torch.uint8)
    targets[..., :20], targets[..., 28:] = 0, 2
    inside = torch.ones(1, 32, 48, dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(30):
        optimizer.zero_grad()
        made.pseudo_label_cost(model(unlabelled.images, QUERY), unlabelled, targets, inside).backward()
        optimizer.step()
    with torch.no_grad():
        scores = query_logits(model.eval(), model(unlabelled.images, QUERY))
    sure = pseudo_labels(scores, (32, 48), 0.0, "bounded")
    known = targets[:, 0] != IGNORE
    assert (sure == targets[:, 0])[known].float().mean() > 0.9
