"""Swin Transformer for dense prediction, computing what mmseg's published checkpoints were trained with.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (ICCV 2021). timm's model is close
but not the same at sizes that are no multiple of the window: it rolls the map before it pads, mmseg (and the authors'
detection and segmentation code) pads first. Patch merging here lists the four neighbours channel by channel, as mmseg
does (`torch.nn.Unfold`); converters reorder checkpoints of the other layout.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.ops.attention import biased_attention, check_heads
from everyframe.models.ops.drop_path import DropPath
from everyframe.models.ops.patch_embed import PatchEmbed
from everyframe.models.ops.stages import Stage, drop_path_rates, pyramid_shape, run_stages
from everyframe.models.ops.vit_block import gelu_mlp, init_vit_weights
from everyframe.models.ops.window import (
    join_windows,
    pad_to_multiple,
    relative_position_index,
    shifted_window_mask,
    split_windows,
)

MASKED = -100.0
"""Added to attention logits of cells that must not see each other; the published models were trained with it."""


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each relative position and head.

    Args:
        channels: C.
        heads: attention heads; they divide C.
        window: side of the windows.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: factor of the logits; None is 1 / sqrt(C / heads).
    """

    relative_position_index: Tensor

    def __init__(
        self, channels: int, heads: int, window: int, qkv_bias: bool = True, qk_scale: float | None = None
    ) -> None:
        super().__init__()
        check_heads("Swin", channels, heads)
        self.heads = heads
        self.scale = qk_scale
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.projection = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window.

        Args:
            x: [N * windows, window * window, C].
            mask: float [windows, window * window, window * window], added to the logits; None adds nothing.
        """
        n, cells, c = x.shape
        query, key, value = self.qkv(x).view(n, cells, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]  # 1 heads i j
        if mask is not None:
            bias = (bias + mask[:, None]).repeat(n // len(mask), 1, 1, 1)
        x = biased_attention(query, key, value, bias, self.scale)
        return self.projection(x.transpose(1, 2).reshape(n, cells, c))


class SwinBlock(nn.Module):
    """Windowed attention and a two-layer perceptron, each after a LayerNorm and with a residual connection.

    Args:
        channels: C.
        heads: attention heads.
        window: side of the windows.
        shift: cells by which the windows are shifted; 0 or half a window.
        mlp_ratio: hidden width of the perceptron over C.
        drop_path: see `DropPath`.
        qkv_bias: see `WindowAttention`.
        qk_scale: see `WindowAttention`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        shift: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window, qkv_bias, qk_scale)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = gelu_mlp(channels, int(mlp_ratio * channels))
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]; cells that fill up the last windows are zeros, and are seen."""
        h, w = x.shape[1:3]
        x = pad_to_multiple(x, self.window)
        size = (x.shape[1], x.shape[2])
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        window = (self.window, self.window)
        windows = self.attention(split_windows(x[:, None], window), mask if self.shift else None)
        x = join_windows(windows, window, size)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :h, :w]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]; `mask` as the stage made it for shifted windows."""
        x = x + self.drop_path(self.attend(self.norm1(x), mask))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halve a map: 2x2 neighbours become one cell, 4C channels become `out_channels`. Odd maps are padded with zeros.

    Channel order before the reduction is c * 4 + 2 * y + x, that of `torch.nn.Unfold`.
    """

    def __init__(self, channels: int, out_channels: int, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels) if norm else nn.Identity()
        self.reduction = nn.Linear(4 * channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C']."""
        x = pad_to_multiple(x, 2)
        n, h, w, c = x.shape
        x = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 5, 2, 4)  # N h w C y x
        return self.reduction(self.norm(x.reshape(n, h // 2, w // 2, 4 * c)))


class SwinStage(Stage):
    """Blocks at one resolution, every second one with shifted windows."""

    def run(self, x: Tensor) -> Tensor:
        """See `Stage.run`."""
        mask = self.mask(x)
        for block in self.blocks:
            x = block(x, mask)
        return x

    def mask(self, x: Tensor) -> Tensor:
        """Return what all shifted blocks of this stage add to their logits: see `MASKED`."""
        first = self.blocks[0]
        assert isinstance(first, SwinBlock)
        window = first.window
        h, w = (side + -side % window for side in x.shape[1:3])
        allowed = shifted_window_mask((h, w), window, window // 2, x.device)
        return torch.zeros(allowed.shape, device=x.device, dtype=x.dtype).masked_fill_(~allowed, MASKED)


class SwinTransformer(nn.Module):
    """Four stages of windowed attention; maps of stride 4, 8, 16, 32 at any frame size.

    Args:
        width: channels of the first stage; each next one doubles them.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        window: side of the attention windows, in cells.
        patch: side of the patches, in pixels.
        mlp_ratio: hidden width of the perceptrons over their channels.
        qkv_bias: whether queries, keys and values have a bias.
        qk_scale: factor of the attention logits; None is 1 / sqrt(channels per head).
        drop_path: of the last block, see `drop_path_rates`.
        out_indices: see `run_stages`.
        output_norms: whether each returned map goes through a LayerNorm of its own (mmseg's `norm0..3`).
        patch_norm: whether a LayerNorm follows the patch embedding and precedes each reduction of patch merging.
        positions: (rows, columns) of a learned absolute position embedding, resized to other maps; None has none, as
            the published models.
        in_channels: channels of the frame.

    Attributes:
        channels: channels of each returned map.
        strides: pixels per cell of each returned map: a map has ceil(H / stride) rows and ceil(W / stride) columns.
    """

    def __init__(
        self,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        patch: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_path: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norms: bool = False,
        patch_norm: bool = True,
        positions: tuple[int, int] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.out_indices = tuple(out_indices)
        self.channels, self.strides = pyramid_shape(width, self.out_indices, patch)
        self.patch_embed = PatchEmbed(width, patch, in_channels, patch_norm)
        self.positions = positions
        self.absolute_positions = None
        if positions is not None:
            self.absolute_positions = nn.Parameter(torch.empty(1, positions[0] * positions[1], width))
            nn.init.trunc_normal_(self.absolute_positions, std=0.02)
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path, depths)):
            blocks = [
                SwinBlock(width << i, heads[i], window, window // 2 * (j % 2), mlp_ratio, rate, qkv_bias, qk_scale)
                for j, rate in enumerate(rates)
            ]
            last = i == len(depths) - 1
            merge = None if last else PatchMerging(width << i, width << (i + 1), patch_norm)
            self.stages.append(SwinStage(blocks, merge))
        self.norms = nn.ModuleList(nn.LayerNorm(c) if output_norms else nn.Identity() for c in self.channels)
        self.apply(init_vit_weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one [N, C, h, w] per stage of `out_indices` (in channels_last memory, as computed)."""
        return run_stages(self.stages, self.embed(x), self.out_indices, self.norms)

    def embed(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> patches [N, h, w, C], with absolute positions where the model has them."""
        x = self.patch_embed(x)
        if self.absolute_positions is None:
            return x
        positions = self.absolute_positions.unflatten(1, self.positions).permute(0, 3, 1, 2)
        if positions.shape[2:] != x.shape[1:3]:
            positions = F.interpolate(positions, x.shape[1:3], mode="bicubic", align_corners=False)
        return x + positions.permute(0, 2, 3, 1)
