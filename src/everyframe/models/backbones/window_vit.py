"""The ViT trunk of ViT-Adapter's smaller models: no class token, attention global or inside windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.ops.attention import JointAttention
from everyframe.models.ops.patch_embed import PatchEmbed
from everyframe.models.ops.stages import drop_path_rates
from everyframe.models.ops.vit_block import ScaledBlock, gelu_mlp, init_vit_weights, resized_positions
from everyframe.models.ops.window import join_windows, pad_to_multiple, split_windows


class GlobalAttention(JointAttention):
    """`JointAttention` of each patch to all; it is told the grid and does not need it."""

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N, h * w, D] -> [N, h * w, D]."""
        return self.attend(x)


class PaddedWindowAttention(JointAttention):
    """Self-attention inside square windows; cells that fill up the last windows have query, key and value 0.

    (Swin pads before the projection, so that its padding has the bias as key; ViT-Adapter pads after it.)
    """

    def __init__(self, width: int, heads: int, window: int, bias: bool = True) -> None:
        super().__init__(width, heads, bias)
        self.window = window

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N, h * w, D] -> [N, h * w, D]."""
        h, w = grid
        qkv = pad_to_multiple(self.qkv(x).unflatten(1, grid), self.window)
        size = (qkv.shape[1], qkv.shape[2])
        window = (self.window, self.window)
        windows = split_windows(qkv[:, None], window).unflatten(2, (3, self.heads, -1))
        query, key, value = windows.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self.output(join_windows(out, window, size)[:, :h, :w].flatten(1, 2))


class WindowVit(nn.Module):
    """Plain ViT blocks, each global or windowed, on patches with absolute positions.

    Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (ECCV 2022), for the windows; weights
    of DeiT and AugReg fit.

    Args:
        width: channels D.
        depth: number of blocks.
        heads: attention heads of each block.
        patch: side of the patches, in pixels.
        size: (H, W) in pixels whose patches have positions of their own; other sizes resize them.
        windows: side of each block's windows in patches; None is global attention. One value stands for all blocks.
        mlp_ratio: hidden width of the perceptrons over D.
        qkv_bias: whether queries, keys and values have a bias.
        layer_scale: start of the layer scale; None has none.
        drop_path: of the last block, see `drop_path_rates`.
        dropout: of the embedded patches and of what the perceptrons add, in training.
        in_channels: channels of the frame.

    Attributes:
        width: D.
        patch: see above.
        class_tokens: tokens before the patches.
    """

    class_tokens = 0

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        size: tuple[int, int] = (224, 224),
        windows: int | Sequence[int | None] | None = None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.width, self.patch = width, patch
        self.grid = (size[0] // patch, size[1] // patch)
        sides = list(windows) if isinstance(windows, Sequence) else [windows] * depth
        if len(sides) != depth:
            raise ValueError(f"WindowVit: expected {depth} window sides, one per block, came {len(sides)}")
        self.patch_embed = PatchEmbed(width, patch, in_channels, norm=False)
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], width))  # the first is unused
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            ScaledBlock(
                width,
                PaddedWindowAttention(width, heads, side, qkv_bias)
                if side
                else GlobalAttention(width, heads, qkv_bias),
                gelu_mlp(width, int(width * mlp_ratio), dropout),
                layer_scale,
                rate,
            )
            for side, rate in zip(sides, drop_path_rates(drop_path, [depth])[0], strict=True)
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(init_vit_weights)

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """[N, 3, H, W] -> patches [N, h * w, D], and (h, w)."""
        x = self.patch_embed(x)
        grid = (x.shape[1], x.shape[2])
        return self.dropout(x.flatten(1, 2) + resized_positions(self.pos_embed[:, 1:], self.grid, grid)), grid
