"""Masks at points: what the set loss reads from predictions and from label maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.frames import IGNORE

Draw = Callable[..., Tensor]
"""Uniform random numbers in 0..1: `torch.rand`, or something that replays recorded ones."""


def class_presence(labels: Tensor) -> Tensor:
    """Return which train ids occur in each label map of uint8 [N, H, W]: bool [N, 255]; 255 itself is left out.

    What occurs is not known to the host, so that nobody waits for the device: shapes do not depend on it.
    """
    found = torch.zeros(len(labels), IGNORE + 1, dtype=torch.bool, device=labels.device)
    return found.scatter_(1, labels.flatten(1).long(), True)[:, :IGNORE]


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps [N, C, h, w] bilinearly at points [N, P, 2], (x, y) in 0..1 of the map: [N, C, P]."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False).squeeze(3)


@torch.no_grad()
def sample_masks(labels: Tensor, image: Tensor, classes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Read the masks of classes at points, as `point_sample` would read them from 0 and 1.

    Masks of one label map at the same points read it once: give one `image` and one set of points for all of them.

    Args:
        labels: uint8 [N, H, W].
        image: label map of each mask, int64 [M] or [1].
        classes: class of each mask, int64 [M].
        points: [M, P, 2] or [1, P, 2], (x, y) in 0..1.

    Returns:
        The masks, float [M, P], and whether at most half of what a point read is ignored, bool [M, P] (or [1, P]).
    """
    height, width = labels.shape[1:]
    flat = labels.flatten(1)
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    right, low = x - left, y - top  # how far into the next column and row
    masks = torch.zeros(len(classes), points.shape[1], device=labels.device)
    ignored, read = torch.zeros_like(x), torch.zeros_like(x)
    for down in (0, 1):
        for across in (0, 1):
            column, row = left.long() + across, top.long() + down
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            factor = (right if across else 1 - right) * (low if down else 1 - low) * inside
            cell = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            label = flat[image[:, None], cell]
            masks += factor * (label == classes[:, None])
            ignored += factor * (label == IGNORE)
            read += factor  # less than 1 within half a cell of the edge
    return masks, 2 * ignored <= read
