"""ViT-Adapter: a plain transformer becomes a pyramid by exchanging features with a small convolutional branch.

Chen et al., "Vision Transformer Adapter for Dense Predictions" (ICLR 2023), for any trunk with `embed` and `blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from everyframe.models.ops.conv import ConvNormAct
from everyframe.models.ops.deform_attn import DeformableAttention, Shapes, cell_centres, join_levels, split_levels
from everyframe.models.ops.drop_path import DropPath
from everyframe.models.ops.padding import crop_maps, pad_frame
from everyframe.models.ops.resize import resize

EPS = 1e-6


class SpatialPrior(nn.Module):
    """A small convolutional network: maps of stride 4, 8, 16, 32, all `width` channels wide.

    Args:
        width: channels D of the maps.
        inner: channels of the stem; the stages have 2, 4, 4 times as many.
        in_channels: channels of the frame.
    """

    def __init__(self, width: int, inner: int = 64, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvNormAct(in_channels, inner, 3, stride=2),
            ConvNormAct(inner, inner, 3),
            ConvNormAct(inner, inner, 3),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        sides = (inner, 2 * inner, 4 * inner, 4 * inner)
        self.convs = nn.ModuleList(ConvNormAct(a, b, 3, stride=2) for a, b in pairwise(sides))
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1) for c in sides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> [N, D, H / s, W / s] for s = 4, 8, 16, 32."""
        maps = [self.stem(x)]
        for conv in self.convs:
            maps.append(conv(maps[-1]))
        return [project(x) for project, x in zip(self.projections, maps, strict=True)]


class Injector(nn.Module):
    """Patches look at the pyramid: x + gamma * attention.

    Args:
        width: channels D.
        heads: of the deformable attention.
        points: sampled per head and map.
        ratio: channels that are sampled, over D.
        levels: maps of the pyramid.
        gamma: start of the factor; near 0, so that a pretrained trunk is left as it was at first.
    """

    def __init__(self, width: int, heads: int, points: int, ratio: float, levels: int = 3, gamma: float = 0.0) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=EPS)
        self.feat_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = DeformableAttention(width, heads, levels, points, ratio)
        self.gamma = nn.Parameter(torch.full((width,), gamma))

    def forward(self, x: Tensor, grid: tuple[int, int], pyramid: Tensor, shapes: Shapes) -> Tensor:
        """Patches [N, h * w, D] and pyramid [N, S, D] -> patches."""
        centres = cell_centres([grid], x.device)
        return x + self.gamma * self.attention(self.query_norm(x), centres, self.feat_norm(pyramid), shapes)


class ConvMlp(nn.Module):
    """Perceptron with a depth-wise 3x3 convolution inside, the same on each map of the pyramid."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, shapes: Shapes) -> Tensor:
        """[N, S, D] -> [N, S, D]."""
        maps = split_levels(self.fc1(x), shapes)
        return self.fc2(F.gelu(join_levels([self.conv(m) for m in maps])))


class Extractor(nn.Module):
    """The pyramid looks at the patches: c + attention, then c + perceptron.

    Args:
        width: channels D.
        heads: of the deformable attention.
        points: sampled per head.
        ratio: channels that are sampled, over D.
        mlp_ratio: hidden width of the perceptron over D; 0 has none.
        drop_path: probability of leaving the perceptron out in training, per sample.
    """

    def __init__(
        self, width: int, heads: int, points: int, ratio: float, mlp_ratio: float = 0.25, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=EPS)
        self.feat_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = DeformableAttention(width, heads, 1, points, ratio)
        self.ffn_norm = nn.LayerNorm(width, eps=EPS) if mlp_ratio else None
        self.ffn = ConvMlp(width, int(width * mlp_ratio)) if mlp_ratio else None
        self.drop_path = DropPath(drop_path)

    def forward(self, pyramid: Tensor, shapes: Shapes, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pyramid [N, S, D] and patches [N, h * w, D] -> pyramid."""
        centres = cell_centres(shapes, x.device)
        pyramid = pyramid + self.attention(self.query_norm(pyramid), centres, self.feat_norm(x), [grid])
        if self.ffn is None or self.ffn_norm is None:
            return pyramid
        return pyramid + self.drop_path(self.ffn(self.ffn_norm(pyramid), shapes))


class ViTAdapter(nn.Module):
    """A transformer trunk, cut into groups of blocks, exchanging with a pyramid before and after each group.

    Args:
        trunk: `Beit`, `WindowVit`, or any module with `embed(x) -> (tokens, grid)`, `blocks` called as
            `block(tokens, grid)`, `width`, `patch` (16) and `class_tokens`.
        groups: (first, last) block of each exchange.
        inner: see `SpatialPrior`.
        heads: of the deformable attentions.
        points: sampled per head and map.
        ratio: channels that are sampled, over the trunk's width.
        mlp_ratio: see `Extractor`.
        gamma: see `Injector`.
        drop_path: see `Extractor`; the same for all.
        extra_extractors: extractors after the last exchange.
        add_trunk: whether the trunk's own features, resized, are added to the pyramid.
        checkpointed: recompute blocks and exchanges in the backward pass instead of keeping what they computed.
        in_channels: channels of the frame.

    Attributes:
        channels: channels of each map.
        strides: 4, 8, 16, 32: a map has ceil(H / stride) rows and ceil(W / stride) columns.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        trunk: Any,
        groups: Sequence[tuple[int, int]] = ((0, 5), (6, 11), (12, 17), (18, 23)),
        inner: int = 64,
        heads: int = 16,
        points: int = 4,
        ratio: float = 0.5,
        mlp_ratio: float = 0.25,
        gamma: float = 0.0,
        drop_path: float = 0.0,
        extra_extractors: int = 2,
        add_trunk: bool = True,
        checkpointed: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if trunk.patch != 16 or (add_trunk and len(groups) != 4):
            raise ValueError(
                f"ViTAdapter: expected patches of 16 pixels and 4 groups of blocks (one per map), came patches of "
                f"{trunk.patch} and {len(groups)} groups"
            )
        width = trunk.width
        self.channels = (width,) * 4
        self.groups = tuple((first, last) for first, last in groups)
        self.add_trunk = add_trunk
        self.checkpointed = checkpointed
        self.trunk = trunk
        self.spm = SpatialPrior(width, inner, in_channels)
        self.level_embed = nn.Parameter(torch.randn(3, width))
        sampling = (width, heads, points, ratio)
        self.injectors = nn.ModuleList(Injector(*sampling, gamma=gamma) for _ in groups)
        self.extractors = nn.ModuleList(Extractor(*sampling, mlp_ratio, drop_path) for _ in groups)
        self.extra_extractors = nn.ModuleList(
            Extractor(*sampling, mlp_ratio, drop_path) for _ in range(extra_extractors)
        )
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(4))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> maps [N, D, h, w] of stride 4, 8, 16, 32."""
        size = x.shape[-2:]
        x = pad_frame(x, self.strides[-1])
        fine, *maps = self.spm(x)
        shapes = [(m.shape[-2], m.shape[-1]) for m in maps]
        pyramid = join_levels([m + code[:, None, None] for m, code in zip(maps, self.level_embed, strict=True)])
        pyramid, trunk = self.exchange(pyramid, shapes, x)

        maps = split_levels(pyramid, shapes)
        maps = [self.up(maps[0]) + fine, *maps]
        if self.add_trunk:
            maps = [m + resize(t, m.shape[-2:]) for m, t in zip(maps, trunk, strict=True)]
        return crop_maps((norm(m) for norm, m in zip(self.norms, maps, strict=True)), size, self.strides)

    def exchange(self, pyramid: Tensor, shapes: Shapes, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the trunk. Returns the pyramid [N, S, D] and the trunk's map [N, D, h, w] after each group."""
        tokens, grid = self.trunk.embed(image)
        count = self.trunk.class_tokens
        maps = []
        for (first, last), inject, extract in zip(self.groups, self.injectors, self.extractors, strict=True):
            x = self.run(inject, tokens[:, count:], grid, pyramid, shapes)
            tokens = torch.cat([tokens[:, :count], x], dim=1) if count else x
            for block in self.trunk.blocks[first : last + 1]:
                tokens = self.run(block, tokens, grid)
            x = tokens[:, count:]
            pyramid = self.run(extract, pyramid, shapes, x, grid)
            maps.append(x.transpose(1, 2).unflatten(2, grid))
        for extract in self.extra_extractors:
            pyramid = self.run(extract, pyramid, shapes, x, grid)
        return pyramid, maps

    def run(self, part: nn.Module, *inputs: Any) -> Tensor:
        """Call a part, keeping or recomputing what it computes."""
        if self.checkpointed and self.training:
            return checkpoint(part, *inputs, use_reentrant=False)
        return part(*inputs)
