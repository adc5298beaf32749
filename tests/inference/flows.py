"""Predictors and flows of which every number is known, for what follows pixels along flow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everyframe.flow import FlowPair
from everyframe.inference.predictor import Predictor
from everyframe.labels import LabelSpace

H, W, K = 6, 9, 3


class Listed:
    """Gives the t-th logits [K, h, w] to the t-th frame, `late` steps after it came; later ones get the last."""

    def __init__(self, logits: Tensor, late: int = 0, preview: bool = False) -> None:
        self.logits, self.lookahead, self.preview = logits, late, preview
        self.label_space = LabelSpace(tuple(f"class {k}" for k in range(logits.shape[1])))

    def step(self, frame: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        if state is None and self.preview:
            return torch.full_like(self.logits[:1], 7.0), 0
        t = state or 0
        return self.logits[min(max(t - self.lookahead, 0), len(self.logits) - 1)][None], t + 1


class Known:
    """The flow (x, y) per pixel, forward and back, that is known for every pair; remembers which pairs were asked."""

    def __init__(self, forward: NDArray[np.float32], backward: NDArray[np.float32]) -> None:
        self.pair, self.asked = FlowPair(forward, backward), []

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        self.asked.append((int(first[0, 0, 0]), int(second[0, 0, 0])))
        return self.pair


def numbered(count: int) -> list[Tensor]:
    return [torch.full((1, 3, H, W), i % 256, dtype=torch.uint8) for i in range(count)]


def uniform(x: float, y: float = 0.0) -> NDArray[np.float32]:
    return np.stack([np.full((H, W), x), np.full((H, W), y)]).astype(np.float32)


def run(model: Predictor, frames: list[Tensor], shares: bool = False) -> list[NDArray[np.float64]]:
    """Probabilities of every step; `shares`: what comes is that already."""
    state, out = None, []
    for frame in frames:
        logits, state = model.step(frame, state)
        out.append((logits if shares else logits.softmax(1))[0].double().numpy())
    return out


def flows() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A shift by fractions of a pixel, and a block whose way back leads elsewhere: occluded."""
    forward, backward = uniform(-1.3, 0.4), uniform(1.3, -0.4)
    backward[:, 2:4, 2:6] = 5.0
    return forward, backward
