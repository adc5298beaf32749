"""BEiT, BEiTv2 and EVA-01: Vision Transformers with relative position bias, layer scale and no final norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.ops.attention import biased_attention, check_heads
from everyframe.models.ops.patch_embed import PatchEmbed
from everyframe.models.ops.relative_position import relative_position_bias, table_rows
from everyframe.models.ops.stages import drop_path_rates
from everyframe.models.ops.vit_block import ScaledBlock, gelu_mlp, init_vit_weights, resized_positions


class BeitAttention(nn.Module):
    """Self-attention whose logits are biased by the offset of query and key; keys have no bias of their own.

    Args:
        width: channels D.
        heads: they divide D.
        grid: (h, w) of the patches that the bias table is learned on; None has no table.
        qkv_bias: whether queries and values have a bias.
        dropout: of what the attention adds, in training.
    """

    def __init__(
        self, width: int, heads: int, grid: tuple[int, int] | None, qkv_bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        check_heads("BEiT", width, heads)
        self.heads, self.grid = heads, grid
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.projection = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.relative_position_bias_table = None
        if grid is not None:
            self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows(grid), heads))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N, 1 + h * w, D] -> [N, 1 + h * w, D]; the class token stands first."""
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(2, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each N heads M d
        offsets = None
        if self.relative_position_bias_table is not None and self.grid is not None:
            offsets = relative_position_bias(self.relative_position_bias_table, self.grid, grid)
        out = biased_attention(query, key, value, offsets).transpose(1, 2).flatten(2)
        return self.dropout(self.projection(out))


class Beit(nn.Module):
    """BEiT (Bao et al., ICLR 2022), BEiTv2 (Peng et al., 2022) or EVA-01 (Fang et al., CVPR 2023), any frame size.

    As the trunk of a `ViTAdapter`, or alone with one map of stride `patch` per index.

    Args:
        width: channels D.
        depth: number of blocks.
        heads: attention heads of each block.
        patch: side of the patches, in pixels.
        size: (H, W) in pixels whose grid of patches has its own positions; tables are fitted to other frames.
        mlp_ratio: hidden width of the perceptrons over D.
        qkv_bias: see `BeitAttention`.
        relative_positions: whether attention is biased by offsets (BEiT).
        absolute_positions: whether patches have learned positions (EVA-01). The class token's is unused, as published.
        layer_scale: start of the layer scale; None has none.
        drop_path: of the last block, see `drop_path_rates`.
        dropout: of the embedded tokens and of what attentions and perceptrons add, in training (BEiT's `drop_rate`).
        out_indices: blocks after which a map is returned; negative ones count from the end.
        in_channels: channels of the frame.

    Attributes:
        width: D.
        patch: see above.
        class_tokens: tokens before the patches.
        channels: channels of each returned map.
        strides: pixels per cell of each returned map.
    """

    class_tokens = 1

    def __init__(
        self,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        patch: int = 16,
        size: tuple[int, int] = (224, 224),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        relative_positions: bool = True,
        absolute_positions: bool = False,
        layer_scale: float | None = 1e-6,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        out_indices: Sequence[int] = (-1,),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.width, self.patch = width, patch
        self.grid = (size[0] // patch, size[1] // patch)
        self.out_indices = tuple(i % depth for i in out_indices)
        self.channels = (width,) * len(self.out_indices)
        self.strides = (patch,) * len(self.out_indices)
        self.patch_embed = PatchEmbed(width, patch, in_channels, norm=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = None
        if absolute_positions:
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], width))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            ScaledBlock(
                width,
                BeitAttention(width, heads, self.grid if relative_positions else None, qkv_bias, dropout),
                gelu_mlp(width, int(width * mlp_ratio), dropout),
                layer_scale,
                rate,
            )
            for rate in drop_path_rates(drop_path, [depth])[0]
        )
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(init_vit_weights)

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """[N, 3, H, W] -> class token and patches [N, 1 + h * w, D], and (h, w)."""
        x = self.patch_embed(x)
        n, h, w, _ = x.shape
        x = x.flatten(1, 2)
        if self.pos_embed is not None:
            x = x + resized_positions(self.pos_embed[:, 1:], self.grid, (h, w))
        return self.dropout(torch.cat([self.cls_token.expand(n, -1, -1), x], dim=1)), (h, w)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one [N, D, h, w] per block of `out_indices`."""
        x, grid = self.embed(x)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x, grid)
            if i in self.out_indices:
                maps.append(x[:, 1:].transpose(1, 2).unflatten(2, grid))
        return maps
