"""UperNet head: pyramid pooling at the top, a feature pyramid below it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everyframe.models.heads.base import Head, PixelHead
from everyframe.models.heads.psp import PyramidPooling
from everyframe.models.ops.conv import ConvNormAct
from everyframe.models.ops.resize import map_at, resize


class UperHead(PixelHead):
    """Pyramid pooling on the coarsest map, then a top-down feature pyramid whose levels are joined at the finest.

    Xiao et al., "Unified Perceptual Parsing for Scene Understanding" (ECCV 2018), the semantic branch, as mmseg's
    `UPerHead` lays it out. `resize_first=True, dropout=0` is the `UPerNet` of CSAIL's and the VSPW code.

    Args:
        channels: channels of each backbone map.
        strides: stride of each backbone map.
        num_classes: K.
        index: which maps to read, fine to coarse; all when left out.
        width: channels D of every level.
        bins: cells per side of each pyramid-pooling level.
        pool_width: channels of each pyramid-pooling level; D when left out.
        resize_first: see `PyramidPooling`.
        dropout: share of channels dropped before the classifier in training.
        align_corners: how maps are resized.
        norm: see `ConvNormAct`.
        auxiliary: head for an auxiliary loss, or None.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        index: Sequence[int] | None = None,
        width: int = 256,
        bins: Sequence[int] = (1, 2, 3, 6),
        pool_width: int | None = None,
        resize_first: bool = False,
        dropout: float = 0.1,
        align_corners: bool = False,
        norm: str = "batch",
        auxiliary: Head | None = None,
    ) -> None:
        super().__init__()
        self.index = tuple(range(len(channels)) if index is None else index)
        channels = [map_at(channels, i) for i in self.index]
        self.align_corners = align_corners
        self.pyramid = PyramidPooling(channels[-1], pool_width or width, bins, align_corners, norm, resize_first)
        self.bottleneck = ConvNormAct(self.pyramid.out_channels, width, 3, norm=norm)
        self.laterals = nn.ModuleList(ConvNormAct(c, width, norm=norm) for c in channels[:-1])
        self.smooth = nn.ModuleList(ConvNormAct(width, width, 3, norm=norm) for _ in channels[:-1])
        self.fuse = ConvNormAct(width * len(channels), width, 3, norm=norm)
        self.finish(num_classes, strides[self.index[0]], width, dropout, auxiliary)

    def pixels(self, maps: Sequence[Tensor]) -> Tensor:
        """See `PixelHead.pixels`: at the finest map's stride."""
        *fine_maps, coarse = (maps[i] for i in self.index)
        top = self.bottleneck(self.pyramid(coarse))
        merged = [top]  # coarse to fine
        for x, lateral in zip(reversed(fine_maps), reversed(self.laterals), strict=True):
            fine = lateral(x)
            merged.append(fine + resize(merged[-1], fine.shape[-2:], self.align_corners))
        levels = [smooth(x) for x, smooth in zip(reversed(merged[1:]), self.smooth, strict=True)]
        size = levels[0].shape[-2:] if levels else top.shape[-2:]
        joined = torch.cat([resize(x, size, self.align_corners) for x in (*levels, top)], dim=1)
        return self.fuse(joined)
