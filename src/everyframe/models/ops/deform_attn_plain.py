"""Deformable attention in plain PyTorch; see `everyframe.models.ops.deform_attn` for what it computes.

Stacking the sampled values (as with `grid_sample`) costs queries x points x channels floats. Here the four corners of
each point are rows of a table and their factors the weights of an embedding bag, which sums while it reads: nothing of
that size ever exists, forward or backward, and on a CPU the sum is several times as fast. Maps are taken one after the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

QUERIES = 1024
"""Queries that are served at a time on a CPU: what is computed for them stays in its cache."""


def forward(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """See `deform_attn.ms_deform_attn`; `sides` is H, W of each map, one after the other."""
    b, _, heads, c = value.shape
    queries = locations.shape[1]
    levels = [(i, table, size, table.reshape(-1, c).to(locations.dtype)) for i, table, size in _levels(value, sides)]
    out = value.new_empty(b, queries, heads * c)
    piece = QUERIES if value.device.type == "cpu" else max(queries, 1)
    for start in range(0, queries, piece):
        stop = min(start + piece, queries)
        x, y, factor = _by_level(locations[:, start:stop], weights[:, start:stop])
        total = locations.new_zeros(b * (stop - start) * heads, c)
        for level, table, size, rows in levels:
            corners = _corners(table, size, x[level], y[level])
            factors = corners.factors(factor[level])
            total += F.embedding_bag(corners.rows, rows, per_sample_weights=factors, mode="sum")
        out[:, start:stop] = total.view(b, -1, heads * c)
    return out


def backward(
    gradient: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights for the gradient [B, Q, h * c] of the output."""
    c = value.shape[3]
    upstream = gradient.to(locations.dtype).reshape(-1, c)  # [B Q h, c]
    of_value = torch.empty_like(value)
    of_locations, of_weights = torch.empty_like(locations), torch.empty_like(weights)
    x, y, factor = _by_level(locations, weights)
    start = 0
    for level, table, size in _levels(value, sides):
        stop = start + table.shape[1]
        corners = _corners(table, size, x[level], y[level])
        rows = table.reshape(-1, c).to(locations.dtype)
        factors = corners.factors(factor[level])
        of_value[:, start:stop] = _transposed(corners.rows, factors, upstream, len(rows)).view(table.shape)
        of_factors = _products(corners.rows, rows, upstream).view(*factor.shape[1:4], -1)
        found = corners.differentiate(of_factors, factor[level])
        of_locations[:, :, :, level], of_weights[:, :, :, level] = found
        start = stop
    return of_value, of_locations, of_weights


def _by_level(locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, y and weights of the points, each [L, B, Q, h, P]: side by side in memory, not a few at a time."""
    x, y = locations.permute(5, 3, 0, 1, 2, 4).contiguous()
    return x, y, weights.permute(3, 0, 1, 2, 4).contiguous()


def _levels(value: Tensor, sides: Sequence[int]) -> list[tuple[int, Tensor, tuple[int, int]]]:
    """Split `value` by map: (level, [B, H * W, h, c], (H, W))."""
    sizes = list(zip(sides[::2], sides[1::2], strict=True))
    tables = value.split([h * w for h, w in sizes], dim=1)
    return [(i, table, size) for i, (table, size) in enumerate(zip(tables, sizes, strict=True))]


class _Corners(NamedTuple):
    """The four cells around each point of one map: upper left, upper right, lower left, lower right.

    Attributes:
        rows: [B Q h, 4 P]: their rows in the table [B H W h, c] of the map, all points of a corner side by side.
        x: what the points' positions between left and right cells mean.
        y: the same between upper and lower cells.
    """

    rows: Tensor
    x: _Axis
    y: _Axis

    def factors(self, weights: Tensor) -> Tensor:
        """Return the factor of each cell, [B Q h, 4 P], from the points' weights [B, Q, h, P]."""
        upper, lower = self.y.before * weights, self.y.after * weights
        corners = [upper * self.x.before, upper * self.x.after, lower * self.x.before, lower * self.x.after]
        return torch.cat(corners, dim=-1).view(self.rows.shape)

    def differentiate(self, gradient: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of locations and weights for that of the factors, [B, Q, h, 4 P]."""
        x, y = self.x, self.y
        upper_left, upper_right, lower_left, lower_right = gradient.chunk(4, dim=-1)
        upper = upper_left * x.before + upper_right * x.after
        lower = lower_left * x.before + lower_right * x.after
        left = upper_left * y.before + lower_left * y.after
        right = upper_right * y.before + lower_right * y.after
        of_x = (right * x.after_inside - left * x.before_inside) * weights * x.length
        of_y = (lower * y.after_inside - upper * y.before_inside) * weights * y.length
        return torch.stack([of_x, of_y], dim=-1), upper * y.before + lower * y.after


class _Axis(NamedTuple):
    """Where points lie between the cells of one axis.

    Attributes:
        length: number of cells.
        before: bilinear factor of the cell before the point; 0 where that cell is outside the map.
        after: factor of the next cell.
        before_inside: whether the cell before is on the map.
        after_inside: the same of the next cell.
    """

    length: int
    before: Tensor
    after: Tensor
    before_inside: Tensor
    after_inside: Tensor


def _corners(table: Tensor, size: tuple[int, int], x: Tensor, y: Tensor) -> _Corners:
    """Find the corners of the points at x and y, each [B, Q, h, P], on a map [B, H * W, h, c] of `size`."""
    b, cells, heads, _ = table.shape
    height, width = size
    kind = torch.int32 if b * cells * heads < 2**31 else torch.int64
    left, right, across = _neighbours(x, width, kind)
    top, bottom, down = _neighbours(y, height, kind)
    # Cell (row, column) of image n and head i is row ((n H + row) W + column) h + i of the table.
    first = torch.arange(b, device=table.device, dtype=kind).view(b, 1, 1, 1) * (cells * heads)
    first = first + torch.arange(heads, device=table.device, dtype=kind).view(heads, 1)
    left, right = left.mul_(heads).add_(first), right.mul_(heads).add_(first)
    top, bottom = top.mul_(width * heads), bottom.mul_(width * heads)
    rows = torch.cat([top + left, top + right, bottom + left, bottom + right], dim=-1)
    return _Corners(rows.flatten(0, 2), across, down)


def _neighbours(at: Tensor, length: int, kind: torch.dtype) -> tuple[Tensor, Tensor, _Axis]:
    """Return the cells before and after each point along an axis, and what its position means.

    A cell outside the map is moved onto the map (it must be a row of the table), with factor 0. A point at NaN gives
    NaN through its factors.
    """
    at = at * length - 0.5
    lower = at.floor()
    share = at - lower
    upper = lower + 1
    before_cell, after_cell = lower.clamp(0, length - 1), upper.clamp(0, length - 1)
    inside, after_inside = before_cell == lower, after_cell == upper
    axis = _Axis(length, (1 - share).mul_(inside), share.mul_(after_inside), inside, after_inside)
    return before_cell.nan_to_num_(0).to(kind), after_cell.nan_to_num_(0).to(kind), axis


def _transposed(rows: Tensor, factors: Tensor, upstream: Tensor, count: int) -> Tensor:
    """Return the gradient [count, c] of the table: for each row the sum over the bags that read it.

    The factors are a sparse matrix [bags, count], and this is its transpose times the bags' gradient. SciPy adds as it
    reads, in one thread and yet several times as fast as torch's threads, which sort: sorted by row, these are bags
    themselves.
    """
    if rows.device.type == "cpu":
        from scipy.sparse import csr_array

        ends = np.arange(0, rows.numel() + 1, rows.shape[1])
        matrix = csr_array((factors.flatten().numpy(), rows.flatten().numpy(), ends), shape=(len(rows), count))
        return torch.from_numpy(matrix.T @ upstream.numpy())
    row, order = rows.flatten().sort()
    readers = torch.bincount(row, minlength=count)
    return F.embedding_bag(
        order // rows.shape[1],
        upstream,
        readers.cumsum(0) - readers,
        per_sample_weights=factors.flatten()[order],
        mode="sum",
    )


def _products(rows: Tensor, table: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient [bags, corners] of the factors: each read row times its bag's gradient.

    That is what the embedding bag's own backward pass does, which lays out no rows. (It is called by name: inside an
    op nothing is recorded that could be differentiated.)
    """
    bags, corners = rows.shape
    numbers = torch.arange(bags, dtype=rows.dtype, device=rows.device)
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        upstream, table, rows.flatten(), numbers * corners, numbers.repeat_interleave(corners), mode=0
    )
    return found.view(bags, corners)
