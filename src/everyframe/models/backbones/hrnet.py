"""HRNet: branches of all strides side by side from the beginning, which exchange what they see.

Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition" (TPAMI 2020). Parameter names are the
original ones, which mmseg and timm share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.backbones.resnet import BasicBlock, Bottleneck
from everyframe.models.ops.conv import init_convolutions, normalisation
from everyframe.models.ops.resize import resize

STEM = 64


def _unit(in_channels: int, out_channels: int, kernel: int, stride: int, norm: str, act: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, normalisation(norm, out_channels), *([nn.ReLU(inplace=True)] if act else []))


def _halve(in_channels: int, out_channels: int, times: int, norm: str, last_act: bool) -> nn.Sequential:
    """Return 3x3 convolutions of stride 2; the last one changes the number of channels."""
    return nn.Sequential(
        *(
            _unit(in_channels, out_channels if last else in_channels, 3, 2, norm, act=not last or last_act)
            for last in (i == times - 1 for i in range(times))
        )
    )


def _blocks(in_channels: int, width: int, depth: int, bottleneck: bool, norm: str) -> nn.Sequential:
    """Return `depth` residual blocks of stride 1."""
    block = Bottleneck if bottleneck else BasicBlock
    out_channels = width * block.expansion
    change = in_channels != out_channels
    shortcut = _unit(in_channels, out_channels, 1, 1, norm, act=False) if change else None
    first = block(in_channels, width, 1, 1, shortcut, norm)
    return nn.Sequential(first, *(block(out_channels, width, 1, 1, None, norm) for _ in range(depth - 1)))


class Exchange(nn.Module):
    """Residual blocks in every branch; then each branch takes in all others, at its own stride.

    Args:
        in_channels: channels of each branch, fine to coarse.
        widths: of the blocks of each branch.
        depths: blocks of each branch.
        bottleneck: kind of the blocks.
        norm: see `ConvNormAct`.
        outputs: how many branches, from the finest, go on.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        widths: Sequence[int],
        depths: Sequence[int],
        bottleneck: bool,
        norm: str,
        outputs: int,
    ) -> None:
        super().__init__()
        shapes = zip(in_channels, widths, depths, strict=True)
        self.branches = nn.ModuleList(_blocks(c, width, depth, bottleneck, norm) for c, width, depth in shapes)
        self.channels = [width * (Bottleneck if bottleneck else BasicBlock).expansion for width in widths]
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(j, i, norm) for j in range(len(widths))) for i in range(outputs)
        )

    def _path(self, source: int, target: int, norm: str) -> nn.Module:
        a, b = self.channels[source], self.channels[target]
        if source == target:
            return nn.Identity()
        if source < target:
            return _halve(a, b, target - source, norm, last_act=False)
        factor = 2 ** (source - target)
        upsample = nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False)
        return nn.Sequential(*_unit(a, b, 1, 1, norm, act=False), upsample)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One [N, C, h, w] per branch -> likewise, for the branches that go on."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        if len(maps) == 1:
            return maps
        joined = []
        for i, paths in enumerate(self.fuse_layers):
            assert isinstance(paths, nn.ModuleList)
            size = maps[i].shape[-2:]  # twice a coarse map may be a cell more
            parts = [path(x) for path, x in zip(paths, maps, strict=True)]
            parts = [resize(x, size) if j > i else x for j, x in enumerate(parts)]
            joined.append(F.relu(sum(parts[1:], parts[0])))
        return joined


class HRNet(nn.Module):
    """HRNet with one map per branch, of stride 4, 8, 16, 32.

    Args:
        widths: channels of the blocks of each branch of the last stage, (48, 96, 192, 384) for HRNet-W48; the
            stages before have the finest of them.
        depth: residual blocks per branch and exchange.
        modules: exchanges of the stages 2, 3 and 4.
        first_width: width of the bottlenecks of stage 1.
        first_depth: how many bottlenecks stage 1 has.
        stages: in place of all these, for stages 1 to 4 mappings with "num_modules", "block" ("BOTTLENECK" or "BASIC"),
            "num_blocks" and "num_channels", as published configurations spell them.
        multiscale: return all branches of the last exchange, or the finest alone.
        norm: see `ConvNormAct`.
        in_channels: channels of the frame.

    Attributes:
        channels: channels of each returned map.
        strides: pixels per cell of each returned map.
    """

    def __init__(
        self,
        widths: Sequence[int] = (48, 96, 192, 384),
        depth: int = 4,
        modules: Sequence[int] = (1, 4, 3),
        first_width: int = 64,
        first_depth: int = 4,
        stages: Sequence[Mapping[str, Any]] | None = None,
        multiscale: bool = True,
        norm: str = "batch",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if stages is None:
            stages = [
                {"num_modules": 1, "block": "BOTTLENECK", "num_blocks": [first_depth], "num_channels": [first_width]},
                *(
                    {"num_modules": count, "block": "BASIC", "num_blocks": [depth] * (i + 2),
                     "num_channels": list(widths[: i + 2])}
                    for i, count in enumerate(modules)
                ),
            ]  # fmt: skip
        first, *rest = stages
        self.conv1 = nn.Conv2d(in_channels, STEM, 3, 2, 1, bias=False)
        self.bn1 = normalisation(norm, STEM)
        self.conv2 = nn.Conv2d(STEM, STEM, 3, 2, 1, bias=False)
        self.bn2 = normalisation(norm, STEM)
        bottleneck = first["block"] == "BOTTLENECK"
        self.layer1 = _blocks(STEM, first["num_channels"][0], first["num_blocks"][0], bottleneck, norm)
        channels = [first["num_channels"][0] * (Bottleneck if bottleneck else BasicBlock).expansion]
        for i, stage in enumerate(rest):
            bottleneck = stage["block"] == "BOTTLENECK"
            wanted = [width * (Bottleneck if bottleneck else BasicBlock).expansion for width in stage["num_channels"]]
            setattr(self, f"transition{i + 1}", _transition(channels, wanted, norm))
            count, last = stage["num_modules"], i == len(rest) - 1
            exchanges = [
                Exchange(
                    wanted, stage["num_channels"], stage["num_blocks"], bottleneck, norm,
                    outputs=1 if last and j == count - 1 and not multiscale else len(wanted),
                )
                for j in range(count)
            ]  # fmt: skip
            setattr(self, f"stage{i + 2}", nn.Sequential(*exchanges))
            channels = wanted
        self.num_stages = len(stages)
        outputs = len(channels) if multiscale else 1
        self.channels = tuple(channels[:outputs])
        self.strides = tuple(4 << i for i in range(outputs))
        init_convolutions(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one [N, C, h, w] per branch."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        maps = [self.layer1(x)]
        for i in range(1, self.num_stages):
            paths = getattr(self, f"transition{i}")
            # A path that changes something starts from the coarsest map.
            maps = [maps[j] if isinstance(path, nn.Identity) else path(maps[-1]) for j, path in enumerate(paths)]
            maps = getattr(self, f"stage{i + 1}")(maps)
        return maps


def _transition(channels: Sequence[int], wanted: Sequence[int], norm: str) -> nn.ModuleList:
    """Return, per branch of the next stage, what makes its input: mostly nothing, and the new coarsest branch."""
    known = len(channels)
    paths: list[nn.Module] = []
    for i, width in enumerate(wanted):
        if i >= known:
            paths.append(_halve(channels[-1], width, i + 1 - known, norm, last_act=True))
        elif channels[i] == width:
            paths.append(nn.Identity())
        else:
            paths.append(_unit(channels[i], width, 3, 1, norm))
    return nn.ModuleList(paths)
