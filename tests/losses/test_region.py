"""Region mutual information: against its formula in numpy, and what ignored pixels do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.losses.region import region_loss, sigmoid_cross_entropy


def scene() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (2, 5, 6)).repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
    labels[0, 3:9, 5:12] = 255
    return torch.randn(2, 3, 20, 24), labels


def pooled(x: np.ndarray) -> np.ndarray:
    """Mean over cells of 4 x 4 pixels of a map with two rows and columns of zeros around it."""
    x = np.pad(x, 2)
    h, w = x.shape[0] // 4, x.shape[1] // 4
    return x[: 4 * h, : 4 * w].reshape(h, 4, w, 4).mean((1, 3))


def regions(x: np.ndarray) -> np.ndarray:
    h, w = x.shape
    columns = [x[i : i + h - 2, j : j + w - 2].ravel() for i in range(3) for j in range(3)]
    matrix = np.stack(columns)
    return matrix - matrix.mean(1, keepdims=True)


def test_bound_by_its_formula() -> None:
    logits, labels = scene()
    total = 0.0
    for image, target in zip(logits.double().numpy(), labels.numpy(), strict=True):
        for k in range(3):
            p = regions(pooled((target != 255) / (1 + np.exp(-image[k])) + 1e-6))
            y = regions(pooled((target == k).astype(float)))
            eye = 5e-4 * np.eye(9)
            rest = y @ y.T - y @ p.T @ np.linalg.inv(p @ p.T + eye) @ p @ y.T
            total += 0.5 * np.linalg.slogdet(rest + eye)[1] / 9
    assert region_loss(logits, labels).item() == pytest.approx(total / 2, rel=1e-4)


def test_sigmoid_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[[0.0, 1.0, 5.0]], [[2.0, -1.0, 5.0]]]])
    labels = torch.tensor([[[0, 1, 255]]], dtype=torch.uint8)
    s = F.softplus
    want = (s(torch.tensor(-0.0)) + s(torch.tensor(2.0)) + s(torch.tensor(1.0)) + s(torch.tensor(1.0))) / 2
    torch.testing.assert_close(sigmoid_cross_entropy(logits, labels), want)


def test_prediction_that_follows_the_labels_costs_less() -> None:
    logits, labels = scene()
    right = 8 * F.one_hot(labels.where(labels < 3, 0).long(), 3).movedim(-1, 1).float() - 4
    assert region_loss(right, labels) < region_loss(logits, labels)


def test_ignored_pixels_have_no_gradient() -> None:
    logits, labels = scene()
    labels[1] = 255  # a picture without labels leaves the mean
    logits.requires_grad_()
    for loss in (region_loss, sigmoid_cross_entropy):
        value = loss(logits, labels)
        torch.testing.assert_close(value, loss(logits[:1], labels[:1]))
        (gradient,) = torch.autograd.grad(value, logits)
        assert not gradient.movedim(1, -1)[labels == 255].any()
        assert gradient[0].abs().sum() > 0
        assert loss(logits, torch.full_like(labels, 255)).item() == 0


def test_logits_of_any_resolution() -> None:
    logits, labels = torch.randn(2, 3, 5, 6), scene()[1]
    full = F.interpolate(logits, size=(20, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(region_loss(logits, labels), region_loss(full, labels))


def test_pictures_without_a_region_are_refused() -> None:
    with pytest.raises(InputError, match="at least 8 pixels a side, came 7x24; use larger crops"):
        region_loss(torch.randn(1, 3, 7, 24), torch.zeros(1, 7, 24, dtype=torch.uint8))


@pytest.mark.parametrize(("pool", "least"), [(1, 3), (2, 4), (3, 7), (4, 8)])
def test_smallest_picture_for_each_size_of_cells(pool: int, least: int) -> None:
    labels = torch.zeros(1, least, least, dtype=torch.uint8)
    assert region_loss(torch.randn(1, 3, least, least), labels, pool=pool).isfinite()
    with pytest.raises(InputError, match=f"at least {least} pixels a side"):
        region_loss(torch.randn(1, 3, least - 1, 24), torch.zeros(1, least - 1, 24, dtype=torch.uint8), pool=pool)
