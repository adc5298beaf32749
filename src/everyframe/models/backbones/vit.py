"""Plain Vision Transformer: one map, at the stride of its patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everyframe.models.ops.attention import TransformerBlock
from everyframe.models.ops.patch_embed import PatchEmbed
from everyframe.models.ops.stages import drop_path_rates
from everyframe.models.ops.vit_block import resized_positions


class VisionTransformer(nn.Module):
    """Patches, learned absolute positions, a stack of transformer blocks.

    Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021), for dense prediction as in Segmenter (Strudel et
    al., ICCV 2021) and mmseg's `VisionTransformer`: positions are resized to the frame, and frames that are no
    multiple of the patch are padded with zeros to the right and bottom.

    Args:
        width: channels C.
        depth: number of blocks.
        heads: attention heads of each block.
        patch: side of the patches, in pixels.
        size: (H, W) in pixels whose patches have positions of their own; other sizes resize them.
        mlp_ratio: hidden width of the perceptrons over C.
        qkv_bias: whether queries, keys and values have a bias.
        patch_norm: whether a LayerNorm follows the patch embedding.
        patch_bias: whether the patch embedding adds a bias.
        class_token: whether a class token stands before the patches (it is left out of the map).
        pre_norm: whether a LayerNorm precedes the first block.
        final_norm: whether a LayerNorm follows the last block.
        eps: of the LayerNorms.
        drop_path: of the last block, see `drop_path_rates`.
        interpolation: how positions are resized, "bicubic" or "bilinear".
        out_indices: blocks after which the map is returned; negative ones count from the end.
        in_channels: channels of the frame.

    Attributes:
        channels: channels of each returned map.
        strides: pixels per cell of each returned map.
    """

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 16,
        size: tuple[int, int] = (512, 512),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        patch_norm: bool = False,
        patch_bias: bool = True,
        class_token: bool = True,
        pre_norm: bool = False,
        final_norm: bool = True,
        eps: float = 1e-6,
        drop_path: float = 0.0,
        interpolation: str = "bicubic",
        out_indices: Sequence[int] = (-1,),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.out_indices = tuple(i % depth for i in out_indices)
        self.channels = (width,) * len(self.out_indices)
        self.strides = (patch,) * len(self.out_indices)
        self.grid = (size[0] // patch, size[1] // patch)
        self.interpolation = interpolation
        self.patch_embed = PatchEmbed(width, patch, in_channels, patch_norm)
        if not patch_bias:
            self.patch_embed.projection.register_parameter("bias", None)
        # Published models have a position for the class token even where they leave the token out.
        self.positions = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], width))
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.pre_norm = nn.LayerNorm(width, eps=eps) if pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, int(width * mlp_ratio), qkv_bias, eps, drop_path=rate)
            for rate in drop_path_rates(drop_path, [depth])[0]
        )
        self.norm = nn.LayerNorm(width, eps=eps) if final_norm else nn.Identity()
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one [N, C, h, w] per block of `out_indices`."""
        x = self.patch_embed(x)
        n, h, w, _ = x.shape
        x = x.flatten(1, 2) + resized_positions(self.positions[:, 1:], self.grid, (h, w), self.interpolation)
        if self.class_token is not None:
            x = torch.cat([(self.class_token + self.positions[:, :1]).expand(n, -1, -1), x], dim=1)
        x = self.pre_norm(x)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == len(self.blocks) - 1:
                x = self.norm(x)
            if i in self.out_indices:
                maps.append(x[:, -h * w :].transpose(1, 2).unflatten(2, (h, w)))
        return maps
