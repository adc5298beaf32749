from __future__ import annotations

import pytest
import torch
from tiny_run import make_clip, tiny_model

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.losses.contrastive import cell_labels, contrastive_loss
from everyframe.training.objective_contrastive import ContrastiveTerm
from everyframe.training.objectives_temporal import video_objective


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
    alone = term(model(moving.images, moving.roles), moving)
    clip.indices[1] = 4  # the second clip shows one frame twice
    torch.testing.assert_close(term(model(clip.images, clip.roles), clip), alone)
    clip.indices[0] = 4
    still = term(model(clip.images, clip.roles), clip)
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
        ContrastiveTerm("encoder")(prediction, clip)
    with pytest.raises(InputError, match=r"backbone map 0..0, came 1"):
        video_objective(model, contrastive=0.1, contrastive_feature=1)
    with pytest.raises(InputError, match="channels of the feature"):
        ContrastiveTerm(projection=4)
