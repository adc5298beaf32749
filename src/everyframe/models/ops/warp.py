"""Warping maps along optical flow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.models.ops.numbers import numbers_beside

FORMS = ("corrected", "vspw")


def warp(x: Tensor, flow: Tensor, form: str = "corrected", border: str = "zeros", mode: str = "bilinear") -> Tensor:
    """Read `x` where the cells of another frame lie in it: out(p) = x(p + flow(p)).

    Args:
        x: [N, C, h, w].
        flow: displacement (x, y) in cells of `x`, from the frame whose grid the result has, [N, 2, h, w].
        form: "corrected"; or "vspw", the VSPW code's, which normalises coordinates by (size - 1) and then samples as
            if by size, so that points move by up to half a cell.
        border: what lies outside: "zeros", or "border", the nearest cell.
        mode: "bilinear", or "nearest", for numbers of which there is no mean.

    Returns:
        [N, C, h, w].
    """
    if form not in FORMS:
        raise ValueError(f"warp: expected form 'corrected' or 'vspw', came {form!r}")
    grid = _target(flow)
    size = numbers_beside(x, [x.shape[3], x.shape[2]], grid.dtype)
    normalised = (2 * grid + 1) / size - 1 if form == "corrected" else 2 * grid / (size - 1).clamp(min=1) - 1
    # float32 whatever autocast says: half precision holds no coordinates.
    out = F.grid_sample(x.float(), normalised, mode=mode, padding_mode=border, align_corners=False)
    return out.to(x.dtype)


def inside(flow: Tensor) -> Tensor:
    """Tell which cells' counterparts lie in the picture: bool [N, 1, h, w], for flow [N, 2, h, w] in cells."""
    x, y = _target(flow).unbind(-1)
    h, w = flow.shape[-2:]
    return ((x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1))[:, None]


def resize_flow(flow: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Resize flow [N, 2, H, W] bilinearly to `size`, and its displacements to cells of that size."""
    height, width = flow.shape[-2:]
    scale = numbers_beside(flow, [size[1] / width, size[0] / height], flow.dtype)
    return F.interpolate(flow, tuple(size), mode="bilinear", align_corners=False) * scale[:, None, None]


def _target(flow: Tensor) -> Tensor:
    """Return p + flow(p) as (x, y), float32 [N, h, w, 2]."""
    h, w = flow.shape[-2:]
    rows, columns = (torch.arange(side, device=flow.device, dtype=torch.float32) for side in (h, w))
    cells = torch.stack([columns.expand(h, w), rows[:, None].expand(h, w)], dim=-1)
    return cells + flow.float().movedim(1, -1)
