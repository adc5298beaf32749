"""Masks at points: what the set loss reads from predictions and from label maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.frames import IGNORE

Draw = Callable[..., Tensor]
"""Uniform random numbers in 0..1: `torch.rand`, or something that replays recorded ones."""


def present_classes(labels: Tensor) -> list[Tensor]:
    """Return the train ids that occur in each label map of uint8 [N, H, W], rising, int64, without 255."""
    keys = torch.arange(len(labels), device=labels.device)[:, None] * 256 + labels.flatten(1).long()
    counts = torch.bincount(keys.flatten(), minlength=256 * len(labels)).view(-1, 256)[:, :IGNORE].cpu()
    return [row.nonzero().squeeze(1).to(labels.device) for row in counts]


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps [N, C, h, w] bilinearly at points [N, P, 2], (x, y) in 0..1 of the map: [N, C, P]."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False).squeeze(3)


@torch.no_grad()
def sample_masks(labels: Tensor, image: Tensor, classes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Read the masks of classes at points, as `point_sample` would read them from 0 and 1.

    Args:
        labels: uint8 [N, H, W].
        image: label map of each mask, int64 [M].
        classes: class of each mask, int64 [M].
        points: [M, P, 2], (x, y) in 0..1.

    Returns:
        The masks, float [M, P], and whether at most half of what a point read is ignored, bool [M, P].
    """
    n, height, width = labels.shape
    at = points * points.new_tensor([width, height]) - 0.5
    first = at.floor()
    share = at - first
    first = first.long()
    flat = labels.reshape(n, -1)
    masks = torch.zeros(points.shape[:2], device=labels.device)
    ignored, read = torch.zeros_like(masks), torch.zeros_like(masks)
    for down in (0, 1):
        for across in (0, 1):
            column, row = first[..., 0] + across, first[..., 1] + down
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            factor = (share[..., 0] if across else 1 - share[..., 0]) * (share[..., 1] if down else 1 - share[..., 1])
            factor = torch.where(inside, factor, 0)
            cell = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            label = flat[image[:, None], cell].long()
            masks += factor * (label == classes[:, None])
            ignored += factor * (label == IGNORE)
            read += factor  # less than 1 within half a cell of the edge
    return masks, 2 * ignored <= read
