"""Convolutional GRU on a head's pixel embedding: the simplest memory that learns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from everyframe.models.heads.base import Head
from everyframe.models.ops.conv import check_odd
from everyframe.models.temporal.base import Embedding, Features, Memory, TemporalModule
from everyframe.models.temporal.ring import scene_change, scene_signature, where_cut


class GRUMemory(NamedTuple):
    """What is kept of the frames so far.

    Attributes:
        hidden: map [N, hidden, h, w] after the last frame.
        signature: see `scene_signature`, of the last frame, [N, S].
    """

    hidden: Tensor
    signature: Tensor


class ConvGRU(TemporalModule[Head]):
    """Remembers a hidden map and adds a little of it to the query's pixels.

    The recurrence of Ballas et al., "Delving Deeper into Convolutional Networks for Learning Video Representations"
    (ICLR 2016), equations 9 to 12, on pixels squeezed to a few channels:

        z, r = sigmoid(conv[x, h]);  c = tanh(conv[x, r * h]);  h' = (1 - z) * h + z * c;  pixels + gamma * expand(h')

    A learned factor per channel (`gamma`, LayerScale of Touvron et al., ICCV 2021) starts small: an untrained module
    leaves a per-frame model nearly as it was, yet every weight learns from the first step on. Any frame size works;
    the memory is one map and does not grow. A frame of another size than the memory starts anew, and so does one that
    begins a new scene.

    Args:
        channels: D of the head's "pixels".
        hidden: channels of the hidden map.
        kernel_size: odd side of the gates' kernels.
        gamma: start of the factor.
        adjacent: offsets of the earlier frames that training clips should offer.
        cut_threshold: see `everyframe.models.temporal.ring.scene_change`; 2 never finds a cut.
    """

    def __init__(
        self,
        channels: int,
        hidden: int = 128,
        kernel_size: int = 3,
        gamma: float = 0.1,
        adjacent: tuple[int, ...] = (-2, -1),
        cut_threshold: float = 0.3,
    ) -> None:
        super().__init__()
        check_odd(kernel_size)
        self.adjacent = tuple(adjacent)
        self.cut_threshold = cut_threshold
        self.hidden = hidden
        padding = kernel_size // 2
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.gates = nn.Conv2d(2 * hidden, 2 * hidden, kernel_size, padding=padding)
        self.candidate = nn.Conv2d(2 * hidden, hidden, kernel_size, padding=padding)
        self.expand = nn.Conv2d(hidden, channels, 1)
        self.gamma = nn.Parameter(torch.full((channels, 1, 1), gamma))

    def forward(self, query: Features, memory: Memory, head: Head) -> tuple[Embedding, Memory]:
        """See `TemporalModule.forward`; changes "pixels" alone."""
        pixels = query.embedding["pixels"]
        x, signature = self.squeeze(pixels), scene_signature(query.maps[0])
        hidden = torch.zeros_like(x)
        if memory is not None and memory.hidden.shape == x.shape:
            cut = scene_change(memory.signature, signature) > self.cut_threshold
            hidden = where_cut(cut, hidden, memory.hidden)
        hidden = self.update(x, hidden)
        return {**query.embedding, "pixels": pixels + self.gamma * self.expand(hidden)}, GRUMemory(hidden, signature)

    def update(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return the next hidden map from the squeezed pixels and the last hidden map, all [N, hidden, h, w]."""
        update, reset = self.gates(torch.cat([x, hidden], dim=1)).sigmoid().chunk(2, dim=1)
        candidate = self.candidate(torch.cat([x, reset * hidden], dim=1)).tanh()
        return hidden + update * (candidate - hidden)
