"""Warping against pixel loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from everyframe.models.ops.warp import inside, resize_flow, warp


def by_loops(x: Tensor, flow: Tensor, form: str, border: str) -> Tensor:
    """out(p) = x(p + flow(p)), four neighbours each."""
    _, c, h, w = x.shape
    out = torch.zeros_like(x)

    def at(row: int, column: int) -> Tensor:
        if border == "border":
            row, column = min(max(row, 0), h - 1), min(max(column, 0), w - 1)
        if 0 <= row < h and 0 <= column < w:
            return x[0, :, row, column]
        return torch.zeros(c, dtype=x.dtype)

    for i in range(h):
        for j in range(w):
            px, py = j + flow[0, 0, i, j].item(), i + flow[0, 1, i, j].item()
            if form == "vspw":  # 2 p / (n - 1) - 1 read as (2 q + 1) / n - 1
                px, py = px / (w - 1) * w - 0.5, py / (h - 1) * h - 0.5
            if border == "border":  # sampling points are clamped, not only their neighbours
                px, py = min(max(px, 0), w - 1), min(max(py, 0), h - 1)
            top, left = math.floor(py), math.floor(px)
            a, b = py - top, px - left
            out[0, :, i, j] = (1 - a) * ((1 - b) * at(top, left) + b * at(top, left + 1)) + a * (
                (1 - b) * at(top + 1, left) + b * at(top + 1, left + 1)
            )
    return out


@pytest.mark.parametrize("form", ["corrected", "vspw"])
@pytest.mark.parametrize("border", ["zeros", "border"])
def test_equals_loops(form: str, border: str) -> None:
    x, flow = torch.randn(1, 2, 5, 7), torch.randn(1, 2, 5, 7) * 3
    torch.testing.assert_close(warp(x, flow, form, border), by_loops(x, flow, form, border), rtol=1e-4, atol=1e-5)


def test_no_motion_changes_nothing_at_any_size() -> None:
    for size in ((5, 7), (1, 1), (1, 4)):
        x = torch.randn(2, 3, *size)
        torch.testing.assert_close(warp(x, torch.zeros(2, 2, *size)), x)
        assert inside(torch.zeros(2, 2, *size)).all()
        assert warp(x, torch.zeros(2, 2, *size), "vspw").isfinite().all()


def test_whole_cells_and_what_leaves_the_picture() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 0] = 1
    torch.testing.assert_close(warp(x, flow)[0, 0], torch.tensor([[1.0, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0]]))
    clamped = torch.tensor([[1.0, 2, 3, 3], [5, 6, 7, 7], [9, 10, 11, 11]])
    torch.testing.assert_close(warp(x, flow, border="border")[0, 0], clamped)
    assert inside(flow)[0, 0].tolist() == [[True, True, True, False]] * 3


def test_flow_is_measured_in_cells_after_resizing() -> None:
    flow = torch.ones(1, 2, 32, 64) * torch.tensor([8.0, 4.0]).view(1, 2, 1, 1)
    small = resize_flow(flow, (8, 8))
    torch.testing.assert_close(small, torch.ones(1, 2, 8, 8))


def test_half_precision_features_keep_exact_coordinates() -> None:
    x = torch.arange(600.0).view(1, 1, 1, 600).bfloat16()
    flow = torch.zeros(1, 2, 1, 600, dtype=torch.bfloat16)
    assert torch.equal(warp(x, flow), x)


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match="expected form 'corrected' or 'vspw', came 'x'"):
        warp(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), form="x")
