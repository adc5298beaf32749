"""Cutting a map into square windows for windowed attention, and the mask that keeps shifted windows apart."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad [N, H, W, C] with zeros to the right and bottom until H and W are multiples of `multiple`."""
    right, bottom = -x.shape[2] % multiple, -x.shape[1] % multiple
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if right or bottom else x


def split_windows(x: Tensor, window: int) -> Tensor:
    """[N, H, W, C] -> [N * windows, window * window, C], row by row; H and W are multiples of `window`."""
    n, h, w, c = x.shape
    x = x.view(n, h // window, window, w // window, window, c).transpose(2, 3)
    return x.reshape(-1, window * window, c)


def join_windows(windows: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """Undo `split_windows`: [N * windows, window * window, C] -> [N, H, W, C] with (H, W) = `size`."""
    h, w = size
    x = windows.view(-1, h // window, w // window, window, window, windows.shape[-1]).transpose(2, 3)
    return x.reshape(-1, h, w, windows.shape[-1])


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
    windows = split_windows(regions[None, ..., None], window).squeeze(-1)
    return windows[:, :, None] == windows[:, None, :]
