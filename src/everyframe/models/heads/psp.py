"""Pyramid pooling head of PSPNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.heads.base import Head, PixelHead
from everyframe.models.ops.conv import ConvNormAct, check_average
from everyframe.models.ops.resize import map_at, resize
from everyframe.models.temporal.base import Embedding


class PyramidPooling(nn.Module):
    """Averages over grids of several sizes, each squeezed to `width` channels and laid beside the map.

    Two steps, `pool` and `spread`, because a temporal module may average the pooled maps of several frames in between
    (TCB, Miao et al., CVPR 2021).

    Args:
        in_channels: channels C of the map.
        width: channels D of each level.
        bins: cells per side of each level's grid.
        align_corners: how levels are resized to the map.
        norm: see `ConvNormAct`.
        resize_first: resize the averages, then squeeze them, as CSAIL's UPerNet does; the ReLU makes it another
            function, and the squeezing costs what it costs on the whole map.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        align_corners: bool = False,
        norm: str = "batch",
        resize_first: bool = False,
    ) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.resize_first = resize_first
        self.align_corners = align_corners
        self.out_channels = in_channels + width * len(self.bins)
        self.levels = nn.ModuleList(ConvNormAct(in_channels, width, norm=norm) for _ in self.bins)

    def pool(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, C, h, w] -> one [N, C, b, b] per number of bins b. Bins overlap where the map has fewer cells than b."""
        return tuple(F.adaptive_avg_pool2d(x, b) for b in self.bins)

    def spread(self, x: Tensor, pooled: Sequence[Tensor]) -> Tensor:
        """Lay the squeezed levels beside the map: [N, C + D * levels, h, w]."""
        for level, cells in zip(self.levels, pooled, strict=True):
            assert isinstance(level, ConvNormAct)
            if cells.shape[-2:] == (1, 1):
                check_average(cells, level)
        size = x.shape[-2:]
        if self.resize_first:
            pooled = [resize(cells, size, self.align_corners) for cells in pooled]
        levels = [level(cells) for level, cells in zip(self.levels, pooled, strict=True)]
        return torch.cat([x, *(resize(level, size, self.align_corners) for level in levels)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C + D * levels, h, w]."""
        return self.spread(x, self.pool(x))


class PSPHead(PixelHead):
    """Pyramid pooling, 3x3 bottleneck, classifier.

    Zhao et al., "Pyramid Scene Parsing Network" (CVPR 2017). mmseg's `PSPHead` and the VSPW code's `PPMDeepsup` are
    the same network under other key names (`everyframe.models.convert`).

    Args:
        channels: channels of each backbone map.
        strides: stride of each backbone map.
        num_classes: K.
        index: which map to read.
        width: channels D of the pyramid's levels and of the bottleneck.
        bins: cells per side of each pyramid level.
        dropout: share of channels dropped before the classifier in training.
        align_corners: how pyramid levels are resized.
        norm: see `ConvNormAct`.
        auxiliary: head for an auxiliary loss, or None.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        index: int = -1,
        width: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        align_corners: bool = False,
        norm: str = "batch",
        auxiliary: Head | None = None,
    ) -> None:
        super().__init__()
        self.index = index
        self.pyramid = PyramidPooling(map_at(channels, index), width, bins, align_corners, norm)
        self.bottleneck = ConvNormAct(self.pyramid.out_channels, width, 3, norm=norm)
        self.finish(num_classes, strides[index], width, dropout, auxiliary)

    def pixels(self, maps: Sequence[Tensor]) -> Tensor:
        """See `PixelHead.pixels`."""
        return self.bottleneck(self.late_map(maps))

    @property
    def late_channels(self) -> int:
        """See `Head.late_channels`."""
        return self.pyramid.out_channels

    def late_map(self, maps: Sequence[Tensor]) -> Tensor:
        """See `Head.late_map`: the map with the pyramid beside it, before the bottleneck."""
        return self.pyramid(maps[self.index])

    def embed_late(self, late: Tensor) -> Embedding:
        """See `Head.embed_late`."""
        return {"pixels": self.bottleneck(late)}
