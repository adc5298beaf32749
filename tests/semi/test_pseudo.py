"""Pseudo-labels, their loss and their ramp, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.semi.pseudo import (
    Teaching,
    coverage,
    cutmix,
    cutmix_boxes,
    precision,
    pseudo_label_loss,
    pseudo_labels,
    ramp_up,
)


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    """[N, K] probabilities of single pixels -> logits [1, K, 1, N]; softmax does not see the added constant."""
    return (torch.tensor(probabilities).log() + 3.0).T[None, :, None]


def test_defaults_are_the_papers() -> None:
    """SSLTM section 4.2: pixels count from 0.9 on, the teacher is the mean of the students with momentum 0.999."""
    assert (Teaching().threshold, Teaching().momentum, Teaching().cutmix) == (0.9, 0.999, 0.0)


def test_ramp_of_laine_and_aila() -> None:
    assert ramp_up(0, 100) == pytest.approx(math.exp(-5)) == pytest.approx(0.006738, abs=1e-6)
    assert ramp_up(50, 100) == pytest.approx(math.exp(-1.25)) == pytest.approx(0.286505, abs=1e-6)
    assert ramp_up(80, 100) == pytest.approx(math.exp(-0.2))
    assert ramp_up(100, 100) == ramp_up(5000, 100) == ramp_up(0, 0) == 1.0


def test_weight_over_a_run() -> None:
    teaching = Teaching(weight=2.0, ramp=0.2)
    assert teaching.weight_at(0, 1000) == pytest.approx(2 * math.exp(-5))
    assert teaching.weight_at(100, 1000) == pytest.approx(2 * math.exp(-1.25))
    assert teaching.weight_at(200, 1000) == teaching.weight_at(999, 1000) == 2.0
    assert Teaching(weight=0.5, ramp=0.0).weight_at(0, 1000) == 0.5
    assert Teaching().weight == 0  # supervised training unless asked for


def test_only_sure_pixels_get_a_label() -> None:
    logits = logits_of([[0.95, 0.03, 0.02], [0.05, 0.91, 0.04], [0.1, 0.01, 0.89], [0.4, 0.3, 0.3]])
    assert pseudo_labels(logits, (1, 4), 0.9).tolist() == [[[0, 1, 255, 255]]]
    assert pseudo_labels(logits, (1, 4), 0.5).tolist() == [[[0, 1, 2, 255]]]
    assert pseudo_labels(logits, (1, 4), 0.0).tolist() == [[[0, 1, 2, 0]]]
    assert (pseudo_labels(logits * torch.nan, (1, 4), 0.0) == 255).all()


def test_probabilities_are_those_of_the_upsampled_logits() -> None:
    torch.manual_seed(3)
    logits = 4 * torch.randn(2, 5, 3, 4)
    full = F.interpolate(logits, (11, 13), mode="bilinear", align_corners=False).softmax(1)
    expected = torch.where(full.amax(1) >= 0.6, full.argmax(1), 255)
    labels = pseudo_labels(logits, (11, 13), 0.6)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), expected)
    assert 0 < (labels == 255).float().mean() < 1


def scores_of(pixels: list[list[float]]) -> torch.Tensor:
    """[N, K] scores of single pixels -> [1, K, 1, N]."""
    return torch.tensor(pixels).T[None, :, None]


def test_scores_of_mask_heads_become_probabilities() -> None:
    """Sums of class times mask probability, by hand: sure; sure of little; two sure queries; overlapping; nothing."""
    scores = scores_of([[0.95, 0.02], [0.30, 0.01], [1.80, 0.10], [0.90, 0.90], [0.0, 0.0]])
    kept = {
        # bounded: 0.95 / 1, 0.30 / 1, 1.80 / 1.90 = 0.947, 0.90 / 1.80 = 0.5, 0
        ("bounded", 0.94): [0, 255, 0, 255, 255],
        ("bounded", 0.949): [0, 255, 255, 255, 255],
        ("bounded", 0.29): [0, 0, 0, 0, 255],
        # l1: 0.95 / 0.97 = 0.979, 0.30 / 0.31 = 0.968, 0.947, 0.5, 0
        ("l1", 0.96): [0, 0, 255, 255, 255],
        ("l1", 0.94): [0, 0, 0, 255, 255],
        # the softmax of 1.8 against 0.1 is 0.846: as logits these scores are never sure
        ("softmax", 0.9): [255] * 5,
    }
    for (confidence, threshold), labels in kept.items():
        assert pseudo_labels(scores, (1, 5), threshold, confidence).tolist() == [[labels]], (confidence, threshold)


def test_scores_are_upsampled_before_they_are_divided() -> None:
    scores = scores_of([[1.0, 0.0], [0.0, 0.5]])
    # At 4 columns: 1, 0.75, 0.25, 0 of class 0 and 0, 0.125, 0.375, 0.5 of class 1.
    assert pseudo_labels(scores, (1, 4), 0.7, "bounded").tolist() == [[[0, 0, 255, 255]]]
    assert pseudo_labels(scores, (1, 4), 0.7, "l1").tolist() == [[[0, 0, 255, 1]]]
    assert pseudo_labels(scores, (1, 4), 0.5, "l1").tolist() == [[[0, 0, 1, 1]]]


def test_loss_is_divided_by_all_pixels_that_are_no_padding() -> None:
    """-ln 0.8 and -ln 0.5 at the two kept pixels; three pixels are inside, the fourth is padding."""
    logits = logits_of([[0.8, 0.2], [0.5, 0.5], [0.9, 0.1], [0.1, 0.9]])
    labels = torch.tensor([[[0, 1, 255, 0]]], dtype=torch.uint8)
    inside = torch.tensor([[[True, True, True, False]]])
    loss = pseudo_label_loss(logits, labels, inside)
    assert loss.item() == pytest.approx((-math.log(0.8) - math.log(0.5)) / 3)
    assert coverage(labels, inside).item() == pytest.approx(2 / 3)


def test_nothing_kept_costs_exactly_nothing() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    labels = pseudo_labels(logits.detach(), (8, 8), 0.9999)
    assert (labels == 255).all()
    inside = torch.ones(2, 8, 8, dtype=torch.bool)
    loss = pseudo_label_loss(logits, labels, inside)
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()
    assert coverage(labels, inside) == 0
    assert math.isnan(precision(labels, torch.zeros_like(labels)).item())


def test_precision_counts_kept_pixels_of_known_truth() -> None:
    labels = torch.tensor([[[0, 1, 255, 2, 2]]], dtype=torch.uint8)
    truth = torch.tensor([[[0, 2, 0, 255, 2]]], dtype=torch.uint8)
    assert precision(labels, truth).item() == pytest.approx(2 / 3)


def test_boxes_cover_half_the_picture_and_follow_the_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = cutmix_boxes((40, 60), 50, 1.0, generator)
    for box in boxes:
        rows, columns = box.any(1).sum(), box.any(0).sum()
        assert box.sum() == rows * columns  # one rectangle
        assert 20 <= rows <= 40
        assert box.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert len({tuple(box.nonzero()[0].tolist()) for box in boxes}) > 10
    assert not cutmix_boxes((40, 60), 50, 0.0, generator).any()
    assert 10 < cutmix_boxes((40, 60), 50, 0.5, generator).flatten(1).any(1).sum() < 40


def test_cutmix_pastes_the_next_clip() -> None:
    clips = torch.arange(3).view(3, 1, 1, 1, 1).expand(3, 2, 3, 2, 2)  # B T C H W
    boxes = torch.zeros(3, 2, 2, dtype=torch.bool)
    boxes[1:, 0, 0] = True
    mixed = cutmix(clips, boxes)
    assert mixed[0].unique().tolist() == [0]
    assert (mixed[1, :, :, 0, 0] == 2).all()  # all frames alike
    assert (mixed[2, :, :, 0, 0] == 0).all()  # the last one takes from the first
    assert mixed[2, :, :, 1].unique().tolist() == [2]
    assert torch.equal(cutmix(clips[:, 0, 0], boxes), mixed[:, 0, 0])


@pytest.mark.parametrize("options", [{"weight": -1}, {"threshold": 1.5}, {"momentum": -0.1}, {"cutmix": 2}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"teacher.{next(iter(options))}: expected"):
        Teaching(**options)


def test_confidence_of_mask_heads_is_checked() -> None:
    with pytest.raises(InputError, match="expected one of softmax, bounded, l1, came 'sure'"):
        Teaching(mask_confidence="sure")  # type: ignore[arg-type]
