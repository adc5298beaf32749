"""Flicker: how often does the predicted class of a point change from frame to frame? Needs no labels.

Two numbers for each frame t, both shares of pixels:

- flicker: the class differs from the frame before;
- flip-back: predictions A, B, A in the frames t-2, t-1, t. Motion changes classes too, but it rarely brings a class and
  takes it away again within three frames; flip-back is what the eye sees as flicker, even without optical flow.

Without flow a point is a pixel position ("same pixel"); with flow it is followed ("along flow"), and points that leave
the picture or become occluded are left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyframe.metrics.flow import FlowPair, follow, visible


class FlickerMeter:
    """Flicker and flip-back of one video, frame by frame. Keeps two label maps."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the frames so far: the next one begins a video."""
        self._before: NDArray[Any] | None = None
        self._before_that: NDArray[Any] | None = None
        self._path: tuple[FlowPair, NDArray[np.bool_]] | None = None

    def step(self, pred: NDArray[Any], flow: FlowPair | None = None) -> tuple[float, float]:
        """Add the next frame.

        Args:
            pred: predicted ids, integers [H, W].
            flow: from the frame before to this one, at every frame of the video but the first, or never.

        Returns:
            (flicker, flip-back) of this frame; NaN where there are too few frames before it, or no point to compare.
        """
        if self._before is None or self._before.shape != pred.shape:
            self.reset()
            self._before = pred.copy()
            return math.nan, math.nan
        values = self._same_pixel(pred) if flow is None else self._along(pred, flow)
        self._before_that, self._before = self._before, pred.copy()
        return values

    def _same_pixel(self, pred: NDArray[Any]) -> tuple[float, float]:
        changed = pred != self._before
        flip_back = math.nan
        if self._before_that is not None:
            flip_back = int(np.count_nonzero(changed & (pred == self._before_that))) / max(pred.size, 1)
        return int(np.count_nonzero(changed)) / max(pred.size, 1), flip_back

    def _along(self, pred: NDArray[Any], flow: FlowPair) -> tuple[float, float]:
        assert self._before is not None
        now, _ = follow(pred, flow.forward)  # this frame's class of each point of the frame before
        seen = visible(flow)
        flicker = _share(now != self._before, seen)
        flip_back = math.nan
        if self._path is not None and self._before_that is not None:
            # Points of two frames ago: their class a frame ago, and now.
            earlier, seen_then = self._path
            middle, _ = follow(self._before, earlier.forward)
            last, _ = follow(now, earlier.forward)
            seen_still, _ = follow(seen, earlier.forward)
            flipped = (last == self._before_that) & (middle != self._before_that)
            flip_back = _share(flipped, seen_then & seen_still)
        self._path = flow, seen
        return flicker, flip_back


def _share(event: NDArray[np.bool_], where: NDArray[np.bool_]) -> float:
    total = int(np.count_nonzero(where))
    return int(np.count_nonzero(event & where)) / total if total else math.nan


def flicker_timeline(preds: NDArray[Any], flows: list[FlowPair] | None = None) -> tuple[list[float], list[float]]:
    """Flicker and flip-back of each frame of a video in memory.

    Args:
        preds: predicted ids, integers [N, H, W].
        flows: N-1 flows from each frame to the next, or None.

    Returns:
        Two lists of N values; NaN at the first frame (flip-back: the first two).

    Example:
        >>> blinking = np.array([[[0, 0]], [[0, 1]], [[0, 0]]], np.uint8)
        >>> flicker_timeline(blinking)
        ([nan, 0.5, 0.5], [nan, nan, 0.5])
    """
    meter = FlickerMeter()
    values = [meter.step(pred, flows[i - 1] if flows is not None and i else None) for i, pred in enumerate(preds)]
    return [flicker for flicker, _ in values], [flip_back for _, flip_back in values]
