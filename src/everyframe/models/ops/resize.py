"""Bilinear resizing, and the choice of backbone maps that a head works on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, size: tuple[int, int] | torch.Size, align_corners: bool = False) -> Tensor:
    """Resize [N, C, h, w] to `size` bilinearly; the very same tensor where nothing changes."""
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)


def map_at(values: Sequence[int], index: int) -> int:
    """Return what a pyramid's map at `index` has (channels, stride); negative positions count from the coarse end.

    Raises:
        ValueError: there is no such map.
    """
    count = len(values)
    if not -count <= index < count:
        raise ValueError(
            f"expected a map of 0 to {count - 1} or -{count} to -1, came {index}, which the head reads: the backbone "
            f"gives {count}; choose another index, or more out_indices"
        )
    return values[index]


def join_maps(maps: Sequence[Tensor], index: int | Sequence[int], align_corners: bool = False) -> Tensor:
    """Return one map of the pyramid, or several of them side by side at the size of the first one named.

    The second form is HRNet's head input (Wang et al., TPAMI 2020), `resize_concat` in mmseg.

    Args:
        maps: pyramid, each [N, C_i, h_i, w_i].
        index: position, or positions, in `maps`; negative ones count from the coarse end.
        align_corners: see `torch.nn.functional.interpolate`.

    Returns:
        [N, sum of the chosen C_i, h, w].
    """
    if isinstance(index, int):
        return maps[index]
    size = maps[index[0]].shape[-2:]
    return torch.cat([resize(maps[i], size, align_corners) for i in index], dim=1)


def joined_channels(channels: Sequence[int], index: int | Sequence[int]) -> int:
    """Return how many channels `join_maps` yields from maps of `channels`."""
    return map_at(channels, index) if isinstance(index, int) else sum(map_at(channels, i) for i in index)


def joined_stride(strides: Sequence[int], index: int | Sequence[int]) -> int:
    """Return the stride of what `join_maps` yields from maps of `strides`."""
    return map_at(strides, index if isinstance(index, int) else index[0])
