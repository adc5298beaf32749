"""Following pixels from one frame to another along optical flow, for what mixes the scores of several frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from everyframe.errors import InputError
from everyframe.flow import Flow, FlowPair, checked_pair, open_flow
from everyframe.metrics.flow import visible
from everyframe.models.ops.warp import resize_flow, warp
from everyframe.models.temporal.ring import scene_change, scene_signature


class Way(NamedTuple):
    """How the pixels of one frame are found in another one, on the grid of score maps.

    Attributes:
        flow: [B, 2, h, w] from the frame to the other one, in cells.
        found: [B, 1, h, w], share of a cell's pixels that are found again, 0 in another scene.
    """

    flow: Tensor
    found: Tensor

    def moved(self, scores: Tensor) -> Tensor:
        """Return scores [B, K, h, w] of the other frame on the grid of this one, bilinearly."""
        return warp(scores, self.flow, border="border")

    def nearest(self, labels: Tensor) -> Tensor:
        """Return a label map [B, 1, h, w] of the other frame on the grid of this one, each pixel the nearest one's."""
        return warp(labels.float(), self.flow, border="border", mode="nearest").to(labels.dtype)


class Link(NamedTuple):
    """Flow between two frames of a batch, both ways.

    Attributes:
        pairs: flow of each member of the batch.
        cuts: whether the two pictures differ as those of two scenes do.
        min_found: share of a frame's pixels that must be found again in the other one, else the scenes differ too.
    """

    pairs: tuple[FlowPair, ...]
    cuts: tuple[bool, ...]
    min_found: float

    def forth(self, size: tuple[int, int], device: torch.device) -> Way:
        """Return the way from the first frame to the second, for scores of this size."""
        return self._way(self.pairs, size, device)

    def back(self, size: tuple[int, int], device: torch.device) -> Way:
        """Return the way from the second frame to the first.

        Raises:
            InputError: the flow is known one way alone.
        """
        turned = [FlowPair(pair.backward, pair.forward) for pair in self.pairs if pair.backward is not None]
        if len(turned) < len(self.pairs):
            raise InputError("flow: expected flow both ways, came the way from the first frame to the second alone")
        return self._way(tuple(turned), size, device)

    def _way(self, pairs: tuple[FlowPair, ...], size: tuple[int, int], device: torch.device) -> Way:
        masks = []
        for pair, cut in zip(pairs, self.cuts, strict=True):
            mask = torch.from_numpy(visible(pair)).float()
            masks.append(torch.zeros_like(mask) if cut or mask.mean() < self.min_found else mask)
        flow = torch.stack([torch.from_numpy(pair.forward) for pair in pairs]).to(device)
        return Way(resize_flow(flow, size), F.adaptive_avg_pool2d(torch.stack(masks)[:, None].to(device), size))


class Following:
    """Links frames by optical flow.

    A pixel is found again where it stays in the picture and going there and back returns near to it
    (`everyframe.metrics.flow.visible`: |f + b|^2 <= 0.01 (|f|^2 + |b|^2) + 0.5).

    Args:
        flow: "dis" (OpenCV, no weights), "raft", "raft:WEIGHTS.pth" (on the frames' device), or any `Flow` with a flow
            back; one without it can tell no occlusion.
        min_visible: share of the pixels of a frame that must be found again, else a new scene begins.
        cut_threshold: see `everyframe.models.temporal.ring.scene_change`, here of the frames themselves; 2 never finds
            a cut. (Between pictures of little texture flow finds much again, whatever they show.)

    Raises:
        InputError: no such flow.
    """

    def __init__(self, flow: str | Flow, min_visible: float, cut_threshold: float) -> None:
        self.flow, self.min_visible, self.cut_threshold = flow, min_visible, cut_threshold
        open_flow(flow)  # an unknown name is refused here
        self._flow: Flow | None = None

    def link(self, first: Tensor, second: Tensor) -> Link:
        """Return the flow between two frames, uint8 [B, 3, H, W].

        Raises:
            InputError: the estimator gives no `FlowPair` of finite [2, H, W].
        """
        self._flow = self._flow or open_flow(self.flow, first.device)
        cuts = scene_change(scene_signature(second), scene_signature(first)) > self.cut_threshold
        size = (first.shape[-2], first.shape[-1])
        pairs = [checked_pair(self._flow.between(one, two), size) for one, two in zip(first, second, strict=True)]
        return Link(tuple(pairs), tuple(cuts.tolist()), self.min_visible)

    def __repr__(self) -> str:
        """Arguments as `print(model)` shows them."""
        flow = self.flow if isinstance(self.flow, str) else type(self.flow).__name__
        return f"flow={flow!r}, min_visible={self.min_visible}, cut_threshold={self.cut_threshold}"
