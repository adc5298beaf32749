"""Mask2Former's pixel decoder: deformable attention over the coarse maps, one step of a feature pyramid for the finest.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation" (CVPR 2022), section 3.2, with the
encoder of Deformable DETR (Zhu et al., ICLR 2021). Key names and order of mmdet's `MSDeformAttnPixelDecoder` are mapped
by `everyframe.models.convert.mask2former`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from everyframe.models.ops.conv import ConvNormAct
from everyframe.models.ops.deform_attn import DeformableAttention, Shapes, cell_centres, join_levels, split_levels
from everyframe.models.ops.position import sine_positions
from everyframe.models.ops.resize import resize


def feed_forward(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Return the two-layer perceptron of a post-norm transformer layer."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(dropout), nn.Linear(hidden, width))


def init_feed_forward(mlp: nn.Sequential) -> None:
    """Start the linear layers of `feed_forward` as Mask2Former does (Glorot and Bengio, AISTATS 2010)."""
    for part in mlp:
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)


class EncoderLayer(nn.Module):
    """Deformable self-attention over all coarse maps, then a perceptron; a LayerNorm after each residual sum.

    Args:
        width: channels D.
        heads: of the attention.
        levels: number of maps.
        points: sampled per head and map.
        hidden: width of the perceptron.
        dropout: of both branches, in training.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads, levels, points)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = feed_forward(width, hidden, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        """[B, S, D] -> [B, S, D]; positions [S, D] steer where is looked, not what is seen."""
        x = self.norm1(x + self.dropout(self.attention(x + positions.to(x.dtype), reference, x, shapes)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class PixelDecoder(nn.Module):
    """Turn a backbone's pyramid into pixel features at its finest stride, and into coarser maps for the queries.

    Args:
        channels: of each map, fine to coarse; the first one is read by the pyramid step alone.
        width: channels D of all that is returned.
        layers: of the encoder.
        heads: of its attention.
        points: sampled per head and map.
        hidden: width of its perceptrons.
        dropout: in the encoder, in training.
        groups: of the group norms after convolutions.
        checkpointed: recompute each encoder layer in the backward pass instead of keeping what it computed.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int = 256,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        hidden: int = 1024,
        dropout: float = 0.0,
        groups: int = 32,
        checkpointed: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"PixelDecoder: expected a pyramid of at least 2 maps, came {len(channels)}")
        fine, *coarse = channels
        norm = partial(nn.GroupNorm, groups)
        self.checkpointed = checkpointed
        self.inputs = nn.ModuleList(
            ConvNormAct(c, width, bias=True, norm=norm, act=False) for c in reversed(coarse)
        )  # coarse to fine, as all lists of maps below
        self.level_encoding = nn.Parameter(torch.randn(len(coarse), width))
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, len(coarse), points, hidden, dropout) for _ in range(layers)
        )
        self.lateral = ConvNormAct(fine, width, norm=norm, act=False)
        self.output = ConvNormAct(width, width, 3, norm=norm)
        self.to_pixels = nn.Conv2d(width, width, 1)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            init_feed_forward(layer.mlp)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode.

        Args:
            maps: [N, C_i, h_i, w_i], fine to coarse.

        Returns:
            Pixel features [N, D, h_0, w_0], and the other maps, coarse to fine, each [N, D, h_i, w_i].
        """
        fine, levels = self.encode(maps)
        return self.merge(fine, levels[-1]), levels

    def encode(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Do all but the pyramid's step: the finest map, projected to [N, D, h_0, w_0], and the encoded other ones."""
        fine, *coarse = maps
        levels = [project(x) for project, x in zip(self.inputs, reversed(coarse), strict=True)]
        return self.lateral(fine), self.attend(levels)

    def merge(self, fine: Tensor, level: Tensor) -> Tensor:
        """Take the pyramid's step from the last encoded map to the finest: pixel features [N, D, h_0, w_0]."""
        return self.to_pixels(self.output(fine + resize(level, fine.shape[-2:])))

    def attend(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Let the cells of all maps look at each other."""
        shapes = [(x.shape[-2], x.shape[-1]) for x in levels]
        width, device = levels[0].shape[1], levels[0].device
        positions = torch.cat(
            [sine_positions(size, width, device) + code for size, code in zip(shapes, self.level_encoding, strict=True)]
        )
        reference = cell_centres(shapes, device)
        tokens = join_levels(levels)
        for layer in self.layers:
            if self.checkpointed and self.training:
                tokens = checkpoint(layer, tokens, positions, reference, shapes, use_reentrant=False)
            else:
                tokens = layer(tokens, positions, reference, shapes)
        return split_levels(tokens, shapes)
