"""From logits at the head's stride to a label map at the frame's size, without making the logits large."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from everyframe.models.ops.confidence import Confidence, winning_probability

CHUNK = 32_768
"""Pixels interpolated at a time: bounds the extra memory to CHUNK * K floats, 16 MiB at K = 124."""


def label_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the argmax of the bilinearly upsampled logits (align_corners=False).

    Equal to `F.interpolate(logits, size, mode="bilinear").argmax(1)` except where two classes tie to the last bits of
    float32. Every value in a cell of the logit grid is a convex combination of the cell's four corners, so a class
    that wins at all four wins everywhere between them. Only pixels in the other cells (the borders of regions, about
    a tenth of a picture) are interpolated, all K classes of a pixel at once.

    Args:
        logits: [B, K, h, w], any float type; computed in float32. K at most 255. Channels-last memory saves a copy.
        size: (H, W) of the frame; smaller than, equal to or larger than (h, w).

    Returns:
        uint8 [B, H, W], train ids 0..K-1.
    """
    _check(logits, size)
    logits = logits.float()
    winner = logits.max(1).indices.to(torch.uint8)
    if tuple(logits.shape[-2:]) == tuple(size):
        return winner
    grid = _Grid(logits, size)
    disputed = (winner != _shift(winner, 1)) | (winner != _shift(winner, 2)) | (winner != _shift(_shift(winner, 1), 2))
    labels = grid.nearest(winner).flatten()
    for pixels in grid.nearest(disputed).flatten().nonzero().squeeze(1).split(CHUNK):
        labels[pixels] = grid.interpolate(pixels).max(1).indices.to(torch.uint8)
    return labels.view(-1, *size)


def confidence_map(logits: Tensor, size: tuple[int, int], confidence: Confidence = "softmax") -> Tensor:
    """Return the probability of the winning class: the largest softmax of the upsampled logits.

    Needs every class at every pixel, so it costs several times what `label_map` does; memory stays bounded alike.

    Args:
        logits: [B, K, h, w], any float type; computed in float32.
        size: (H, W) of the frame.
        confidence: "softmax" of logits; for sums of masks see `Confidence`.

    Returns:
        float32 [B, H, W] in 0..1; of logits at least 1/K.
    """
    _check(logits, size)
    grid = _Grid(logits.float(), size)
    sure = torch.empty(logits.shape[0] * size[0] * size[1], device=logits.device)
    for pixels in _ranges(sure):
        values = grid.interpolate(pixels)
        sure[pixels] = winning_probability(values.amax(1), values, confidence)
    return sure.view(-1, *size)


class _Grid:
    """Where each pixel of the frame lies between the cells of the logits."""

    def __init__(self, logits: Tensor, size: tuple[int, int]) -> None:
        self.height, self.width = size
        self.h, self.w = logits.shape[-2:]
        self.cells = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).contiguous()  # [B*h*w, K]
        self.top, self.bottom, self.down = _axis(self.h, self.height, logits.device)
        self.left, self.right, self.across = _axis(self.w, self.width, logits.device)

    def nearest(self, cells: Tensor) -> Tensor:
        """Spread values of cells [B, h, w] over the pixels whose upper left corner they are: [B, H, W]."""
        return cells.index_select(1, self.top).index_select(2, self.left)

    def interpolate(self, pixels: Tensor) -> Tensor:
        """Return float32 [n, K] at flat positions [n] in [B, H, W]; one fused gather and weighted sum."""
        rows = pixels.div(self.width, rounding_mode="floor")
        x = pixels - rows * self.width
        image = rows.div(self.height, rounding_mode="floor")
        y = rows - image * self.height
        top, bottom = ((image * self.h + row[y]) * self.w for row in (self.top, self.bottom))
        left, right = self.left[x], self.right[x]
        down, across = self.down[y], self.across[x]
        corners = torch.stack([top + left, top + right, bottom + left, bottom + right], 1)
        weights = torch.stack(
            [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across], dim=1
        )
        return F.embedding_bag(corners, self.cells, per_sample_weights=weights, mode="sum")


def _axis(cells: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return (lower cell, upper cell, weight of the upper), each [pixels], in float32 as `F.interpolate` has them."""
    scale = torch.tensor(cells, dtype=torch.float32) / pixels
    position = ((torch.arange(pixels, dtype=torch.float32) + 0.5) * scale - 0.5).clamp_min(0).to(device)
    lower = position.long().clamp_max(cells - 1)
    return lower, (lower + 1).clamp_max(cells - 1), (position - lower).clamp(0, 1)


def _shift(cells: Tensor, dim: int) -> Tensor:
    """Return the next cell along `dim`; the last one repeats, as at the border of the picture."""
    last = cells.shape[dim] - 1
    return torch.cat([cells.narrow(dim, 1, last), cells.narrow(dim, last, 1)], dim)


def _ranges(flat: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(flat), CHUNK):
        yield torch.arange(start, min(start + CHUNK, len(flat)), device=flat.device)


def _check(logits: Tensor, size: tuple[int, int]) -> None:
    if logits.ndim != 4 or not 1 <= logits.shape[1] <= 255 or min(*logits.shape[-2:], *size) < 1:
        raise ValueError(
            f"expected logits [B, K, h, w] with 1 to 255 classes and a size (H, W), came {list(logits.shape)}, {size}"
        )
