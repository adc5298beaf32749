"""Terms at the edges between classes, and the forms of the cross entropy: against the losses on the query's pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_run import make_clip
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.labels import LabelSpace
from everyframe.losses.boundary import at_edges, edge_loss, edge_map, relaxed_cross_entropy
from everyframe.losses.inverse_form import TransformRegressor, inverse_distance
from everyframe.losses.pixel import cross_entropy, upsample
from everyframe.losses.region import region_loss, sigmoid_cross_entropy
from everyframe.models.segmenter import Prediction, Segmenter
from everyframe.models.zoo import create_model
from everyframe.training.objective import Objective, pixel_objective
from everyframe.training.objective_boundary import EdgeTerm
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.outcome import Outcome

SPACE = LabelSpace(("dark", "bright"))


def batch() -> tuple[Segmenter, Prediction, Clip]:
    torch.manual_seed(2)
    model = create_model("ocr-tiny", SPACE, head={"width": 8, "dropout": 0.0})
    clip = Clip.stack([make_clip(2), make_clip(3)])
    return model, model(clip.images, clip.roles), clip


def costs(**options: Any) -> tuple[dict[str, Tensor], Prediction, Tensor]:
    _, prediction, clip = batch()
    return pixel_objective(**options)(prediction, clip), prediction, clip.query_labels.flatten(0, 1)


def test_relaxed_form_relaxes_the_main_loss_alone() -> None:
    got, prediction, labels = costs(cross_entropy_form="relaxed", relaxed_border=2, strict_classes=[1])
    want = relaxed_cross_entropy(prediction.logits.flatten(0, 1), labels, 2, (1,))
    torch.testing.assert_close(got["cross_entropy"], want)
    assert prediction.auxiliary is not None
    torch.testing.assert_close(got["auxiliary"], cross_entropy(prediction.auxiliary[:, 1], labels))


def test_region_loss_with_sigmoids() -> None:
    got, prediction, labels = costs(cross_entropy_form="sigmoid", cross_entropy=0.5, region=0.5)
    logits = prediction.logits.flatten(0, 1)
    assert prediction.auxiliary is not None
    pixels, coarse = sigmoid_cross_entropy(logits, labels), sigmoid_cross_entropy(prediction.auxiliary[:, 1], labels)
    want = 0.5 * pixels + 0.5 * region_loss(logits, labels) + 0.4 * coarse
    torch.testing.assert_close(got["loss"], want)


def test_rare_classes_weigh_more() -> None:
    got, prediction, labels = costs(rare_classes=2.0)
    share = torch.stack([(labels == k).sum() for k in range(2)]) / (labels != 255).sum()
    want = cross_entropy(prediction.logits.flatten(0, 1), labels, 1 + 2 * (1 - share))
    torch.testing.assert_close(got["cross_entropy"], want)


def test_each_scale_costs() -> None:
    _, prediction, clip = batch()
    logits = prediction.logits
    prediction.outputs |= {"logits@1": logits, "logits@0.5": 2 * logits}
    got = pixel_objective(scales=0.05)(prediction, clip)["scales"]
    labels = clip.query_labels.flatten(0, 1)
    want = sum(cross_entropy(factor * logits.flatten(0, 1), labels) for factor in (1, 2))
    torch.testing.assert_close(got, torch.as_tensor(want))
    del prediction.outputs["logits@1"], prediction.outputs["logits@0.5"]
    assert pixel_objective(scales=0.05)(prediction, clip)["scales"].item() == 0


def regressor_file(folder: Path) -> tuple[TransformRegressor, Path]:
    torch.manual_seed(8)
    regressor = TransformRegressor(tile=4, hidden=6)
    save_file(regressor.state_dict(), folder / "regressor.safetensors")
    return regressor, folder / "regressor.safetensors"


def test_edges_of_the_query_frames(tmp_path: Path) -> None:
    model, prediction, clip = batch()
    regressor, file = regressor_file(tmp_path)
    weights: dict[str, Any] = {"edges": 0.3, "edge_attention": 0.1, "inverse_form": 0.3, "edge_radius": 1}
    objective = video_objective(model, **weights, edge_regressor=str(file))
    # The regressor is no part of what is trained and saved.
    assert {name for name, _ in objective.named_parameters()} == {"edges.detector.weight", "edges.detector.bias"}
    got = objective(prediction, clip)

    detector = objective.terms["edges"][1]
    assert isinstance(detector, EdgeTerm)
    labels = clip.query_labels.flatten(0, 1)
    pixels = prediction.features.embedding["pixels"].unflatten(0, (2, 2))[:, 1]
    logits, truth = upsample(detector.detector(pixels), (12, 16)), edge_map(labels, 1)
    torch.testing.assert_close(got["edges"], edge_loss(logits, truth))
    attended = cross_entropy(prediction.logits.flatten(0, 1), at_edges(labels, logits.sigmoid()))
    torch.testing.assert_close(got["edge_attention"], attended)
    seen, true = logits.sigmoid() * (truth != 255)[:, None], (truth == 1)[:, None].float()
    torch.testing.assert_close(got["inverse_form"], inverse_distance(regressor, seen, true))

    got["loss"].backward()
    assert all(p.grad is not None for p in (*objective.parameters(), *model.head.neck.parameters()))


def test_clips_without_labels_cost_nothing_and_reach_every_weight(tmp_path: Path) -> None:
    model, prediction, clip = batch()
    clip.labels[:] = 255
    objective = video_objective(
        model, edges=1.0, edge_attention=1.0, inverse_form=1.0, edge_regressor=str(regressor_file(tmp_path)[1]),
        region=1.0, cross_entropy_form="relaxed",
    )  # fmt: skip
    loss = objective(prediction, clip)["loss"]
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in (*objective.parameters(), *model.head.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inverse_form": 0.3}, "edges above 0 with any of them"),
        ({"edges": 0.3, "inverse_form": 0.3}, "expected a transform regressor in objective.edge_regressor"),
        ({"cross_entropy_form": "sigmoid", "rare_classes": 1.0}, "another one than sigmoid with class_weights"),
        ({"cross_entropy_form": "relaxed", "ohem": True}, "softmax with ohem"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        video_objective(create_model("ocr-tiny", SPACE, head={"width": 8}), **options)


def test_masks_have_no_logits_to_attend_with() -> None:
    model = create_model("mask2former-tiny", SPACE)
    with pytest.raises(InputError, match="came one for masks; leave it out"):
        video_objective(model, edges=0.3, edge_attention=0.1)
    with pytest.raises(InputError, match="for motion and distill_from, came one for masks"):
        video_objective(model, motion=0.1)
    assert isinstance(video_objective(model, edges=0.3), Objective)


def test_models_whose_frames_have_no_pixels_of_their_own_are_refused() -> None:
    model = create_model("mask2former-ssltm-tiny", SPACE)
    clip = Clip.stack([make_clip(2)])
    objective = video_objective(model, edges=0.3)
    with pytest.raises(InputError, match=r"set model\.temporal\.at: pixels"):
        objective.terms["edges"][1](Outcome(model(clip.images, clip.roles), clip))
