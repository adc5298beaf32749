"""Frames of any size for networks that want multiples of something: padded before, cut off after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_frame(x: Tensor, multiple: int) -> Tensor:
    """Pad [N, C, H, W] with zeros to the right and bottom until H and W are multiples of `multiple`."""
    right, bottom = -x.shape[3] % multiple, -x.shape[2] % multiple
    return F.pad(x, (0, right, 0, bottom)) if right or bottom else x


def crop_maps(maps: Iterable[Tensor], size: Sequence[int] | torch.Size, strides: Sequence[int]) -> list[Tensor]:
    """Cut off what padding has added to a frame's maps.

    Args:
        maps: of the padded frame, each [N, C, h, w].
        size: (H, W) of the frame before it was padded.
        strides: pixels per cell of each map.

    Returns:
        Each [N, C, ceil(H / stride), ceil(W / stride)].
    """
    height, width = size
    return [x[..., : -(-height // s), : -(-width // s)] for x, s in zip(maps, strides, strict=True)]
