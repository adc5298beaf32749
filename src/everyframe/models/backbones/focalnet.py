"""FocalNet: attention replaced by a gated sum of ever wider contexts.

Yang et al., "Focal Modulation Networks" (NeurIPS 2022), in the form of its segmentation code: maps through norms of
their own, frames of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.ops.drop_path import DropPath
from everyframe.models.ops.patch_embed import PatchEmbed
from everyframe.models.ops.stages import Stage, drop_path_rates, pyramid_shape, run_stages
from everyframe.models.ops.vit_block import add_layer_scale, gelu_mlp, init_vit_weights, scaled


class FocalModulation(nn.Module):
    """Each cell is multiplied by a mixture of contexts: depth-wise convolutions one after the other, then the mean.

    Args:
        channels: C.
        levels: number of convolutions L.
        window: side of the first kernel; each next one is 2 larger.
        post_norm: a LayerNorm before the last projection.
        scaled: contexts divided by their number.
    """

    def __init__(
        self, channels: int, levels: int = 2, window: int = 9, post_norm: bool = False, scaled: bool = False
    ) -> None:
        super().__init__()
        self.levels = levels
        self.scaled = scaled
        self.input = nn.Linear(channels, 2 * channels + levels + 1)
        self.contexts = nn.ModuleList(
            nn.Conv2d(channels, channels, window + 2 * i, padding=(window + 2 * i) // 2, groups=channels, bias=False)
            for i in range(levels)
        )
        self.mix = nn.Conv2d(channels, channels, 1)
        self.norm = nn.LayerNorm(channels) if post_norm else nn.Identity()
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        c = x.shape[-1]
        query, context, gates = self.input(x).permute(0, 3, 1, 2).split((c, c, self.levels + 1), dim=1)
        total = torch.zeros_like(context)
        for conv, gate in zip(self.contexts, gates[:, :-1].split(1, dim=1), strict=True):
            context = F.gelu(conv(context))
            total = total + context * gate
        total = total + F.gelu(context.mean((2, 3), keepdim=True)) * gates[:, -1:]
        if self.scaled:
            total = total / (self.levels + 1)
        return self.output(self.norm((query * self.mix(total)).permute(0, 2, 3, 1)))


class FocalBlock(nn.Module):
    """Focal modulation and a perceptron with residual connections.

    Args:
        channels: C.
        modulation: see `FocalModulation`.
        mlp_ratio: hidden width of the perceptron over C.
        drop_path: see `DropPath`.
        post_norm: norms after the branches, not before.
        layer_scale: see `add_layer_scale`.
    """

    gamma1: nn.Parameter | None
    gamma2: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        modulation: FocalModulation,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        post_norm: bool = False,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = nn.LayerNorm(channels)
        self.modulation = modulation
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = gelu_mlp(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        add_layer_scale(self, channels, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        for norm, branch, gamma in (
            (self.norm1, self.modulation, self.gamma1),
            (self.norm2, self.mlp, self.gamma2),
        ):
            y = norm(branch(x)) if self.post_norm else branch(norm(x))
            x = x + self.drop_path(scaled(y, gamma))
        return x


class Downsample(PatchEmbed):
    """Patch embedding between stages, in the layout of their blocks."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C']."""
        return super().forward(x.permute(0, 3, 1, 2))


class FocalNet(nn.Module):
    """Four stages; maps of stride 4, 8, 16, 32 at any frame size.

    Args:
        width: channels of the first stage; each next one doubles them.
        depths: blocks of each stage.
        levels: see `FocalModulation`, for each stage.
        windows: see `FocalModulation`, for each stage.
        mlp_ratio: hidden width of the perceptrons.
        overlap: overlapping patch embeddings (L, XL and H models).
        post_norm: see `FocalBlock`.
        modulation_norm: see `FocalModulation`'s post_norm.
        scaled: see `FocalModulation`.
        layer_scale: see `FocalBlock`.
        patch_norm: whether a LayerNorm follows each patch embedding.
        drop_path: of the last block, see `drop_path_rates`.
        out_indices: see `run_stages`.
        output_norms: whether each returned map goes through a LayerNorm of its own.
        in_channels: channels of the frame.

    Attributes:
        channels: channels of each returned map.
        strides: pixels per cell of each returned map: ceil(H / stride) rows and ceil(W / stride) columns.
    """

    def __init__(
        self,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        levels: Sequence[int] = (2, 2, 2, 2),
        windows: Sequence[int] = (9, 9, 9, 9),
        mlp_ratio: float = 4.0,
        overlap: bool = False,
        post_norm: bool = False,
        modulation_norm: bool = False,
        scaled: bool = False,
        layer_scale: float | None = None,
        patch_norm: bool = True,
        drop_path: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        output_norms: bool = True,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.out_indices = tuple(out_indices)
        self.channels, self.strides = pyramid_shape(width, self.out_indices)
        first, later = ((7, 3), (3, 1)) if overlap else ((4, 0), (2, 0))  # kernel and padding
        self.patch_embed = PatchEmbed(width, 4, in_channels, patch_norm, *first)
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path, depths)):
            c = width << i
            blocks = [
                FocalBlock(
                    c, FocalModulation(c, levels[i], windows[i], modulation_norm, scaled), mlp_ratio, rate, post_norm,
                    layer_scale,
                )
                for rate in rates
            ]  # fmt: skip
            # The embedding between stages always has a norm, also where the first has none.
            down = Downsample(2 * c, 2, c, True, *later) if i < len(depths) - 1 else None
            self.stages.append(Stage(blocks, down))
        self.norms = nn.ModuleList(nn.LayerNorm(c) if output_norms else nn.Identity() for c in self.channels)
        self.apply(init_vit_weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one [N, C, h, w] per stage of `out_indices` (in channels_last memory, as computed)."""
        return run_stages(self.stages, self.patch_embed(x), self.out_indices, self.norms)
