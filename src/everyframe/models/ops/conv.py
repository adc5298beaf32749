"""Convolution, normalisation, activation: the block that all heads and convolutional backbones are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from everyframe.errors import InputError

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(math.gcd(32, channels), channels),
    "none": lambda channels: nn.Identity(),
}
"""Name of a normalisation -> channels -> module. Under DDP, Lightning's `sync_batchnorm` turns "batch" into SyncBN."""


def normalisation(norm: str, channels: int) -> nn.Module:
    """Return the normalisation of a name in `NORMS`.

    Raises:
        ValueError: there is no such name.
    """
    if norm not in NORMS:
        raise ValueError(f"expected a norm of {', '.join(NORMS)}, came {norm!r}; choose one of them")
    return NORMS[norm](channels)


def check_odd(kernel_size: int) -> None:
    """Check that a kernel has a middle, without which a map would not keep its size.

    Raises:
        ValueError: its side is even.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"expected an odd kernel_size, came {kernel_size}")


class ConvNormAct(nn.Module):
    """Convolution that keeps the size at stride 1, normalisation, ReLU.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: odd side of the kernel.
        stride: step of the kernel.
        dilation: distance of the kernel's taps.
        groups: see `torch.nn.Conv2d`.
        bias: whether the convolution adds one although a normalisation follows (the VSPW code does, mmseg does not).
        norm: a key of `NORMS`, or channels -> module; "none" makes the convolution add a bias.
        act: whether a ReLU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: str | Callable[[int], nn.Module] = "batch",
        act: bool = True,
    ) -> None:
        super().__init__()
        check_odd(kernel_size)
        padding = dilation * (kernel_size // 2)
        bias = bias or norm == "none"
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=bias)
        self.norm = normalisation(norm, out_channels) if isinstance(norm, str) else norm(out_channels)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C', ceil(H / stride), ceil(W / stride)]."""
        return self.act(self.norm(self.conv(x)))


def check_average(average: Tensor, block: ConvNormAct) -> None:
    """Refuse one picture's average where it would be normalised over the batch: it would come out as 0.

    Args:
        average: [N, C, 1, 1], what `block` is about to see.
        block: of the average.

    Raises:
        InputError: N is 1, and the block is training with batch normalisation.
    """
    if len(average) == 1 and block.training and isinstance(block.norm, nn.BatchNorm2d):
        raise InputError(
            "this head normalises the average of a whole picture over the batch: expected two pictures or more per "
            "training step and process, came 1; set --data.batch_size 2"
        )


def init_convolutions(module: nn.Module) -> None:
    """Start the convolutions of a rectified network so that its maps keep their variance (He et al., ICCV 2015)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def classifier(in_channels: int, num_classes: int) -> nn.Conv2d:
    """Return the 1x1 convolution that ends a head, started small (std 0.01, as mmseg) so that training starts even."""
    conv = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
