"""Spatial-temporal transformer: each cell looks at its window in this frame and in the adjacent ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.ops.attention import biased_attention, check_heads
from everyframe.models.ops.window import join_windows, split_windows


class WindowAttention3d(nn.Module):
    """Multi-head attention in windows that reach over all frames, from the cells of one frame.

    The 3D window attention of Video Swin (Liu et al., CVPR 2022) without its shift. A window never needs the rows of
    another frame, so only the query frame's rows are computed: with one block that is exact, and what another frame
    contributes (`key_values`) can be kept from the time it was seen.

    Args:
        channels: C.
        heads: attention heads; they divide C.
        window: (frames, rows, columns). Windows are cut down to maps smaller than them, and fewer frames may come.
    """

    def __init__(self, channels: int, heads: int, window: tuple[int, int, int]) -> None:
        super().__init__()
        check_heads("WindowAttention3d", channels, heads)
        t, h, w = window
        if min(window) < 1:
            raise ValueError(f"WindowAttention3d: expected a window of 1 frame, row and column or more, came {window}")
        self.heads = heads
        self.window = window
        self.to_query = nn.Linear(channels, channels)
        self.to_key_value = nn.Linear(channels, 2 * channels)
        self.projection = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.empty(2 * t - 1, 2 * h - 1, 2 * w - 1, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def position_bias(self, at: int, frames: int, window: tuple[int, int]) -> Tensor:
        """Return the learned bias [heads, h * w, frames * h * w] of each pair of cells by their offset.

        Args:
            at: time of the query among the frames.
            frames: T.
            window: (h, w).
        """
        t, h, w = self.window
        device = self.bias_table.device
        rows, columns = (torch.arange(length, device=device) for length in window)
        dt = at - torch.arange(frames, device=device) + t - 1  # T
        dy = rows[:, None] - rows[None, :] + h - 1  # h h
        dx = columns[:, None] - columns[None, :] + w - 1  # w w
        bias = self.bias_table[
            dt[None, None, :, None, None], dy[:, None, None, :, None], dx[None, :, None, None, :]
        ]  # h w T h w heads, by broadcasting
        cells = window[0] * window[1]
        return bias.reshape(cells, frames * cells, self.heads).permute(2, 0, 1)

    def forward(self, query: Tensor, key_values: Tensor, at: int) -> Tensor:
        """Attend from one frame to all.

        Args:
            query: normalised cells of the frame at time `at`, [N, H, W, C].
            key_values: what `to_key_value` made of every frame, [N, T, H, W, 2C].
            at: time of the query frame, 0..T-1.

        Returns:
            [N, H, W, C].
        """
        if key_values.shape[1] > self.window[0]:
            raise ValueError(f"WindowAttention3d: expected at most {self.window[0]} frames, came {key_values.shape[1]}")
        _, rows, columns = self.window
        bands = []
        for q, kv in zip(_cut(self.to_query(query)[:, None], 2, rows), _cut(key_values, 2, rows), strict=True):
            pairs = zip(_cut(q, 3, columns), _cut(kv, 3, columns), strict=True)
            bands.append(torch.cat([self._attend(*pair, at) for pair in pairs], dim=2))
        return self.projection(torch.cat(bands, dim=1))

    def _attend(self, query: Tensor, key_values: Tensor, at: int) -> Tensor:
        """Attend in windows that fill a part of the map: [N, 1, H, W, C] and [N, T, H, W, 2C] -> [N, H, W, C]."""
        t, height, width = key_values.shape[1:4]
        window = (min(self.window[1], height), min(self.window[2], width))

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # N*windows heads cells d

        key, value = split_windows(key_values, window).chunk(2, dim=-1)
        bias = self.position_bias(at, t, window)[None]  # 1 heads q k
        x = biased_attention(heads(split_windows(query, window)), heads(key), heads(value), bias)
        return join_windows(x.transpose(1, 2).flatten(2), window, (height, width))


def _cut(x: Tensor, dim: int, side: int) -> tuple[Tensor, ...]:
    """Cut a map where its last whole window of `side` cells ends: what is beyond has a smaller window of its own."""
    rest = x.shape[dim] % side
    return x.split([x.shape[dim] - rest, rest], dim) if 0 < rest < x.shape[dim] else (x,)


class MixFFN(nn.Module):
    """MLP with a depth-wise 3x3 convolution between its layers, which carries information across windows.

    SegFormer's Mix-FFN (Xie et al., NeurIPS 2021); SSLTM uses it in place of Video Swin's shifted windows.

    Args:
        channels: C.
        hidden: channels of the middle.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(channels, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.leave = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        x = self.depthwise(self.enter(x).movedim(-1, 1)).movedim(1, -1)
        return self.leave(F.gelu(x))


class SpatialTemporalBlock(nn.Module):
    """Pre-norm block of 3D window attention and Mix-FFN (SSLTM, CVPR 2023).

    Args:
        channels: C.
        heads: attention heads.
        window: see `WindowAttention3d`.
        mlp_ratio: hidden channels of the Mix-FFN over C.
    """

    def __init__(
        self, channels: int, heads: int = 8, window: tuple[int, int, int] = (3, 7, 7), mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention3d(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = MixFFN(channels, int(channels * mlp_ratio))

    def key_values(self, x: Tensor) -> Tensor:
        """Return what a frame [N, H, W, C] contributes to the attention of any frame: [N, H, W, 2C]."""
        return self.attention.to_key_value(self.norm1(x))

    def forward(self, x: Tensor, key_values: Tensor, at: int) -> Tensor:
        """Turn the frame at time `at`, [N, H, W, C], with all frames' `key_values` stacked, [N, T, H, W, 2C]."""
        x = x + self.attention(self.norm1(x), key_values, at)
        return x + self.ffn(self.norm2(x))
