"""InternImage: a convolutional network whose 3x3 kernels choose where they look (DCNv3).

Wang et al., "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions" (CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.ops.deform_attn import cell_centres, ms_deform_attn
from everyframe.models.ops.drop_path import DropPath
from everyframe.models.ops.numbers import numbers_beside
from everyframe.models.ops.stages import Stage, drop_path_rates, pyramid_shape, run_stages
from everyframe.models.ops.vit_block import add_layer_scale, gelu_mlp, scaled

EPS = 1e-6


class DCNv3(nn.Module):
    """Deformable convolution with softmax weights per group, which is deformable attention on one map.

    Each cell reads 3x3 points per group, moved by learned offsets. As in the published operator, the points are
    numbered column by column, and `offset_scale` widens the grid itself, not only the offsets.

    Args:
        channels: C.
        groups: they divide C.
        kernel: odd side of the depth-wise convolution that offsets and weights are read from.
        offset_scale: cells per unit of grid and offset.
        centre_scale: whether a learned share of each group is taken from the cell itself (InternImage-H and -G).
    """

    def __init__(
        self, channels: int, groups: int, kernel: int = 3, offset_scale: float = 1.0, centre_scale: bool = False
    ) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"DCNv3: expected channels that divide by {groups} groups, came {channels}")
        self.groups, self.offset_scale = groups, offset_scale
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.offset = nn.Linear(channels, groups * 9 * 2)
        self.weight = nn.Linear(channels, groups * 9)
        self.input = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.centre = nn.Linear(channels, groups) if centre_scale else None
        for layer in (self.offset, self.weight, *([self.centre] if self.centre else [])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in (self.input, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        _, h, w, _ = x.shape
        value = self.input(x).flatten(1, 2)  # N HW C
        context = F.gelu(self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))).flatten(1, 2)
        steps = torch.arange(-1.0, 2.0, device=x.device)
        grid = torch.cartesian_prod(steps, steps)  # point 3i + j looks at (x, y) = (i - 1, j - 1)
        offset = self.offset(context).float().unflatten(2, (self.groups, 1, 9, 2))
        cells = (grid + offset) * self.offset_scale / numbers_beside(x, [w, h])
        locations = cell_centres([(h, w)], x.device)[:, None, None, None] + cells  # N HW groups 1 9 2
        weights = self.weight(context).float().unflatten(2, (self.groups, 1, 9)).softmax(-1)
        out = ms_deform_attn(value.unflatten(2, (self.groups, -1)), [(h, w)], locations, weights)
        if self.centre is not None:
            share = self.centre(context).sigmoid()[..., None]
            own, seen = value.unflatten(2, (self.groups, -1)), out.unflatten(2, (self.groups, -1))
            out = (seen + share * (own - seen)).flatten(2)
        return self.output(out).unflatten(1, (h, w))


class InternImageBlock(nn.Module):
    """DCNv3 and a perceptron, each with a norm before (or after) and a residual connection.

    Args:
        channels: C.
        dcn: the deformable convolution.
        mlp_ratio: hidden width of the perceptron over C.
        drop_path: see `DropPath`.
        post_norm: norms after the branches (T to XL); else before.
        branch_norm: a further norm after each branch, besides that before it (H and G).
        layer_scale: see `add_layer_scale`.
    """

    gamma1: nn.Parameter | None
    gamma2: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        dcn: DCNv3,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        post_norm: bool = True,
        branch_norm: bool = False,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()

        def norm(there: bool) -> nn.Module:
            return nn.LayerNorm(channels, eps=EPS) if there else nn.Identity()

        # A norm before or after: never both but for `branch_norm`.
        self.before1, self.after1 = norm(not post_norm), norm(post_norm or branch_norm)
        self.before2, self.after2 = norm(not post_norm), norm(post_norm or branch_norm)
        self.dcn = dcn
        self.mlp = gelu_mlp(channels, int(channels * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        add_layer_scale(self, channels, layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        x = x + self.drop_path(scaled(self.after1(self.dcn(self.before1(x))), self.gamma1))
        return x + self.drop_path(scaled(self.after2(self.mlp(self.before2(x))), self.gamma2))


class Downsample(nn.Module):
    """3x3 convolution of stride 2 and a norm on [N, H, W, C]."""

    def __init__(self, channels: int, out_channels: int, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, stride=2, padding=1, bias=bias)
        self.norm = nn.LayerNorm(out_channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C']."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class InternImageStage(Stage):
    """Blocks at one resolution, with further norms behind some of them.

    Args:
        blocks: in order.
        norm: after the last block.
        block_norms: norms after some blocks: position -> norm.
        downsample: to the next stage's input, or None.
    """

    def __init__(
        self,
        blocks: Sequence[InternImageBlock],
        norm: nn.Module,
        block_norms: Mapping[int, nn.Module],
        downsample: Downsample | None,
    ) -> None:
        super().__init__(blocks)
        self.block_norms = nn.ModuleDict({str(i): module for i, module in block_norms.items()})
        self.norm = norm
        self.downsample = downsample  # last: optimisers know parameters by their order

    def run(self, x: Tensor) -> Tensor:
        """See `Stage.run`."""
        for i, block in enumerate(self.blocks):
            x = block(x)
            if str(i) in self.block_norms:
                x = self.block_norms[str(i)](x)
        return self.norm(x)


class InternImage(nn.Module):
    """Four stages; maps of stride 4, 8, 16, 32 at any frame size.

    Args:
        width: channels of the first stage; each next one doubles them.
        depths: blocks of each stage.
        groups: of DCNv3 in each stage.
        mlp_ratio: hidden width of the perceptrons.
        offset_scale: see `DCNv3`.
        kernel: see `DCNv3`.
        post_norm: see `InternImageBlock`.
        branch_norm: see `InternImageBlock`.
        centre_scale: see `DCNv3`.
        layer_scale: see `InternImageBlock`.
        block_norms: blocks of the third stage with a further norm behind them (H and G).
        drop_path: of the last block, see `drop_path_rates`.
        out_indices: see `run_stages`.
        in_channels: channels of the frame.

    Attributes:
        channels: channels of each returned map.
        strides: pixels per cell of each returned map: ceil(H / stride) rows and ceil(W / stride) columns.
    """

    def __init__(
        self,
        width: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        mlp_ratio: float = 4.0,
        offset_scale: float = 1.0,
        kernel: int = 3,
        post_norm: bool = True,
        branch_norm: bool = False,
        centre_scale: bool = False,
        layer_scale: float | None = 1.0,
        block_norms: Sequence[int] = (),
        drop_path: float = 0.0,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.out_indices = tuple(out_indices)
        self.channels, self.strides = pyramid_shape(width, self.out_indices)
        self.stem = nn.ModuleList(
            [Downsample(in_channels, width // 2, bias=True), Downsample(width // 2, width, bias=True)]
        )
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(drop_path, depths)):
            c = width << i
            blocks = [
                InternImageBlock(
                    c, DCNv3(c, groups[i], kernel, offset_scale, centre_scale), mlp_ratio, rate, post_norm,
                    branch_norm, layer_scale,
                )
                for rate in rates
            ]  # fmt: skip
            last_norm = nn.LayerNorm(c, eps=EPS) if not post_norm or centre_scale else nn.Identity()
            extra = {j: nn.LayerNorm(c, eps=EPS) for j in block_norms} if i == 2 else {}
            down = Downsample(c, 2 * c) if i < len(depths) - 1 else None
            self.stages.append(InternImageStage(blocks, last_norm, extra, down))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, 3, H, W] -> one [N, C, h, w] per stage of `out_indices` (in channels_last memory, as computed)."""
        first, second = self.stem
        return run_stages(self.stages, second(F.gelu(first(x.permute(0, 2, 3, 1)))), self.out_indices)
