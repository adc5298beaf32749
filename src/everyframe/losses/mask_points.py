"""Masks at points: what the set loss reads from predictions and from label maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.frames import IGNORE

Draw = Callable[..., Tensor]
"""Uniform random numbers in 0..1: `torch.rand`, or something that replays recorded ones."""

OUTSIDE = -1
"""Stands for the train id of what is no cell of a map."""


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
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    share = x - left, y - top
    # A border of cells that are no class and not ignored: what lies outside of the map reads as 0.
    maps = F.pad(labels.short(), (1, 1, 1, 1), value=OUTSIDE)
    column, row = left.long() + 1, top.long() + 1
    cell = (image[:, None] * (height + 2) + row.clamp_(0, height)) * (width + 2) + column.clamp_(0, width)
    corners = [cell, cell + 1, cell + width + 2, cell + width + 3]
    masks = _bilinear([(maps.take(c) == classes[:, None]).to(points.dtype) for c in corners], *share)
    # What is read counts against twice what is ignored of it.
    doubt = 2 * (maps == IGNORE).to(points.dtype) - (maps != OUTSIDE).to(points.dtype)
    return masks, _bilinear([doubt.take(c) for c in corners], *share) <= 0


def _bilinear(corners: list[Tensor], right: Tensor, low: Tensor) -> Tensor:
    """Weigh values at the upper left, upper right, lower left and lower right by the shares of the right and low."""
    upper_left, upper_right, lower_left, lower_right = corners
    return upper_left.lerp(upper_right, right).lerp(lower_left.lerp(lower_right, right), low)
