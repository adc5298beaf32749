"""Panoptic-DeepLab's semantic branch: atrous pyramid, then one wide separable convolution for each finer map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everyframe.models.heads.base import Head, PixelHead
from everyframe.models.heads.deeplab import AtrousPyramid, separable
from everyframe.models.ops.conv import ConvNormAct
from everyframe.models.ops.resize import map_at, resize

KERNEL = 5
"""Side of the depth-wise kernels of decoder and head."""


class PanopticDeepLabHead(PixelHead):
    """Atrous pyramid; for each finer map: resize, join it, 5x5 separable convolution; one more of these; classifier.

    Cheng et al., "Panoptic-DeepLab: A Simple, Strong, and Fast Baseline for Bottom-Up Panoptic Segmentation" (CVPR
    2020), the semantic branch. The instance branch (centres and offsets) is not here: label maps hold no instances. Its
    loss is the cross entropy of the hardest pixels, `objective.top_k: 0.2`.

    Args:
        channels: channels of each backbone map.
        strides: stride of each backbone map.
        num_classes: K.
        index: map for the atrous pyramid.
        fine_indices: maps that the decoder joins, coarse to fine.
        width: channels D of pyramid, decoder and head.
        fine_widths: channels to which each of them is squeezed; None: a quarter of the width, then an eighth, and so
            on (64 and 32 as published).
        dilations: see `AtrousPyramid`; for stride 16. Double them for stride 8.
        dropout: share of the pyramid's numbers dropped in training.
        norm: see `ConvNormAct`.
        auxiliary: head for an auxiliary loss, or None.

    Raises:
        ValueError: not one width for each fine map, or none of either.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        index: int = -1,
        fine_indices: Sequence[int] = (1, 0),
        width: int = 256,
        fine_widths: Sequence[int] | None = None,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout: float = 0.1,
        norm: str = "batch",
        auxiliary: Head | None = None,
    ) -> None:
        super().__init__()
        squeezed = [max(1, width >> (2 + n)) for n in range(len(fine_indices))] if fine_widths is None else fine_widths
        if not fine_indices or len(squeezed) != len(fine_indices):
            raise ValueError(
                f"PanopticDeepLabHead: expected a width for each of one or more fine maps, came {len(squeezed)} widths "
                f"for {len(fine_indices)} maps"
            )
        self.index, self.fine_indices = index, tuple(fine_indices)
        self.pyramid = AtrousPyramid(map_at(channels, index), width, dilations, projection=1, norm=norm)
        self.pyramid_dropout = nn.Dropout(dropout)
        self.squeeze = nn.ModuleList(
            ConvNormAct(map_at(channels, fine), narrow, norm=norm)
            for fine, narrow in zip(self.fine_indices, squeezed, strict=True)
        )
        self.fuse = nn.ModuleList(
            separable(width + narrow, width, kernel_size=KERNEL, norm=norm) for narrow in squeezed
        )
        self.refine = separable(width, width, kernel_size=KERNEL, norm=norm)
        self.finish(num_classes, map_at(strides, self.fine_indices[-1]), width, dropout=0.0, auxiliary=auxiliary)

    def pixels(self, maps: Sequence[Tensor]) -> Tensor:
        """See `PixelHead.pixels`: at the stride of the last fine map."""
        x = self.pyramid_dropout(self.pyramid(maps[self.index]))
        for fine, squeeze, fuse in zip(self.fine_indices, self.squeeze, self.fuse, strict=True):
            detail = squeeze(maps[fine])
            x = fuse(torch.cat([resize(x, detail.shape[-2:]), detail], dim=1))
        return self.refine(x)
