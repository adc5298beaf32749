"""The cost of a batch: which pixels and frames count, and how terms add up."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_run import make_clip, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.labels import LabelSpace
from everyframe.models.segmenter import Prediction
from everyframe.models.zoo import create_model
from everyframe.training.objective import TERMS, Objective, pixel_objective
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.outcome import Outcome


def batch() -> tuple[Prediction, Clip]:
    clip = Clip.stack([make_clip(2), make_clip(3)])
    clip.labels[1, 0] = clip.labels[1, 1]  # the adjacent frame of the second clip is labelled too
    return tiny_model(dropout=0.0)(clip.images, clip.roles), clip


def upsampled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, labels.long(), ignore_index=255)


def test_main_loss_on_queries_and_auxiliary_loss_on_all_labelled_frames() -> None:
    prediction, clip = batch()
    costs = pixel_objective()(prediction, clip)
    main = upsampled_cross_entropy(prediction.logits[:, 0], clip.labels[:, 1])
    assert prediction.auxiliary is not None
    auxiliary = upsampled_cross_entropy(prediction.auxiliary.flatten(0, 1), clip.labels.flatten(0, 1))
    assert set(costs) == {"cross_entropy", "auxiliary", "loss"}
    torch.testing.assert_close(costs["cross_entropy"], main)
    torch.testing.assert_close(costs["auxiliary"], auxiliary)
    torch.testing.assert_close(costs["loss"], main + 0.4 * auxiliary)


def test_every_weight_receives_a_gradient_even_without_labels() -> None:
    """A rank whose clips are all ignored must still take part in the reduction of every gradient."""
    model = tiny_model()
    clip = make_clip(0)
    clip.labels[:] = 255
    clip = Clip.stack([clip])
    loss = pixel_objective(dice=1.0, lovasz=1.0)(model(clip.images, clip.roles), clip)["loss"]
    assert loss.item() == 0
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad == 0).all(), name


def test_ohem_counts_hard_pixels_only() -> None:
    prediction, clip = batch()
    probability = F.interpolate(prediction.logits[:, 0], size=(12, 16), mode="bilinear").softmax(1)
    labels = clip.labels[:, 1].long()
    true = probability.gather(1, labels.clamp(max=1)[:, None])[:, 0][labels != 255]
    expected = -true[true < 0.5].log().mean()
    cost = pixel_objective(ohem=True, ohem_threshold=0.5, ohem_min_kept=1)(prediction, clip)["cross_entropy"]
    torch.testing.assert_close(cost, expected)


def test_top_k_counts_the_hardest_share_of_the_labelled_pixels() -> None:
    prediction, clip = batch()
    probability = F.interpolate(prediction.logits[:, 0], size=(12, 16), mode="bilinear").softmax(1)
    labels = clip.labels[:, 1].long()
    losses = -probability.gather(1, labels.clamp(max=1)[:, None])[:, 0][labels != 255].log()
    hardest = losses.sort(descending=True).values[: int(0.2 * len(losses))]
    cost = pixel_objective(top_k=0.2)(prediction, clip)["cross_entropy"]
    torch.testing.assert_close(cost, hardest.mean())
    for options in ({"top_k": 0.0}, {"top_k": 1.5}, {"top_k": 0.2, "ohem": True}):
        with pytest.raises(InputError, match=r"share above 0 and up to 1, and 1 with ohem"):
            pixel_objective(**options)
    with pytest.raises(InputError, match="softmax with ohem, top_k"):
        pixel_objective(top_k=0.2, cross_entropy_form="relaxed")


def test_a_new_term_is_one_entry_and_may_own_parameters() -> None:
    class Prior(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor(3.0))

        def forward(self, outcome: Outcome) -> Tensor:
            return self.bias**2

    objective = Objective({"prior": (0.5, Prior()), "off": (0.0, Prior())})
    costs = objective(*batch())
    assert costs["prior"].item() == 9
    assert costs["loss"].item() == 4.5
    assert [name for name, _ in objective.named_parameters()] == ["prior.bias"]


def test_models_without_auxiliary_head_cost_nothing_there() -> None:
    prediction, clip = batch()
    prediction.auxiliary = None
    costs = pixel_objective()(prediction, clip)
    assert costs["auxiliary"].item() == 0
    assert math.isclose(costs["loss"].item(), costs["cross_entropy"].item())


def test_weights_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="at least one of cross_entropy, dice, lovasz and region"):
        pixel_objective(cross_entropy=0)
    with pytest.raises(InputError, match="0 or more"):
        pixel_objective(dice=-1)


def test_own_terms_come_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outcome: Outcome) -> Tensor:
            return self.scale * outcome.logits.square().mean()

    monkeypatch.setitem(TERMS, "scale", Scale)
    monkeypatch.setitem(TERMS, "mean", lambda outcome: outcome.logits.mean())
    model = create_model("fcn-tiny", LabelSpace(("a", "b")))
    objective = video_objective(model, terms={"scale": 0.5, "mean": 2.0})
    assert [name for name, _ in objective.named_parameters()] == ["scale.scale"]
    prediction, clip = batch()
    costs = objective(prediction, clip)
    logits = prediction.logits[:, 0]
    own = 0.5 * logits.square().mean() + 2 * logits.mean()
    plain = video_objective(model)(prediction, clip)["loss"]
    torch.testing.assert_close(costs["loss"], plain + own)
    with pytest.raises(InputError, match=r"expected names of .*TERMS \(scale, mean\), came 'tversky'"):
        video_objective(model, terms={"tversky": 1.0})
    monkeypatch.setitem(TERMS, "cross_entropy", lambda outcome: outcome.logits.mean())
    with pytest.raises(InputError, match="came 'cross_entropy', a name that is taken"):
        video_objective(model, terms={"cross_entropy": 1.0})


@pytest.mark.parametrize("name", ["loss", "my.term", "forward", "terms"])
def test_names_that_a_module_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"another name of a term, came '{name}'"):
        Objective({name: (1.0, lambda outcome: outcome.logits.mean())})


def test_a_term_that_is_no_scalar_is_named() -> None:
    prediction, clip = batch()
    with pytest.raises(InputError, match=r"from the term 'map', came a tensor \[2, 2,"):
        Objective({"map": (1.0, lambda outcome: outcome.logits)})(prediction, clip)
    with pytest.raises(InputError, match="from the term 'one', came float"):
        Objective({"one": (1.0, lambda outcome: 1.0)})(prediction, clip)  # type: ignore[dict-item, return-value]


def test_an_auxiliary_head_that_its_head_reads_does_not_rest() -> None:
    model = create_model("fcn-tiny", LabelSpace(("a", "b")))
    model.head.reads_auxiliary = True
    video_objective(model, auxiliary=0.0)
    assert all(p.requires_grad for p in model.head.auxiliary.parameters())
    model.head.reads_auxiliary = False
    video_objective(model, auxiliary=0.0)
    assert not any(p.requires_grad for p in model.head.auxiliary.parameters())
