"""The latest frames of a stream, which modules with fixed offsets keep, and the scene cuts at which memories end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Ring(NamedTuple):
    """The latest frames of N streams; it fills up in the first frames and then stays as large as it is.

    Attributes:
        frames: what was kept of them, oldest first, [N, R, ...], R at most the farthest offset.
        signature: see `scene_signature`, of the latest frame, [N, S].
    """

    frames: Tensor
    signature: Tensor


class Recent(NamedTuple):
    """What a frame may look at.

    Attributes:
        frames: the ring's and this frame, oldest first, [N, R + 1, ...].
        cut: bool [N], whether a new scene begins with this frame.
    """

    frames: Tensor
    cut: Tensor

    def at(self, offsets: Sequence[int]) -> Tensor:
        """Return the frames at `offsets` from this one, [N, len(offsets), ...].

        Before the start of the scene, and after the present, the nearest frame stands in, as in training clips.
        """
        now = self.frames.shape[1] - 1
        return self.frames[:, [min(max(now + offset, 0), now) for offset in offsets]]


def advance(ring: Ring | None, kept: Tensor, fine: Tensor, reach: int, threshold: float) -> tuple[Ring, Recent]:
    """Take in the next frame of N streams.

    Args:
        ring: of the frames before; None at the first frame. One of other streams or of another size is dropped.
        kept: what is to be kept of this frame, [N, ...].
        fine: its finest backbone map, [N, C, h, w], to notice scene cuts.
        reach: number of frames to keep.
        threshold: `scene_change` above which a new scene begins.

    Returns:
        The next ring, and what this frame may look at: after a cut this frame stands in for those before it, which
        say nothing about the new scene.
    """
    now, signature = kept[:, None], scene_signature(fine)
    if ring is None or ring.frames[:, :1].shape != now.shape:
        before, cut = now[:, :0], torch.ones(len(kept), dtype=torch.bool, device=kept.device)
    else:
        # Zeros are the beginning of an exported model's video, whose first frame may be of one colour, zeros as well.
        cut = (scene_change(ring.signature, signature) > threshold) | ~ring.signature.any(1)
        before = where_cut(cut, now, ring.frames)
    frames = torch.cat([before, now], dim=1)
    # One frame at least, whose shape tells whether the next one fits.
    return Ring(frames[:, -max(reach, 1) :], signature), Recent(frames, cut)


def where_cut(cut: Tensor, now: Tensor, before: Tensor) -> Tensor:
    """Return `now` for the streams in which a new scene begins and `before` for the others.

    Args:
        cut: bool [N].
        now: [N, ...].
        before: of the same shape, or one that `now` can be broadcast to.
    """
    return torch.where(cut.view(-1, *(1,) * (now.ndim - 1)), now, before)


def scene_signature(fine: Tensor, cells: int = 8) -> Tensor:
    """Return what tells scenes apart, [N, C * cells^2]: a map [N, C, h, w] averaged over a grid, less its mean.

    Rectified features are alike in all pictures by their mean alone; where in the picture they lie is not. Fine maps
    are near to the picture and change little with noise and motion, trained or not.
    """
    pooled = F.adaptive_avg_pool2d(fine.detach().float(), cells)
    return (pooled - pooled.mean((2, 3), keepdim=True)).flatten(1)


def scene_change(before: Tensor, after: Tensor) -> Tensor:
    """Return |a - b|^2 / (|a|^2 + |b|^2) of two signatures, [N]: 0 for equal ones, about 1 for unrelated ones.

    Between frames of videos at 15 frames/s and more it stayed below 0.2, between different scenes mostly above 0.4.
    """
    size = before.square().sum(1) + after.square().sum(1)
    return (before - after).square().sum(1) / size.clamp(min=torch.finfo(torch.float32).tiny)
