"""Cutting a map into windows for windowed attention, and the mask that keeps shifted windows apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad [N, H, W, C] with zeros to the right and bottom until H and W are multiples of `multiple`."""
    right, bottom = -x.shape[2] % multiple, -x.shape[1] % multiple
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if right or bottom else x


def split_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """[N, T, H, W, C] -> [N * windows, T * h * w, C] for windows of (h, w) that reach over all T frames."""
    n, t, height, width, c = x.shape
    h, w = window
    x = x.view(n, t, height // h, h, width // w, w, c).permute(0, 2, 4, 1, 3, 5, 6)
    return x.reshape(-1, t * h * w, c)


def join_windows(x: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Undo `split_windows` for one frame: [N * windows, h * w, C] -> [N, H, W, C] with (H, W) = `size`."""
    (h, w), (height, width) = window, size
    x = x.view(-1, height // h, width // w, h, w, x.shape[-1]).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, height, width, x.shape[-1])


def relative_position_index(window: int) -> Tensor:
    """Return, for each pair of cells of a window, the row of its offset in a bias table of (2 * window - 1)^2 rows.

    int64 [window^2, window^2]; entry (i, j) = (y_i - y_j + window - 1) * (2 * window - 1) + (x_i - x_j + window - 1).
    """
    cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = cells[:, None] - cells[None, :] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def shifted_window_mask(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """Tell which cells of a window are neighbours in the map, after it was rolled by `shift` up and to the left.

    Rolling brings cells from opposite borders into one window; they must not see each other. Padding that
    `pad_to_multiple` added counts as part of the map.

    Args:
        size: (H, W) of the padded map.
        window: side of the windows.
        shift: cells by which the map was rolled.
        device: where the mask is needed.

    Returns:
        bool [windows, window * window, window * window], True where attention is allowed.
    """

    def band(length: int) -> Tensor:
        at = torch.arange(length, device=device)
        return (at >= length - window).long() + (at >= length - shift).long()

    regions = 3 * band(size[0])[:, None] + band(size[1])
    windows = split_windows(regions[None, None, ..., None], (window, window)).squeeze(-1)
    return windows[:, :, None] == windows[:, None, :]
