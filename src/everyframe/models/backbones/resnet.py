"""Residual networks with dilated stages, deep stems and any width: from ResNet-101 at stride 8 to a tiny CNN.

Parameter names are torchvision's, which mmseg, timm and the VSPW code share.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.ops.conv import init_convolutions, normalisation


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; only the first is strided, and dilated unless `second` says otherwise."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
        norm: str,
        second: int = 1,
    ):
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride, dilation)
        self.bn1 = normalisation(norm, width)
        self.conv2 = _conv(width, width, 3, dilation=second)
        self.bn2 = normalisation(norm, width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, width, h, w]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the 3x3 one is strided and dilated."""

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, downsample: nn.Module | None, norm: str
    ):
        super().__init__()
        self.conv1 = _conv(in_channels, width, 1)
        self.bn1 = normalisation(norm, width)
        self.conv2 = _conv(width, width, 3, stride, dilation)
        self.bn2 = normalisation(norm, width)
        self.conv3 = _conv(width, 4 * width, 1)
        self.bn3 = normalisation(norm, 4 * width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, 4 * width, h, w]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


class ResNet(nn.Module):
    """ResNet with one map per stage; strides hold at any frame size (a map has ceil(H / stride) rows).

    He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016); deep stem and dilated stages as in PSPNet
    (Zhao et al., CVPR 2017), where the first block of a dilated stage keeps half the dilation.

    Args:
        depths: blocks of each stage.
        bottleneck: 1x1-3x3-1x1 blocks with four times the width, or pairs of 3x3 convolutions.
        width: channels of the first stage before expansion; each next stage doubles them.
        stem_width: channels that the stem ends with.
        deep_stem: three 3x3 convolutions in place of one 7x7, the first two half as wide as the last. `stem_width` 64
            is ResNet "C" of the gluon zoo and mmseg's `ResNetV1c`; 128 is its ResNet "S", and the one of the VSPW code.
        strides: stride of each stage's first block.
        dilations: dilation of each stage.
        contract_dilation: whether the first block of a dilated stage has half the dilation.
        dilate_both: whether pairs of 3x3 convolutions are dilated both (CSAIL's and the VSPW code, timm) or the first
            alone (mmseg). Bottlenecks have only one of them.
        avg_down: whether shortcuts average before a 1x1 convolution of stride 1 (ResNet "D").
        out_indices: stages whose maps are returned.
        norm: see `ConvNormAct`.
        in_channels: channels of the frame.

    Attributes:
        channels: channels of each returned map.
        strides: pixels per cell of each returned map.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        bottleneck: bool = True,
        width: int = 64,
        stem_width: int = 64,
        deep_stem: bool = True,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        contract_dilation: bool = True,
        dilate_both: bool = False,
        avg_down: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm: str = "batch",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        block: type[Bottleneck | BasicBlock] = Bottleneck if bottleneck else BasicBlock
        self.out_indices = tuple(out_indices)
        if deep_stem:
            half = stem_width // 2
            self.stem = nn.Sequential(
                _conv(in_channels, half, 3, 2), normalisation(norm, half), nn.ReLU(inplace=True),
                _conv(half, half, 3), normalisation(norm, half), nn.ReLU(inplace=True),
                _conv(half, stem_width, 3), normalisation(norm, stem_width), nn.ReLU(inplace=True),
            )  # fmt: skip
        else:
            self.stem = nn.Sequential(
                _conv(in_channels, stem_width, 7, 2), normalisation(norm, stem_width), nn.ReLU(inplace=True)
            )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

        channels, stride = stem_width, 4
        all_channels, all_strides = [], []
        for i, depth in enumerate(depths):
            planes = width << i
            stride *= strides[i]
            first = dilations[i] // 2 if contract_dilation and dilations[i] > 1 else dilations[i]
            second = {"second": dilations[i]} if dilate_both and not bottleneck else {}
            layer = []
            for j in range(depth):
                step = strides[i] if j == 0 else 1
                shortcut = _shortcut(channels, planes * block.expansion, step, avg_down, norm) if j == 0 else None
                layer.append(block(channels, planes, step, dilations[i] if j else first, shortcut, norm, **second))
                channels = planes * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))
            all_channels.append(channels)
            all_strides.append(stride)
        self.num_stages = len(depths)
        self.channels = tuple(all_channels[i] for i in self.out_indices)
        self.strides = tuple(all_strides[i] for i in self.out_indices)
        init_convolutions(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one [N, C, h, w] per stage of `out_indices`."""
        x = self.pool(self.stem(x))
        maps = []
        for i in range(self.num_stages):
            x = getattr(self, f"layer{i + 1}")(x)
            if i in self.out_indices:
                maps.append(x)
        return maps


def _shortcut(in_channels: int, out_channels: int, stride: int, avg_down: bool, norm: str) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    if avg_down:
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        return nn.Sequential(pool, _conv(in_channels, out_channels, 1), normalisation(norm, out_channels))
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), normalisation(norm, out_channels))


def dilated(output_stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (strides, dilations) of the four stages for maps no coarser than `output_stride`: 8, 16 or 32."""
    if output_stride not in (8, 16, 32):
        raise ValueError(f"ResNet: output_stride must be 8, 16 or 32, came {output_stride}")
    strides, dilations, stride, dilation = [], [], 4, 1
    for step in (1, 2, 2, 2):
        if stride * step > output_stride:
            dilation, step = dilation * step, 1
        stride *= step
        strides.append(step)
        dilations.append(dilation)
    return tuple(strides), tuple(dilations)
