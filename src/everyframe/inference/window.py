"""Sliding window: a large frame in overlapping parts of the size that the model was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.inference.predictor import Predictor, State, Wrapper, child_states
from everyframe.inference.scores import ScoreNorm, as_logits, check_norm, normalized, resized
from everyframe.models.ops.numbers import numbers_beside


class Box(NamedTuple):
    """A part of a frame: rows top..bottom, columns left..right, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


def window_grid(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> list[Box]:
    """Return the windows that cover a frame, row by row: the grid of published sliding-window tests.

    Along each axis n = max(size - window + stride - 1, 0) // stride + 1 windows start every `stride` pixels; the last
    one is shifted back inside the frame, and a frame smaller than the window gives one window of the frame's size.

    Args:
        size: (H, W) of the frame.
        window: (h, w) of a window.
        stride: (vertical, horizontal) distance of two windows in pixels.
    """
    rows, columns = (_spans(*axis) for axis in zip(size, window, stride, strict=True))
    return [Box(*row, *column) for row in rows for column in columns]


def _spans(size: int, window: int, stride: int) -> list[tuple[int, int]]:
    count = max(size - window + stride - 1, 0) // stride + 1
    ends = (min(i * stride + window, size) for i in range(count))
    return [(max(end - window, 0), end) for end in ends]


class Window(Wrapper):
    """Run a predictor on overlapping windows and average their scores at the frame's resolution.

    A frame that fits into one window goes to the predictor as it is. Each window of the grid has its own state.

    Args:
        predictor: what to run.
        size: (h, w) of a window, or one number for both.
        stride: distance of two windows, (vertical, horizontal) or one number for both; None: two thirds of `size`.
        pad: fill a frame smaller than the window up to its size, for models with a fixed input size.
        pad_color: RGB of the filling; the default is the mean of ImageNet, which normalises to about zero.
        score_norm: what is averaged where windows overlap; the published tests average the scores as they come.
    """

    def __init__(
        self,
        predictor: Predictor,
        size: tuple[int, int] | int,
        stride: tuple[int, int] | int | None = None,
        pad: bool = False,
        pad_color: tuple[int, int, int] = (124, 116, 104),
        score_norm: ScoreNorm = "none",
    ) -> None:
        super().__init__(predictor)
        self.size = _pair(size)
        self.stride = _pair(stride) if stride is not None else _pair([max(s * 2 // 3, 1) for s in self.size])
        self.pad = pad
        self.pad_color = pad_color
        self.score_norm: ScoreNorm = score_norm
        check_norm(score_norm)
        gaps = any(step > side for step, side in zip(self.stride, self.size, strict=True))
        if min(*self.size, *self.stride) < 1 or gaps:
            raise InputError(
                f"window: expected a size of at least 1x1 and a stride between 1 and the size, came size "
                f"{list(self.size)} and stride {list(self.stride)} (height, width)"
            )

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `Predictor.step`. Logits come at the frame's resolution, unless one window covers the frame."""
        b, _, height, width = frame.shape
        boxes = window_grid((height, width), self.size, self.stride)
        states = child_states(state, len(boxes), "Window")
        if len(boxes) == 1:
            logits, new = self._window(frame, boxes[0], states[0])
            return logits, (new,)

        total = torch.zeros(b, len(self.label_space), height, width, device=frame.device)
        count = torch.zeros(height, width, device=frame.device)
        new_states = []
        for box, old in zip(boxes, states, strict=True):
            logits, new = self._window(frame, box, old)
            part = (slice(box.top, box.bottom), slice(box.left, box.right))
            scores = resized(logits, (box.bottom - box.top, box.right - box.left))
            total[..., part[0], part[1]] += normalized(scores, self.score_norm)
            count[part] += 1
            new_states.append(new)
        return as_logits(total.div_(count), self.score_norm), tuple(new_states)

    def _window(self, frame: Tensor, box: Box, state: State) -> tuple[Tensor, State]:
        """Run one window; its logits cover exactly the box."""
        part = frame[..., box.top : box.bottom, box.left : box.right]
        h, w = part.shape[-2:]
        if not self.pad or (h, w) == self.size:
            return self.predictor.step(part, state)
        filled = (
            numbers_beside(frame, self.pad_color, frame.dtype)
            .view(1, 3, 1, 1)
            .expand(len(frame), 3, *self.size)
            .clone()
        )
        filled[..., :h, :w] = part
        logits, state = self.predictor.step(filled, state)
        return resized(logits, self.size)[..., :h, :w], state

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"size={self.size}, stride={self.stride}, pad={self.pad}, score_norm={self.score_norm!r}"


def _pair(value: Sequence[int] | int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise InputError(f"window: expected one number or (height, width), came {value}")
    return int(pair[0]), int(pair[1])
