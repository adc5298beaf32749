"""Terms that know time or a teacher: what they see, and that they do what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.flow import FlowPair
from everyframe.frames import Clip, Role
from everyframe.labels import LabelSpace
from everyframe.losses.pixel import upsample
from everyframe.losses.temporal import knowledge_distillation, pair_distillation
from everyframe.models.segmenter import Prediction, Segmenter
from everyframe.models.zoo import create_model
from everyframe.training.objectives_temporal import MotionLoss, PrototypeLoss, video_objective
from everyframe.training.outcome import Outcome

SPACE = LabelSpace(("a", "b", "c"))
SIZE = (32, 48)


def clip(roles: tuple[Role, ...], batch: int = 2) -> Clip:
    t = len(roles)
    labels = torch.randint(0, 3, (batch, t, SIZE[0] // 8, SIZE[1] // 8), dtype=torch.uint8)
    return Clip(
        images=torch.randint(0, 256, (batch, t, 3, *SIZE), dtype=torch.uint8),
        labels=labels.repeat_interleave(8, 2).repeat_interleave(8, 3),
        labelled=torch.ones(batch, t, dtype=torch.bool),
        roles=roles,
        indices=torch.arange(t).expand(batch, t),
        videos=("x",) * batch,
    )


def run(model: Segmenter, batch: Clip) -> Prediction:
    return model.train()(batch.images, batch.roles)


SSLTM_ROLES = (Role.REFERENCE, Role.ADJACENT, Role.ADJACENT, Role.QUERY)
TWO_QUERIES = (Role.QUERY, Role.QUERY)


def test_prototypes_see_the_labelled_query_before_the_transformer() -> None:
    model = create_model("ssltm-tiny", SPACE)
    batch = clip(SSLTM_ROLES)
    batch.labels[:, :3] = 2  # labels of context frames must not count
    batch.labels[:, 3] = 255
    batch.labels[1, 3] = 0
    prediction = run(model, batch)
    prototypes = model.temporal.prototypes
    assert PrototypeLoss(prototypes)(Outcome(prediction, batch)).item() == 0
    assert prototypes.filled.tolist() == [[True, False, False], [False] * 3, [False] * 3]
    pixels = prediction.features.embedding["pixels"][7]  # second clip, fourth frame
    torch.testing.assert_close(prototypes.prototypes[0, 0].detach(), pixels.detach().mean((1, 2)))


def test_ssltm_objective_trains_prototypes_by_their_own_loss() -> None:
    model = create_model("ssltm-tiny", SPACE)
    objective = video_objective(model)
    for _ in range(4):
        batch = clip(SSLTM_ROLES)
        costs = objective(run(model, batch), batch)
    assert set(costs) == {"cross_entropy", "auxiliary", "prototypes", "loss"}
    torch.testing.assert_close(costs["loss"], costs["cross_entropy"] + 0.4 * costs["auxiliary"] + costs["prototypes"])
    costs["prototypes"].backward()
    assert model.temporal.prototypes.prototypes.grad.abs().sum() > 0
    assert all(p.grad is None for name, p in model.named_parameters() if "prototypes" not in name)
    assert "prototypes" not in video_objective(create_model("ocr-tiny", SPACE)).terms


@pytest.mark.parametrize("update", ["ema", "mse"])
def test_prototypes_are_filled_whatever_the_weight_of_their_loss(update: str) -> None:
    torch.manual_seed(1)
    batch, found, costs = clip(SSLTM_ROLES), [], {}
    for weight in (0.0, 1.0):
        torch.manual_seed(2)
        model = create_model("ssltm-tiny", SPACE, temporal={"update": update}).train()
        objective = video_objective(model, prototypes=weight)
        for _ in range(3):
            with torch.no_grad():
                costs = objective(model(batch.images, batch.roles), batch)
        if not weight:
            torch.testing.assert_close(costs["loss"], costs["cross_entropy"] + 0.4 * costs["auxiliary"])
        found.append(model.temporal.prototypes)
    assert found[0].filled.any(1).all()
    assert torch.equal(found[0].filled, found[1].filled)
    torch.testing.assert_close(found[0].prototypes, found[1].prototypes)
    assert "motion" not in video_objective(model, motion=0.0).terms  # other terms of weight 0 cost nothing


class Still:
    """Nothing moves."""

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        return FlowPair(torch.zeros(2, *first.shape[-2:]).numpy())


def test_motion_loss_of_frames_that_do_not_move() -> None:
    model = create_model("etc-ocr-tiny", SPACE)
    batch = clip(TWO_QUERIES)
    batch.images[:, 1] = batch.images[:, 0]
    term = MotionLoss(model, flow=Still())
    assert term(Outcome(model.eval()(batch.images, batch.roles), batch)).item() < 1e-6
    prediction = run(model, batch)
    first = prediction.logits[:, :1].detach()
    logits = prediction.outputs["logits"] = torch.cat([first, first + 2], dim=1).requires_grad_()
    loss = term(Outcome(prediction, batch))
    torch.testing.assert_close(loss, torch.tensor(4.0))  # believed everywhere, wrong by 2 everywhere
    loss.backward()
    assert logits.grad[:, 0].abs().sum() > 0  # the gradient reaches both frames
    assert logits.grad[:, 1].abs().sum() > 0


class Right:
    """Everything has moved to the right by 8 pixels."""

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        return FlowPair(torch.tensor([-8.0, 0.0]).view(2, 1, 1).repeat(1, *first.shape[-2:]).numpy())


@pytest.mark.parametrize(("mask", "cost"), [("absolute", 0.0), ("vspw", 4.0 * 8 / SIZE[1])])
def test_logits_from_outside_the_picture_cost_nothing(mask: str, cost: float) -> None:
    """Pictures of the mean colour, which is what stands for the outside: the photometric mask believes in it."""
    model = create_model("etc-ocr-tiny", SPACE)
    batch = clip(TWO_QUERIES)
    prediction = run(model, batch)
    prediction.outputs["logits"] = torch.full_like(prediction.logits, 2.0)
    batch.images = model.mean.expand_as(batch.images[:, 0])[:, None].repeat(1, 2, 1, 1, 1)
    loss = MotionLoss(model, mask, Right())(Outcome(prediction, batch))
    torch.testing.assert_close(loss, torch.tensor(cost))


def test_motion_is_not_believed_where_pictures_differ() -> None:
    model = create_model("etc-ocr-tiny", SPACE)
    batch = clip(TWO_QUERIES)
    batch.images[:, 0], batch.images[:, 1] = 0, 255
    prediction = run(model, batch)
    assert (prediction.logits[:, 0] - prediction.logits[:, 1]).square().mean() > 1e-3  # what believing them would cost
    assert MotionLoss(model, flow=Still())(Outcome(prediction, batch)).item() < 1e-6


class Away:
    """Everything leaves the picture to the right."""

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        flow = torch.zeros(2, *first.shape[-2:])
        flow[0] = first.shape[-1]
        return FlowPair(flow.numpy())


def test_motion_out_of_the_picture_draws_nothing_to_zero() -> None:
    """Warping reads zeros there: a picture of the mean colour looks the same, and logits are no likelier to be 0."""
    model = create_model("etc-ocr-tiny", SPACE)
    batch = clip(TWO_QUERIES)
    batch.images[:] = model.mean.round().to(torch.uint8)
    outcome = Outcome(run(model, batch), batch)
    assert MotionLoss(model, flow=Away())(outcome).item() == 0
    towards_zero = upsample(outcome.prediction.logits[:, 1], SIZE).square().mean().item()
    assert MotionLoss(model, "vspw", flow=Away())(outcome).item() == pytest.approx(towards_zero, rel=0.1)


def test_motion_needs_two_queries() -> None:
    model = create_model("etc-ocr-tiny", SPACE)
    batch = clip((Role.ADJACENT, Role.QUERY))
    with pytest.raises(InputError, match=r"objective\.motion: expected clips of two query frames.*data\.queries: 2"):
        video_objective(model, motion=0.1)(run(model, batch), batch)


def test_distillation_from_a_saved_model(tmp_path: Path) -> None:
    teacher = create_model("psp-tiny", SPACE).eval()
    teacher.save_pretrained(str(tmp_path))
    student = create_model("etc-ocr-tiny", SPACE)
    objective = video_objective(student, distill_from=str(tmp_path))
    batch = clip(TWO_QUERIES)
    prediction = run(student, batch)
    costs = objective(prediction, batch)
    names = {"distillation", "pair_distillation", "multi_frame_distillation"}
    assert names <= set(costs)
    with torch.no_grad():
        wanted = teacher(batch.images, batch.roles)
    torch.testing.assert_close(
        costs["distillation"], knowledge_distillation(prediction.logits.flatten(0, 1), wanted.logits.flatten(0, 1))
    )
    pixels = [outcome.features.embedding["pixels"].unflatten(0, (2, 2)).unbind(1) for outcome in (prediction, wanted)]
    size = pixels[1][0].shape[-2:]
    own = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in pixels[0]]
    torch.testing.assert_close(costs["pair_distillation"], pair_distillation(own, pixels[1]))
    torch.testing.assert_close(
        costs["multi_frame_distillation"], objective.multi_frame_distillation.compare(own, pixels[1])
    )
    costs["loss"].backward()
    assert all(costs[name].item() > 0 for name in names)
    # The teacher is neither trained nor saved; the small network that compares sequences is trained.
    assert {name.split(".")[0] for name, _ in objective.named_parameters()} == {"multi_frame_distillation"}
    assert all(p.grad is not None for p in objective.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "message"),
    [
        (
            "psp-tiny",
            ("a", "c", "b"),
            r"model's 3 classes .*, came one of 3 .*: train id 1 is 'c', not 'b'",
        ),
        ("psp-tiny", ("a", "b"), "came one of 2 .*: train id 2 is no class, not 'c'"),
        ("psp-tiny", ("a", "b", "c", "d"), "came one of 4 .*: train id 3 is 'd', not no class"),
        ("mask2former-tiny", ("a", "b", "c"), "that predicts logits, came one for masks"),
    ],
)
def test_a_teacher_that_does_not_fit(tmp_path: Path, name: str, classes: tuple[str, ...], message: str) -> None:
    create_model(name, LabelSpace(classes)).save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match=r"objective\.distill_from: expected .*" + message):
        video_objective(create_model("etc-ocr-tiny", SPACE), distill_from=str(tmp_path))


@pytest.mark.parametrize("name", ["netwarp-ocr-tiny", "tcb-psp-tiny"])
def test_models_whose_frames_meet_early_have_logits_alone_to_imitate(tmp_path: Path, name: str) -> None:
    create_model(name, SPACE).save_pretrained(str(tmp_path))
    student = create_model("etc-ocr-tiny", SPACE)
    with pytest.raises(InputError, match=r"expected a teacher whose frames have pixels of their own, came \w+"):
        video_objective(student, distill_from=str(tmp_path))
    options = {"pair_distillation": 0.0, "multi_frame_distillation": 0.0}
    objective = video_objective(student, distill_from=str(tmp_path), **options)
    batch = clip(TWO_QUERIES)
    assert objective(run(student, batch), batch)["distillation"].item() > 0
    with pytest.raises(InputError, match=r"objective\.edges: expected a model whose frames have pixels of their own"):
        video_objective(create_model(name, SPACE), edges=0.3)


def test_a_step_on_each_term_lowers_it() -> None:
    torch.manual_seed(0)
    model = create_model("etc-ocr-tiny", SPACE)
    batch = clip(TWO_QUERIES)
    batch.images[:, 1] = batch.images[:, 0].roll(1, -1)
    term = MotionLoss(model, flow=Still())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = None
    for _ in range(5):
        optimizer.zero_grad()
        loss = term(Outcome(run(model, batch), batch))
        before = before or loss.item()
        loss.backward()
        optimizer.step()
    assert loss.item() < before
