from __future__ import annotations

import pytest
import torch
from tiny_run import make_clip, tiny_model

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.labels import LabelSpace
from everyframe.losses.contrastive import contrastive_loss
from everyframe.losses.contrastive_cells import cell_labels
from everyframe.models.zoo import create_model
from everyframe.training.objective_contrastive import ContrastiveTerm, MeanOverFeatures, contrastive_term
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.outcome import Outcome


def batch() -> Clip:
    clip = Clip.stack([make_clip(2), make_clip(3)])
    clip.labels[:, 0] = clip.labels[:, 1]
    clip.indices[:] = torch.tensor([3, 6])
    return clip


def test_mean_over_clips_of_all_frames_and_weight() -> None:
    model, clip = tiny_model(dropout=0.0), batch()
    model.head.channels = 6
    prediction = model(clip.images, clip.roles)
    costs = video_objective(model, contrastive=0.1, contrastive_projection=0)(prediction, clip)
    pixels = prediction.features.embedding["pixels"].unflatten(0, (2, 2))
    expected = [contrastive_loss(x, cell_labels(y, (6, 8))) for x, y in zip(pixels, clip.labels, strict=True)]
    torch.testing.assert_close(costs["contrastive"], torch.stack(expected).mean())
    rest = costs["cross_entropy"] + 0.4 * costs["auxiliary"]
    torch.testing.assert_close(costs["loss"], rest + 0.1 * costs["contrastive"])


def test_off_by_default() -> None:
    assert "contrastive" not in video_objective(tiny_model()).terms


def test_still_images_leave_the_loss() -> None:
    model, clip = tiny_model(dropout=0.0), batch()
    term = ContrastiveTerm(feature=0)
    moving = Clip.stack([make_clip(2)])
    moving.labels[:, 0], moving.indices[:] = clip.labels[:1, 0], torch.tensor([3, 6])
    alone = term(Outcome(model(moving.images, moving.roles), moving))
    clip.indices[1] = 4  # the second clip shows one frame twice
    torch.testing.assert_close(term(Outcome(model(clip.images, clip.roles), clip)), alone)
    clip.indices[0] = 4
    still = term(Outcome(model(clip.images, clip.roles), clip))
    assert still.item() == 0
    still.backward()


def test_the_projection_trains_with_the_objective() -> None:
    model, clip = tiny_model(dropout=0.0), batch()
    objective = video_objective(model, contrastive=0.1, contrastive_feature=0, contrastive_projection=4)
    assert objective(model(clip.images, clip.roles), clip)["loss"].backward() is None
    weights = dict(objective.named_parameters())
    assert weights["contrastive.projection.3.weight"].shape == (4, 6, 1, 1)
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in weights.values())


def test_unknown_features_are_named() -> None:
    model, clip = tiny_model(), batch()
    prediction = model(clip.images, clip.roles)
    with pytest.raises(InputError, match=r"expected one of pixels, auxiliary or the number of a backbone map 0..0"):
        ContrastiveTerm("encoder")(Outcome(prediction, clip))
    with pytest.raises(InputError, match=r"backbone map 0..0, came 1"):
        video_objective(model, contrastive=0.1, contrastive_feature=1)
    with pytest.raises(InputError, match="channels of the feature"):
        ContrastiveTerm(projection=4)


def by_hand(features: torch.Tensor, clip: Clip, **options: object) -> list[torch.Tensor]:
    """The loss of each clip of a batch for features [B*T, C, h, w]."""
    size = (features.shape[-2], features.shape[-1])
    maps = features.unflatten(0, clip.labels.shape[:2])
    return [contrastive_loss(x, cell_labels(y, size), **options) for x, y in zip(maps, clip.labels, strict=True)]


def test_warm_up_costs_nothing_and_keeps_every_parameter_in_step() -> None:
    model, clip = tiny_model(dropout=0.0), batch()
    objective = video_objective(
        model, contrastive=0.1, contrastive_feature=0, contrastive_projection=4, contrastive_warmup=3
    )
    for step, on in ((0, False), (2, False), (3, True), (None, True)):
        objective.zero_grad()
        costs = objective(model(clip.images, clip.roles), clip, step)
        assert (costs["contrastive"].item() > 0) == on
        costs["loss"].backward()
        assert all(p.grad is not None for p in objective.parameters())
        assert any(p.grad.abs().sum() > 0 for p in objective.parameters()) == on


def test_clips_jointly_are_one_clip() -> None:
    model, clip = tiny_model(dropout=0.0), batch()
    prediction = model(clip.images, clip.roles)
    got = ContrastiveTerm(0, jointly=True)(Outcome(prediction, clip))
    features = prediction.features.maps[0]
    labels = cell_labels(clip.labels.flatten(0, 1), (features.shape[-2], features.shape[-1]))
    torch.testing.assert_close(got, contrastive_loss(features, labels))
    assert abs(got.item() - ContrastiveTerm(0)(Outcome(prediction, clip)).item()) > 1e-3
    clip.indices[1] = 4  # a still image leaves the joint loss too
    alone = contrastive_loss(features[:2], labels[:2])
    torch.testing.assert_close(ContrastiveTerm(0, jointly=True)(Outcome(prediction, clip)), alone)


def test_anchors_are_where_the_model_is_wrong() -> None:
    """Cells of 2 x 2 pixels; the model says something of the query frame alone."""
    model, clip = tiny_model(dropout=0.0), batch()
    prediction = model(clip.images, clip.roles)
    term = contrastive_term(model, 0, 0, anchors=4)
    own = term._predicted(Outcome(prediction, clip), (6, 8))
    assert (own[:, 0] == -1).all()  # the first frame is no query
    expected = prediction.logits[:, 0].argmax(1)
    assert torch.equal(own[:, 1], expected)
    assert term(Outcome(prediction, clip)).item() > 0
    torch.manual_seed(0)
    first = term(Outcome(prediction, clip)).item()
    torch.manual_seed(0)
    assert term(Outcome(prediction, clip)).item() == first
    every = contrastive_term(model, 0, 0, anchors=10_000, anchors_per_class=10_000)
    torch.testing.assert_close(
        every(Outcome(prediction, clip)), contrastive_term(model, 0, 0)(Outcome(prediction, clip))
    )


def test_temperature_by_name() -> None:
    model, clip = tiny_model(dropout=0.0), batch()
    prediction = model(clip.images, clip.roles)
    for name, value in (("contrastiveseg", 0.1), ("moco", 0.07), ("moco-v2", 0.2)):
        named, plain = (
            ContrastiveTerm(0, name)(Outcome(prediction, clip)),
            ContrastiveTerm(0, value)(Outcome(prediction, clip)),
        )
        assert named.item() == plain.item()
    with pytest.raises(InputError, match="expected a number or one of contrastiveseg, moco, moco-v2, came 'simclr'"):
        ContrastiveTerm(0, "simclr")


@pytest.fixture(scope="module")
def masks() -> tuple:
    """A small Mask2Former, a batch of two moving clips of two query frames, and its prediction."""
    from everyframe.frames import Role

    torch.manual_seed(0)
    model = create_model("mask2former-tiny", LabelSpace(("a", "b", "c")), backbone={"width": 8, "stem_width": 8})
    labels = torch.randint(0, 3, (2, 2, 8, 12), dtype=torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    images = torch.randint(0, 256, (2, 2, 3, 32, 48), dtype=torch.uint8)
    known = torch.ones(2, 2, dtype=torch.bool)
    indices = torch.tensor([[0, 3], [1, 4]])
    clip = Clip(images, labels, known, (Role.QUERY, Role.QUERY), indices, ("x", "y"))
    return model, clip, model.train()(clip.images, clip.roles)


@pytest.mark.parametrize("feature", ["pixels", "memory0", "memory2", 0, -1])
def test_features_of_mask_heads(masks: tuple, feature: str | int) -> None:
    model, clip, prediction = masks
    maps, embedding = prediction.features.maps, prediction.features.embedding
    features = maps[feature] if isinstance(feature, int) else embedding[feature]
    got = contrastive_term(model, feature, 0)(Outcome(prediction, clip))
    torch.testing.assert_close(got, torch.stack(by_hand(features, clip)).mean())


def test_left_out_the_feature_is_the_heads_shared_map(masks: tuple) -> None:
    model, clip, prediction = masks
    left_out, named = contrastive_term(model, None, 0), contrastive_term(model, "memory2", 0)
    assert left_out(Outcome(prediction, clip)).item() == named(Outcome(prediction, clip)).item()
    pixels = tiny_model()
    pixels.head.channels = 6
    assert contrastive_term(pixels, None, 0).feature == "pixels"


@pytest.mark.parametrize("name", ["netwarp-ocr-tiny", "tcb-psp-tiny"])
def test_left_out_where_frames_meet_early_it_is_the_backbones_coarsest_map(name: str) -> None:
    model = create_model(name, LabelSpace(("a", "b")))
    term = contrastive_term(model, None, 0)
    clip = Clip.stack([make_clip(2), make_clip(3)])
    prediction = model(clip.images, clip.roles)
    got = term(Outcome(prediction, clip))
    torch.testing.assert_close(got, contrastive_term(model, -1, 0)(Outcome(prediction, clip)))
    assert got.requires_grad


def test_several_features_are_averaged_each_with_its_projection(masks: tuple) -> None:
    model, clip, prediction = masks
    names = ["memory0", "memory1", "memory2"]
    several = contrastive_term(model, names, 0, warmup=2)
    single = [contrastive_term(model, name, 0)(Outcome(prediction, clip)) for name in names]
    torch.testing.assert_close(several(Outcome(prediction, clip, step=2)), torch.stack(single).mean())
    assert several(Outcome(prediction, clip, step=1)).item() == 0
    projected = contrastive_term(model, names, 8)
    assert isinstance(projected, MeanOverFeatures)
    assert len(list(projected.parameters())) == 3 * len(list(contrastive_term(model, "memory0", 8).parameters()))
    with pytest.raises(InputError, match="at least one feature"):
        contrastive_term(model, [])


def test_anchors_of_mask_heads_know_the_models_classes(masks: tuple) -> None:
    model, clip, prediction = masks
    term = contrastive_term(model, None, 0, anchors=30)
    own = term._predicted(Outcome(prediction, clip), (4, 6))
    assert own.shape == (2, 2, 4, 6)
    assert set(own.unique().tolist()) <= {0, 1, 2}
    assert term(Outcome(prediction, clip)).isfinite()


@pytest.mark.parametrize("options", [{"anchors": -1}, {"warmup": -1}, {"anchors_per_class": 1}])
def test_options_of_the_term_are_checked(options: dict) -> None:
    with pytest.raises(InputError, match="expected 0 or more anchors and steps of warm-up"):
        ContrastiveTerm(0, **options)
