"""DeepLabv3+ head: atrous pyramid on the coarse map, refined with a fine one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from everyframe.models.heads.base import Head, PixelHead
from everyframe.models.ops.conv import ConvNormAct, check_average
from everyframe.models.ops.resize import map_at, resize


def separable(
    in_channels: int, out_channels: int, dilation: int = 1, norm: str = "batch", kernel_size: int = 3
) -> nn.Sequential:
    """Return a depth-wise and a point-wise convolution, each normalised and rectified."""
    return nn.Sequential(
        ConvNormAct(in_channels, in_channels, kernel_size, dilation=dilation, groups=in_channels, norm=norm),
        ConvNormAct(in_channels, out_channels, norm=norm),
    )


class AtrousPyramid(nn.Module):
    """Image average, a 1x1 convolution and dilated 3x3 convolutions side by side (ASPP), then a projection.

    Args:
        in_channels: channels C of the map.
        width: channels D of each branch and of the result.
        dilations: one branch each; dilation 1 stands for the 1x1 convolution.
        depthwise: make the dilated branches separable.
        projection: side of the projection's kernel.
        norm: see `ConvNormAct`.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        dilations: Sequence[int],
        depthwise: bool = False,
        projection: int = 3,
        norm: str = "batch",
    ) -> None:
        super().__init__()

        def branch(dilation: int) -> nn.Module:
            if dilation == 1:
                return ConvNormAct(in_channels, width, norm=norm)
            if depthwise:
                return separable(in_channels, width, dilation, norm)
            return ConvNormAct(in_channels, width, 3, dilation=dilation, norm=norm)

        self.image = ConvNormAct(in_channels, width, norm=norm)
        self.branches = nn.ModuleList(branch(dilation) for dilation in dilations)
        self.project = ConvNormAct(width * (len(dilations) + 1), width, projection, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, D, h, w]."""
        average = x.mean((2, 3), keepdim=True)
        check_average(average, self.image)
        image = self.image(average).expand(-1, -1, *x.shape[-2:])
        levels = [image, *(branch(x) for branch in self.branches)]
        return self.project(torch.cat(levels, dim=1))


class DeepLabV3PlusHead(PixelHead):
    """Atrous pyramid, joined with a fine map, two 3x3 convolutions, classifier.

    Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation" (ECCV 2018). The
    default is the dense form of the SSLTM paper's table; `depthwise=True` is mmseg's `DepthwiseSeparableASPPHead`;
    `projection=1, align_corners=True` is the VSPW code's `DeepLab`.

    Args:
        channels: channels of each backbone map.
        strides: stride of each backbone map.
        num_classes: K.
        index: map for the atrous pyramid.
        fine_index: map to refine with.
        width: channels D.
        fine_width: channels to which the fine map is squeezed; 0 leaves the fine map out (DeepLabv3).
        dilations: see `AtrousPyramid`; for stride 8. Halve them for stride 16.
        depthwise: separable convolutions.
        projection: see `AtrousPyramid`.
        dropout: share of channels dropped before the classifier in training.
        align_corners: how the coarse map is resized to the fine one.
        norm: see `ConvNormAct`.
        auxiliary: head for an auxiliary loss, or None.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        index: int = -1,
        fine_index: int = 0,
        width: int = 256,
        fine_width: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
        depthwise: bool = False,
        projection: int = 3,
        dropout: float = 0.1,
        align_corners: bool = False,
        norm: str = "batch",
        auxiliary: Head | None = None,
    ) -> None:
        super().__init__()

        def conv(in_channels: int) -> nn.Module:
            return (
                separable(in_channels, width, norm=norm) if depthwise else ConvNormAct(in_channels, width, 3, norm=norm)
            )

        self.index = index
        self.fine_index = fine_index
        self.align_corners = align_corners
        self.pyramid = AtrousPyramid(map_at(channels, index), width, dilations, depthwise, projection, norm)
        self.fine = ConvNormAct(map_at(channels, fine_index), fine_width, norm=norm) if fine_width else None
        self.refine = nn.Sequential(conv(width + fine_width), conv(width))
        self.finish(num_classes, strides[fine_index] if fine_width else strides[index], width, dropout, auxiliary)

    def pixels(self, maps: Sequence[Tensor]) -> Tensor:
        """See `PixelHead.pixels`: at the fine map's stride."""
        pixels = self.pyramid(maps[self.index])
        if self.fine is not None:
            fine = self.fine(maps[self.fine_index])
            pixels = torch.cat([resize(pixels, fine.shape[-2:], self.align_corners), fine], dim=1)
        return self.refine(pixels)
