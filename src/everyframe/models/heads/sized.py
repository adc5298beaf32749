"""Heads whose width and auxiliary head follow the backbone unless a recipe says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from everyframe.models.heads.base import Head
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.ops.resize import map_at

Width = Callable[[Sequence[int]], int]
"""Channels of the backbone's maps -> width of the head."""

Shape = Callable[[Sequence[int], Sequence[int], int], Mapping[str, Any]]
"""(channels, strides, width) -> further options of the head."""


@dataclass(frozen=True)
class SizedHead:
    """Builder `(channels, strides, num_classes, *, width, auxiliary_width, **options) -> head`.

    Attributes:
        build: the head's class.
        width: its width where none is given.
        auxiliary: whether it has an auxiliary head where `auxiliary_width` does not say: the VSPW code's and mmseg's,
            one 3x3 convolution on the last map but one, with half of that map's channels. `auxiliary_width: 0` leaves
            it out.
        shape: options that follow from the sizes; given ones win.
    """

    build: Callable[..., Head]
    width: Width
    auxiliary: bool = False
    shape: Shape = lambda channels, strides, width: {}

    def __call__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        width: int | None = None,
        auxiliary_width: int | None = None,
        **options: Any,
    ) -> Head:
        """Build the head on maps of `channels` and `strides`."""
        if auxiliary_width is None:
            auxiliary_width = map_at(channels, -2) // 2 if self.auxiliary else 0
        auxiliary = None
        if auxiliary_width:
            auxiliary = FCNHead(
                channels, strides, num_classes, index=-2, width=auxiliary_width, num_convs=1, concat_input=False
            )
        width = width or self.width(channels)
        chosen = {"auxiliary": auxiliary, **self.shape(channels, strides, width), **options}
        return self.build(channels, strides, num_classes, width=width, **chosen)


def at_most(width: int) -> Width:
    """Return the published width for large backbones, and no more than the coarsest map's for small ones."""
    return lambda channels: min(width, channels[-1])


def half_of(width: Width) -> Width:
    """Return half of another width."""
    return lambda channels: width(channels) // 2


def narrow(channels: Sequence[int]) -> int:
    """Return 256, the width of pyramids, and about a third of the coarsest map's for small backbones."""
    return max(16, min(256, channels[-1] // 24 * 8))


def all_maps(channels: Sequence[int], strides: Sequence[int], width: int) -> Mapping[str, Any]:
    """All maps side by side at the finest stride, one 1x1 convolution: the plain head, sharp and cheap."""
    return {"index": tuple(range(len(channels))), "num_convs": 1, "kernel_size": 1, "concat_input": False}


def half_keys(channels: Sequence[int], strides: Sequence[int], width: int) -> Mapping[str, Any]:
    """Keys half as wide as pixels, as in the VSPW code."""
    return {"key_width": width // 2}


def dilations_of_stride_8(channels: Sequence[int], strides: Sequence[int], width: int) -> Mapping[str, Any]:
    """DeepLab's published dilations, 12, 24 and 36 cells of stride 8: less on coarser maps, more on finer ones."""
    return {"dilations": (1, *(max(2, rate * 8 // strides[-1]) for rate in (12, 24, 36)))}
