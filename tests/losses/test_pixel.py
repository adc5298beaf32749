"""Pixel losses against per-pixel oracles in double precision, and their rules about ignored pixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.losses import pixel
from everyframe.losses.pixel import (
    cross_entropy,
    dice,
    labelled_weights,
    lovasz,
    ohem_weights,
    top_k_weights,
    upsample,
)

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "cross_entropy_pixels": lambda x, y: cross_entropy(x, y, average="pixels"),
    "cross_entropy_weighted": lambda x, y: cross_entropy(x, y, class_weights=torch.arange(1.0, 5.0)),
    "cross_entropy_top_k": lambda x, y: cross_entropy(x, y, pixel_weights=top_k_weights(x, y, 0.4)),
    "cross_entropy_ohem": lambda x, y: cross_entropy(x, y, pixel_weights=ohem_weights(x, y, 0.4, 5)),
    "dice": dice,
    "dice_all": lambda x, y: dice(x, y, classes="all"),
    "lovasz": lovasz,
    "lovasz_all": lambda x, y: lovasz(x, y, classes="all"),
}


def batch(
    n: int = 2, k: int = 4, size: tuple[int, int] = (6, 7), coarse: tuple[int, int] = (3, 4)
) -> tuple[Tensor, Tensor]:
    labels = torch.randint(0, k, (n, *size), dtype=torch.uint8)
    labels[torch.rand(labels.shape) < 0.3] = 255
    return torch.randn(n, k, *coarse, requires_grad=True), labels


def bilinear(image: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """[K, h, w] -> [K, H, W] with half-pixel centres, one output pixel at a time."""
    k, h, w = image.shape
    out = np.zeros((k, *size))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * h / size[0] - 0.5, 0), h - 1)
            x = min(max((j + 0.5) * w / size[1] - 0.5, 0), w - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = image[:, y0, x0] * (1 - (x - x0)) + image[:, y0, x1] * (x - x0)
            bottom = image[:, y1, x0] * (1 - (x - x0)) + image[:, y1, x1] * (x - x0)
            out[:, i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


def pixels(logits: Tensor, labels: Tensor) -> tuple[list[NDArray[np.float64]], list[int]]:
    """Softmax vector and train id of every labelled pixel, in order."""
    probabilities, ids = [], []
    for image, label in zip(logits.detach().double().numpy(), labels.numpy(), strict=True):
        full = bilinear(image, label.shape)
        for i in range(label.shape[0]):
            for j in range(label.shape[1]):
                if label[i, j] != 255:
                    e = np.exp(full[:, i, j] - full[:, i, j].max())
                    probabilities.append(e / e.sum())
                    ids.append(int(label[i, j]))
    return probabilities, ids


def test_upsampling_is_half_pixel_bilinear() -> None:
    logits, _ = batch(coarse=(3, 4))
    expected = bilinear(logits[0].detach().double().numpy(), (7, 9))
    np.testing.assert_allclose(upsample(logits, (7, 9))[0].detach().numpy(), expected, atol=1e-5)


def test_infinite_logits_stay_where_they_are() -> None:
    """Infinity at a corner reaches the pixels around it, not all of its row and column."""
    logits = torch.zeros(1, 2, 3, 4)
    logits[0, 0, 0, 0] = torch.inf
    full = upsample(logits, (12, 16))
    assert full[0, 0].isnan().sum() == 0
    assert full[0, 0, :2, :2].isinf().all()
    assert (full[0, 0, 6:] == 0).all()
    assert (full[0, 1] == 0).all()


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    logits, labels = batch()
    probabilities, ids = pixels(logits, labels)
    terms = [-math.log(p[c]) for p, c in zip(probabilities, ids, strict=True)]
    assert cross_entropy(logits, labels).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert cross_entropy(logits, labels, average="pixels").item() == pytest.approx(
        sum(terms) / labels.numel(), rel=1e-5
    )
    weights = torch.tensor([0.5, 2.0, 1.0, 0.0])
    weighted = [weights[c].item() * t for c, t in zip(ids, terms, strict=True)]
    share = sum(weights[c].item() for c in ids)
    assert cross_entropy(logits, labels, weights).item() == pytest.approx(sum(weighted) / share, rel=1e-5)


def test_cross_entropy_by_hand() -> None:
    """Two pixels, two classes: logits (0, ln 3) give 1/4 and 3/4."""
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    assert cross_entropy(logits, labels).item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2, rel=1e-6)


def test_cross_entropy_gradient_equals_autograd_through_the_whole_batch() -> None:
    logits, labels = batch()
    weights = torch.rand(4)
    (3 * cross_entropy(logits, labels, weights)).backward()
    ours = logits.grad
    twin = logits.detach().clone().requires_grad_()
    full = nn.functional.interpolate(twin, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    (3 * nn.functional.cross_entropy(full, labels.long(), weights, ignore_index=255)).backward()
    torch.testing.assert_close(ours, twin.grad)


def test_class_weights_of_another_number_of_classes_are_refused() -> None:
    logits, labels = torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8)
    for count in (2, 4):
        with pytest.raises(InputError, match=f"expected 3 class weights, one per class, came {count}"):
            cross_entropy(logits, labels, torch.ones(count))


def test_cross_entropy_with_a_given_divisor() -> None:
    """Two halves of a batch with the divisor of the whole sum up to the whole: what distributed training needs."""
    logits, labels = batch()
    divisor = labelled_weights(labels).sum()
    halves = sum(cross_entropy(logits[n : n + 1], labels[n : n + 1], divisor=divisor) for n in range(2))
    torch.testing.assert_close(halves, cross_entropy(logits, labels))


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_gradient(name: str) -> None:
    logits, labels = batch(coarse=(6, 7))
    LOSSES[name](logits, labels).backward()
    ignored = (labels == 255)[:, None].expand_as(logits)
    assert logits.grad is not None
    assert (logits.grad[ignored] == 0).all()
    assert (logits.grad[~ignored] != 0).any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("poison", [0.0, float("inf")])
def test_a_batch_without_labels_costs_exactly_nothing(name: str, poison: float) -> None:
    logits, labels = batch()
    with torch.no_grad():
        logits[0, 0, 0, 0] += poison
    loss = LOSSES[name](logits, torch.full_like(labels, 255))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    if poison == 0 or name.startswith("cross_entropy"):
        assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_bf16_logits_are_computed_in_float32(name: str) -> None:
    logits, labels = batch()
    with torch.no_grad():
        logits.copy_(logits.bfloat16().float())
    exact = LOSSES[name](logits, labels)
    with torch.autocast("cpu", torch.bfloat16):
        half = logits.detach().bfloat16().requires_grad_()
        loss = LOSSES[name](half, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_one_pixel(name: str) -> None:
    logits = torch.zeros(1, 4, 1, 1, requires_grad=True)
    loss = LOSSES[name](logits, torch.zeros(1, 1, 1, dtype=torch.uint8))
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 0


def test_dice_against_sums_over_pixels() -> None:
    logits, labels = batch()
    labels[labels == 2] = 1  # class 2 does not occur
    probabilities, ids = pixels(logits, labels)
    losses = []
    for c in range(4):
        overlap = sum(p[c] for p, i in zip(probabilities, ids, strict=True) if i == c)
        losses.append(1 - (2 * overlap + 1) / (sum(p[c] for p in probabilities) + ids.count(c) + 1))
    assert dice(logits, labels, classes="all").item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert dice(logits, labels).item() == pytest.approx(np.mean([losses[c] for c in (0, 1, 3)]), rel=1e-5)


def test_lovasz_is_the_extension_of_the_jaccard_loss() -> None:
    """Oracle: the Lovász extension as an integral of the set function over the level sets of the errors."""
    logits, labels = batch()
    probabilities, ids = pixels(logits, labels)
    losses = []
    for c in range(4):
        truth = np.array([i == c for i in ids])
        errors = np.array([abs(float(t) - p[c]) for t, p in zip(truth, probabilities, strict=True)])
        levels = np.sort(np.append(errors, 0.0))
        value = 0.0
        for low, high in itertools.pairwise(levels):
            wrong = errors > (low + high) / 2
            union = (truth | wrong).sum()
            value += (high - low) * (1 - (truth & ~wrong).sum() / union)
        losses.append(value)
    assert lovasz(logits, labels).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_lovasz_of_hard_predictions_is_one_minus_iou() -> None:
    labels = torch.tensor([[[0, 0, 0, 1]]], dtype=torch.uint8)
    predicted = torch.tensor([[[0, 0, 1, 1]]])
    logits = 100 * nn.functional.one_hot(predicted, 2).permute(0, 3, 1, 2).float()
    assert lovasz(logits, labels).item() == pytest.approx(1 - (2 / 3 + 1 / 2) / 2, abs=1e-6)


@pytest.mark.parametrize(("threshold", "kept"), [(0.7, 3), (0.2, 12), (0.01, 5), (None, 4), (0.5, 10_000)])
def test_ohem_keeps_the_pixels_of_lowest_probability(threshold: float | None, kept: int) -> None:
    logits, labels = batch()
    probabilities, ids = pixels(logits, labels)
    true = np.array([p[c] for p, c in zip(probabilities, ids, strict=True)])
    order = np.sort(true)
    if threshold is None:
        expected = true <= order[min(2 * kept, len(true)) - 1]
    else:
        expected = true < max(threshold, order[min(2 * kept, len(true) - 1)])
    weights = ohem_weights(logits, labels, threshold, kept)
    assert (weights[labels == 255] == 0).all()
    np.testing.assert_array_equal(weights[labels != 255].numpy() == 1, expected)


def test_cross_entropy_with_ohem_averages_over_the_kept_pixels() -> None:
    logits, labels = batch()
    probabilities, ids = pixels(logits, labels)
    true = np.array([p[c] for p, c in zip(probabilities, ids, strict=True)])
    loss = cross_entropy(logits, labels, pixel_weights=ohem_weights(logits, labels, 0.3, 0))
    assert loss.item() == pytest.approx(-np.log(true[true < max(0.3, true.min())]).mean(), rel=1e-5)


@pytest.mark.parametrize("share", [0.2, 0.55, 1.0, 1e-6])
def test_cross_entropy_of_the_top_k_averages_over_the_largest_losses(share: float) -> None:
    logits, labels = batch()
    probabilities, ids = pixels(logits, labels)
    losses = np.sort([-np.log(p[c]) for p, c in zip(probabilities, ids, strict=True)])[::-1]
    loss = cross_entropy(logits, labels, pixel_weights=top_k_weights(logits, labels, share))
    assert loss.item() == pytest.approx(losses[: max(1, int(share * len(losses)))].mean(), rel=1e-5)


def test_cross_entropy_keeps_one_image_at_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors that autograd keeps do not contain the upsampled batch."""
    monkeypatch.setattr(pixel, "SMALL", 0)
    logits = torch.randn(4, 8, 4, 4, requires_grad=True)
    labels = torch.zeros(4, 64, 64, dtype=torch.uint8)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        cross_entropy(logits, labels)
    assert max(saved, default=0) <= 8 * 64 * 64


@pytest.mark.parametrize("together", [1, 2, 3, 9])
def test_cross_entropy_is_the_same_however_many_images_are_taken_together(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (5, 9, 11), dtype=torch.uint8)
    labels[1], labels[3, :4] = 255, 255
    weights = torch.rand(5, 9, 11)
    monkeypatch.setattr(pixel, "SMALL", together * 3 * 9 * 11)
    loss = cross_entropy(logits, labels, pixel_weights=weights)
    full = nn.functional.interpolate(logits, (9, 11), mode="bilinear", align_corners=False)
    each = nn.functional.cross_entropy(full, labels.long(), ignore_index=255, reduction="none") * weights
    want = each.sum() / weights[labels != 255].sum()
    torch.testing.assert_close(loss, want.float())
    gradient, expected = (torch.autograd.grad(x, logits)[0] for x in (loss, want))
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)
    assert not gradient[1].any()
