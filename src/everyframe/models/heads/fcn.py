"""Fully convolutional head: a few convolutions and a classifier; the usual auxiliary head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everyframe.models.heads.base import Head, PixelHead
from everyframe.models.ops.conv import ConvNormAct
from everyframe.models.ops.resize import join_maps, joined_channels, joined_stride


class FCNHead(PixelHead):
    """Convolutions, optionally joined with their input, then a 1x1 classifier.

    Long, Shelhamer and Darrell, "Fully Convolutional Networks for Semantic Segmentation" (CVPR 2015), in the form that
    PSPNet made common for auxiliary losses.

    Args:
        channels: channels of each backbone map.
        strides: stride of each backbone map.
        num_classes: K.
        index: which map to read, or several to join at the size of the first (see `join_maps`).
        width: channels D of the convolutions.
        num_convs: how many; 0 leaves the map as it is, and `width` must equal its channels.
        kernel_size: odd side of their kernels.
        dilation: distance of their taps.
        concat_input: whether a last convolution sees the input map beside the result.
        dropout: share of channels dropped before the classifier in training.
        align_corners: how maps are resized where several are joined.
        bias: see `ConvNormAct`.
        norm: see `ConvNormAct`.
        auxiliary: head for an auxiliary loss, or None.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        index: int | Sequence[int] = -1,
        width: int = 256,
        num_convs: int = 2,
        kernel_size: int = 3,
        dilation: int = 1,
        concat_input: bool = True,
        dropout: float = 0.1,
        align_corners: bool = False,
        bias: bool = False,
        norm: str = "batch",
        auxiliary: Head | None = None,
    ) -> None:
        super().__init__()
        in_channels = joined_channels(channels, index)
        if num_convs == 0 and width != in_channels:
            raise ValueError(f"FCNHead: without convolutions width must be the map's {in_channels}, came {width}")
        self.index = index
        self.align_corners = align_corners
        self.convs = nn.Sequential(
            *(
                ConvNormAct(width if i else in_channels, width, kernel_size, dilation=dilation, bias=bias, norm=norm)
                for i in range(num_convs)
            )
        )
        self.join = ConvNormAct(in_channels + width, width, kernel_size, bias=bias, norm=norm) if concat_input else None
        self.finish(num_classes, joined_stride(strides, index), width, dropout, auxiliary)

    def pixels(self, maps: Sequence[Tensor]) -> Tensor:
        """See `PixelHead.pixels`."""
        x = join_maps(maps, self.index, self.align_corners)
        pixels = self.convs(x)
        return pixels if self.join is None else self.join(torch.cat([x, pixels], dim=1))
