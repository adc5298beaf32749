"""Relative position bias of BEiT for any grid of patches, from a table learned on one grid.

A table has a row for each offset (dy, dx) between two patches of an h x w grid, (2h - 1)(2w - 1) of them, row by row,
and three rows for the class token: class token to patch, patch to class token, class token to itself.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CLASS_ROWS = 3


def table_rows(grid: tuple[int, int]) -> int:
    """Return the number of rows of the table of a grid of patches."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + CLASS_ROWS


def relative_position_bias(table: Tensor, trained: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return what is added to the attention logits of a class token followed by a grid of patches.

    No index of pairs is needed: the offsets of a row of patches to all others are windows of the table.

    Args:
        table: [(2h - 1)(2w - 1) + 3, heads].
        trained: (h, w) of the table.
        grid: (h, w) of the patches at hand.

    Returns:
        [heads, 1 + N, 1 + N], queries in rows, keys in columns.
    """
    offsets, class_rows = resize_table(table, trained, grid).split([table_rows(grid) - CLASS_ROWS, CLASS_ROWS])
    h, w = grid
    offsets = offsets.T.unflatten(1, (2 * h - 1, 2 * w - 1))
    # Entry (y, x, y', x') is offset (y - y', x - x'): windows that start at h - 1 - y in the flipped table.
    windows = offsets.flip(1, 2).unfold(1, h, 1).unfold(2, w, 1).flip(1, 2)  # heads y x y' x'
    bias = F.pad(windows.reshape(-1, h * w, h * w), (1, 0, 1, 0))
    from_class, to_class, alone = class_rows.T[:, :, None].unbind(1)  # each [heads, 1]
    bias[:, 0, 1:] = from_class
    bias[:, 1:, 0] = to_class
    bias[:, 0, 0] = alone[:, 0]
    return bias


def resize_table(table: Tensor, trained: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Fit a table to another grid; the class token's rows stay as they are.

    A smaller grid has offsets that the table holds: its centre is exact (the published code interpolates there too,
    approximately). A larger one is interpolated as the BEiT code does (`checkpoint.py`; timm's
    `resize_rel_pos_bias_table`): learned offsets are laid on a geometric grid, dense near 0, and read with cubic
    splines at whole offsets.

    Args:
        table: [(2h - 1)(2w - 1) + 3, heads].
        trained: (h, w) of the table.
        grid: (h, w) wanted.
    """
    if tuple(trained) == tuple(grid):
        return table
    offsets, class_rows = table[:-CLASS_ROWS], table[-CLASS_ROWS:]
    offsets = offsets.unflatten(0, (2 * trained[0] - 1, 2 * trained[1] - 1))
    for axis in (0, 1):
        if grid[axis] <= trained[axis]:
            offsets = offsets.narrow(axis, trained[axis] - grid[axis], 2 * grid[axis] - 1)
        else:
            spline = torch.from_numpy(_growing_spline(2 * trained[axis] - 1, 2 * grid[axis] - 1)).to(offsets)
            offsets = torch.tensordot(spline, offsets, dims=([1], [axis])).movedim(0, axis)
    return torch.cat([offsets.flatten(0, 1), class_rows])


@lru_cache(maxsize=16)
def _growing_spline(old: int, new: int) -> np.ndarray:
    """Return the matrix [new, old] that reads `old` learned offsets at `new` whole ones; both are odd."""
    from scipy.interpolate import make_interp_spline

    low, high = 1.01, 1.5
    while high - low > 1e-6:  # q with 1 + q + q^2 + ... = new // 2: the last offset learned becomes the last one wanted
        q = (low + high) / 2
        if (1 - q ** (old // 2)) / (1 - q) > new // 2:
            high = q
        else:
            low = q
    steps = np.cumsum(q ** np.arange(old // 2))
    at = np.concatenate([-steps[::-1], [0], steps])
    wanted = np.arange(-(new // 2), new // 2 + 1)
    degree = min(3, old - 1)
    spline = make_interp_spline(at, np.eye(old), k=degree)
    return spline(wanted.clip(at[0], at[-1]))  # the clip: the bisection may end a hair short of the last offset
