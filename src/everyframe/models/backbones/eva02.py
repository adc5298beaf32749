"""EVA-02: a Vision Transformer with rotary positions and gated perceptrons, and a pyramid made from its maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.ops.attention import check_heads
from everyframe.models.ops.padding import crop_maps, pad_frame
from everyframe.models.ops.patch_embed import PatchEmbed
from everyframe.models.ops.stages import drop_path_rates
from everyframe.models.ops.vit_block import ScaledBlock, gelu_mlp, init_vit_weights, resized_positions


def rotary_angles(grid: tuple[int, int], channels: int, trained: int, device: torch.device | None = None) -> Tensor:
    """Return the angle of each patch and channel: float32 [h * w, channels].

    The first half of the channels turns with y, the second with x, in pairs of equal angle. A grid of any size spans
    the angles of the `trained` patches per side that the model was pretrained on.

    Args:
        grid: (h, w).
        channels: d of a head, a multiple of 4.
        trained: patches per side in pretraining.
        device: where it is needed.
    """
    speed = 1 / 10_000.0 ** (torch.arange(0, channels // 2, 2, device=device, dtype=torch.float32) / (channels // 2))
    h, w = grid
    y, x = (
        (torch.arange(n, device=device, dtype=torch.float32) / n * trained)[:, None] * speed.repeat_interleave(2)
        for n in (h, w)
    )
    return torch.cat([y[:, None].expand(h, w, -1), x.expand(h, w, -1)], dim=-1).flatten(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring pairs of channels of x [..., M, d] by angles [M, d] (Su et al., RoFormer, 2021)."""
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return (x * angles.cos() + turned * angles.sin()).to(x.dtype)


class RotaryAttention(nn.Module):
    """Self-attention with rotary positions on the patches; the class token, which stands first, is not turned.

    Args:
        width: channels D.
        heads: they divide D.
        trained: see `rotary_angles`; None has no rotary positions.
        split: separate projections, as models with inner norms have; else one.
        qkv_bias: whether queries and values have a bias.
    """

    def __init__(
        self, width: int, heads: int, trained: int | None = 16, split: bool = True, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        check_heads("EVA-02", width, heads)
        self.heads, self.trained = heads, trained
        self.projections = nn.ModuleList(
            nn.Linear(width, width, bias=False) for _ in range(3)
        ) if split else nn.ModuleList([nn.Linear(width, 3 * width, bias=False)])  # fmt: skip
        self.q_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if qkv_bias else None
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N, 1 + h * w, D] -> [N, 1 + h * w, D]."""
        weights = []
        for projection in self.projections:
            assert isinstance(projection, nn.Linear)
            weights.append(projection.weight)
        bias = None
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, torch.cat(weights), bias).unflatten(2, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each N heads M d
        if self.trained is not None:
            angles = rotary_angles(grid, query.shape[-1], self.trained, x.device)
            query, key = (torch.cat([t[:, :, :1], rotate(t[:, :, 1:], angles)], dim=2) for t in (query, key))
        return self.output(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    """SwiGLU: silu(x W1) * (x W2), a LayerNorm, W3 (Shazeer, 2020; the norm as in EVA-02).

    Args:
        width: channels D.
        hidden: channels of the gate.
        norm: whether there is the LayerNorm.
        eps: of the norm.
        dropout: of what is returned, in training.
    """

    def __init__(self, width: int, hidden: int, norm: bool = True, eps: float = 1e-6, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden)
        self.value = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, eps=eps) if norm else nn.Identity()
        self.output = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[N, M, D] -> [N, M, D]."""
        return self.dropout(self.output(self.norm(F.silu(self.gate(x)) * self.value(x))))


class Eva02(nn.Module):
    """EVA-02 with four maps of stride 4, 8, 16, 32.

    Fang et al., "EVA-02: A Visual Representation for Neon Genesis" (2023), segmentation form: the maps after four
    blocks are enlarged by transposed convolutions, kept, or pooled. Unlike the published code, frames need not be
    square: rotary and absolute positions are fitted to the grid at hand.

    Args:
        width: channels D.
        depth: number of blocks.
        heads: attention heads of each block.
        patch: side of the patches, in pixels.
        size: (H, W) in pixels whose patches have absolute positions of their own; others resize them.
        mlp_ratio: hidden width of the perceptrons over D.
        qkv_bias: see `RotaryAttention`.
        rotary: patches per side in pretraining; None has no rotary positions.
        gated: whether perceptrons are `GatedMlp`, else with GELU.
        inner_norms: whether perceptrons have an inner norm and projections are split, as EVA-02's are.
        absolute_positions: whether tokens have learned positions.
        layer_scale: start of the layer scale; None has none.
        drop_path: of the last block, see `drop_path_rates`.
        dropout: of the embedded tokens, in training.
        out_indices: the four blocks whose maps become the pyramid.
        in_channels: channels of the frame.

    Attributes:
        channels: channels of each map.
        strides: pixels per cell of each map: ceil(H / stride) rows and ceil(W / stride) columns.
    """

    def __init__(
        self,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        patch: int = 16,
        size: tuple[int, int] = (512, 512),
        mlp_ratio: float = 8 / 3,
        qkv_bias: bool = True,
        rotary: int | None = 16,
        gated: bool = True,
        inner_norms: bool = True,
        absolute_positions: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        out_indices: Sequence[int] = (7, 11, 15, 23),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if len(out_indices) != 4 or list(out_indices) != sorted(set(out_indices) & set(range(depth))):
            raise ValueError(
                f"Eva02: expected 4 ascending out_indices, one per map, of {depth} blocks, came {list(out_indices)}"
            )
        self.grid = (size[0] // patch, size[1] // patch)
        self.out_indices = tuple(out_indices)
        self.channels = (width,) * 4
        self.strides = (patch // 4, patch // 2, patch, 2 * patch)
        self.patch_embed = PatchEmbed(width, patch, in_channels, norm=False)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = None
        if absolute_positions:
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], width))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.dropout = nn.Dropout(dropout)
        hidden = int(width * mlp_ratio)
        self.blocks = nn.ModuleList(
            ScaledBlock(
                width,
                RotaryAttention(width, heads, rotary, inner_norms, qkv_bias),
                GatedMlp(width, hidden, inner_norms) if gated else gelu_mlp(width, hidden),
                layer_scale,
                rate,
            )
            for rate in drop_path_rates(drop_path, [depth])[0]
        )
        self.enlarge4 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, 2), nn.BatchNorm2d(width), nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, 2),
        )  # fmt: skip
        self.enlarge2 = nn.ConvTranspose2d(width, width, 2, 2)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(init_vit_weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> [N, D, h, w] of stride 4, 8, 16, 32 (at patches of 16)."""
        size = x.shape[-2:]
        tokens, grid = self.embed(pad_frame(x, self.strides[-1]))
        maps = []
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, grid)
            if i in self.out_indices:
                maps.append(tokens[:, 1:].transpose(1, 2).unflatten(2, grid))
        pyramid = (self.enlarge4(maps[0]), self.enlarge2(maps[1]), maps[2], F.max_pool2d(maps[3], 2))
        return crop_maps(pyramid, size, self.strides)

    def embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """[N, 3, H, W] -> class token and patches [N, 1 + h * w, D], and (h, w)."""
        x = self.patch_embed(x)
        n, h, w, _ = x.shape
        tokens = torch.cat([self.cls_token.expand(n, -1, -1), x.flatten(1, 2)], dim=1)
        if self.pos_embed is not None:
            patches = resized_positions(self.pos_embed[:, 1:], self.grid, (h, w))
            tokens = tokens + torch.cat([self.pos_embed[:, :1], patches], dim=1)
        return self.dropout(tokens), (h, w)
