"""Triton kernels of `everyframe.models.ops.deform_attn`, forward and backward; imported only where Triton is there.

One program handles a block of (image, query, head) rows; the c channels of a row lie side by side in memory, so that a
corner is one contiguous read. Sums are float32 whatever the values' type. The backward kernel adds to the gradient of
the values atomically, in float32, so its last bits depend on the order: with deterministic algorithms on, the plain
form is used instead.
"""

# Triton compiles its functions from their source; their arguments have no types of Python.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 16
"""Rows of a program: at 32 channels, 512 values held at a time."""


def supports(value: Tensor, locations: Tensor) -> bool:
    """Tell whether the kernels, which compute in float32, can serve these values [B, S, h, c] and locations."""
    known = value.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return known and locations.dtype == torch.float32 and value.shape[-1] <= 256


def forward(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """See `deform_attn.ms_deform_attn`; `sides` is H, W of each map, one after the other."""
    b, cells, heads, c = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    out, maps = value.new_empty(b, queries, heads * c), _maps(tuple(sides), value.device)
    rows = b * queries * heads
    _forward_kernel[(triton.cdiv(rows, BLOCK),)](
        value.contiguous(), maps, locations.float().contiguous(), weights.float().contiguous(),
        out, rows, cells, queries * heads, heads, c, levels, points, triton.next_power_of_2(c), BLOCK,
    )  # fmt: skip
    return out


def backward(
    gradient: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights for the gradient [B, Q, h * c] of the output."""
    b, cells, heads, c = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    of_value = torch.zeros(value.shape, device=value.device, dtype=torch.float32)
    of_locations = torch.empty(locations.shape, device=value.device, dtype=torch.float32)
    of_weights = torch.empty(weights.shape, device=value.device, dtype=torch.float32)
    rows = b * queries * heads
    _backward_kernel[(triton.cdiv(rows, BLOCK),)](
        gradient.contiguous(), value.contiguous(), _maps(tuple(sides), value.device), locations.float().contiguous(),
        weights.float().contiguous(), of_value, of_locations, of_weights,
        rows, cells, queries * heads, heads, c, levels, points, triton.next_power_of_2(c), BLOCK,
    )  # fmt: skip
    return of_value.to(value.dtype), of_locations.to(locations.dtype), of_weights.to(weights.dtype)


@lru_cache(maxsize=64)  # each copy from the host would wait for all that the device has yet to do
def _maps(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """H, W and first cell of each map: int32 [L, 3]."""
    first, maps = 0, []
    for h, w in zip(sides[::2], sides[1::2], strict=True):
        maps.append((h, w, first))
        first += h * w
    return torch.tensor(maps, dtype=torch.int32, device=device)


@triton.jit
def _rows(ROWS: tl.constexpr, LANES: tl.constexpr, rows, cells, rows_per_image, heads, c):
    """Rows of this program and channels, which of them exist, and the first channel of each row's image and head."""
    row_id = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    table = (row_id // rows_per_image) * cells * heads * c + (row_id % heads) * c
    return row_id, row_id < rows, lane, lane < c, table


@triton.jit
def _point(locations, weights, at, used, height, width):
    """A point's weight, the row and column of its upper left corner, and how near it is to the lower right one."""
    x = tl.load(locations + 2 * at, mask=used, other=0.0) * width - 0.5
    y = tl.load(locations + 2 * at + 1, mask=used, other=0.0) * height - 0.5
    weight = tl.load(weights + at, mask=used, other=0.0)
    # Far outside, where integers and products of shares could overflow, nothing is read anyway. NaN stays.
    x = tl.where(x > width + 1.0, width + 1.0, tl.where(x < -2.0, -2.0, x))
    y = tl.where(y > height + 1.0, height + 1.0, tl.where(y < -2.0, -2.0, y))
    # (NaN is no cell: its maximum with -2 is -2.)
    left, top = tl.floor(tl.maximum(x, -2.0)), tl.floor(tl.maximum(y, -2.0))
    return weight, top.to(tl.int32), left.to(tl.int32), y - top, x - left


@triton.jit
def _map(maps, level):
    """Height, width and first cell of a map."""
    return tl.load(maps + 3 * level), tl.load(maps + 3 * level + 1), tl.load(maps + 3 * level + 2)


@triton.jit
def _corner(
    value, table, lane, row, column, low_share, right_share, height, width, first, heads, c, rows_used, lanes_used,
    DY: tl.constexpr, DX: tl.constexpr,
):  # fmt: skip
    """Channels [BLOCK, C] of one of a point's four corners, its shares along y and x, their offsets, which exist."""
    row, column = row + DY, column + DX
    inside = rows_used & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    cell = tl.where(inside, first + row * width + column, 0)
    offsets = table[:, None] + (cell.to(tl.int64) * heads * c)[:, None] + lane[None, :]
    mask = inside[:, None] & lanes_used[None, :]
    sample = tl.load(value + offsets, mask=mask, other=0.0).to(tl.float32)
    share_y = low_share if DY == 1 else 1.0 - low_share
    share_x = right_share if DX == 1 else 1.0 - right_share
    return sample, share_y, share_x, offsets, mask


@triton.jit
def _forward_kernel(
    value, maps, locations, weights, out,
    rows, cells, rows_per_image, heads, c,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row_id, used, lane, lanes_used, table = _rows(ROWS, LANES, rows, cells, rows_per_image, heads, c)
    total = tl.zeros([ROWS, LANES], dtype=tl.float32)
    for level in range(LEVELS):
        height, width, first = _map(maps, level)
        for point in range(POINTS):
            at = (row_id * LEVELS + level) * POINTS + point
            weight, row, column, low_share, right_share = _point(locations, weights, at, used, height, width)
            for corner in tl.static_range(4):
                sample, share_y, share_x, _offsets, _mask = _corner(
                    value, table, lane, row, column, low_share, right_share, height, width, first, heads, c, used,
                    lanes_used, corner // 2, corner % 2,
                )  # fmt: skip
                total += (weight * share_x * share_y)[:, None] * sample
    tl.store(
        out + row_id[:, None] * c + lane[None, :],
        total.to(out.dtype.element_ty),
        mask=used[:, None] & lanes_used[None, :],
    )


@triton.jit
def _backward_kernel(
    gradient, value, maps, locations, weights, of_value, of_locations, of_weights,
    rows, cells, rows_per_image, heads, c,
    LEVELS: tl.constexpr, POINTS: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row_id, used, lane, lanes_used, table = _rows(ROWS, LANES, rows, cells, rows_per_image, heads, c)
    upstream = tl.load(
        gradient + row_id[:, None] * c + lane[None, :], mask=used[:, None] & lanes_used[None, :], other=0.0
    ).to(tl.float32)
    for level in range(LEVELS):
        height, width, first = _map(maps, level)
        for point in range(POINTS):
            at = (row_id * LEVELS + level) * POINTS + point
            weight, row, column, low_share, right_share = _point(locations, weights, at, used, height, width)
            of_weight = tl.zeros([ROWS], dtype=tl.float32)
            of_x = tl.zeros([ROWS], dtype=tl.float32)
            of_y = tl.zeros([ROWS], dtype=tl.float32)
            for corner in tl.static_range(4):
                sample, share_y, share_x, offsets, mask = _corner(
                    value, table, lane, row, column, low_share, right_share, height, width, first, heads, c, used,
                    lanes_used, corner // 2, corner % 2,
                )  # fmt: skip
                share = (weight * share_x * share_y)[:, None]
                tl.atomic_add(of_value + offsets, share * upstream, mask=mask, sem="relaxed")
                agreement = tl.sum(sample * upstream, axis=1)
                of_weight += share_x * share_y * agreement
                of_x += (share_y if corner % 2 == 1 else -share_y) * agreement
                of_y += (share_x if corner // 2 == 1 else -share_x) * agreement
            tl.store(of_weights + at, of_weight, mask=used)
            tl.store(of_locations + 2 * at, of_x * weight * width, mask=used)
            tl.store(of_locations + 2 * at + 1, of_y * weight * height, mask=used)
