"""Smoothing over time along optical flow: what a pixel was, where it can be followed, has a say in what it is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from everyframe.errors import InputError
from everyframe.flow import Flow
from everyframe.inference.along_flow import AlongFlow
from everyframe.inference.predictor import Predictor
from everyframe.inference.scores import ScoreNorm, as_logits


class Smoothed(NamedTuple):
    """What a smoothed stream keeps.

    Attributes:
        frames: the latest frames [B, 3, H, W], oldest first: those that wait for their logits, and the one before.
        scores: smoothed scores [B, K, h, w] of the latest frame that had its logits; None before the first one.
        preview: whether the next frame is a preview, see `Timing`.
    """

    frames: tuple[Tensor, ...]
    scores: Tensor | None
    preview: bool


class FlowSmoothing(AlongFlow):
    """Mix a predictor's probabilities with those of the frame before, moved along optical flow.

        P'_t = (1 - alpha m) P_t + alpha m warp(P'_{t-1})

    m is 1 where a pixel of frame t is found again in frame t-1, see `Following`, and 0 where it is not. There P_t stays
    what it is. At the logits' resolution m is the share of such pixels in a cell. Where hardly anything is found again,
    or the pictures differ as those of two scenes do, a new scene begins. The recursion remembers about 1 / (1 - alpha)
    frames and costs one map of scores. Post-processing that the VSPW 2023 winner tried; whether it helps is for
    `evaluate` to say. `FlowWindow` is the form that looks both ways.

    Args:
        predictor: what to run. The outermost place is the cheap one: one flow a frame.
        alpha: weight of the past, 0 up to but not 1; 0.3 to 0.5 are usual.
        flow: see `Following`, as are min_visible and cut_threshold.
        score_norm: what is mixed, see `ScoreNorm`.
        full_resolution: mix at the frame's resolution instead of the logits', at K x H x W floats.

    Raises:
        InputError: alpha out of range, or no such flow.
    """

    def __init__(
        self,
        predictor: Predictor,
        alpha: float = 0.4,
        flow: str | Flow = "dis",
        min_visible: float = 0.2,
        score_norm: ScoreNorm = "softmax",
        full_resolution: bool = False,
        cut_threshold: float = 0.3,
    ) -> None:
        super().__init__(predictor, flow, min_visible, score_norm, full_resolution, cut_threshold)
        if not 0 <= alpha < 1:
            raise InputError(f"smooth: expected a weight of the past from 0 up to but not 1, came {alpha}")
        self.alpha, self.before = alpha, 1

    def _nothing(self) -> Smoothed:
        return Smoothed((), None, self.preview)

    def _begun(self, own: Smoothed) -> bool:
        return own.scores is not None

    def _mixed(self, logits: Tensor, answered: tuple[Tensor, ...], own: Smoothed) -> tuple[Tensor, Smoothed]:
        scores = self._scores(logits, answered[-1])
        if own.scores is not None and own.scores.shape == scores.shape:
            before, now = answered[-2:]
            way = self.following.link(now, before).forth((scores.shape[-2], scores.shape[-1]), scores.device)
            scores = scores + self.alpha * way.found * (way.moved(own.scores) - scores)
        return as_logits(scores, self.score_norm), own._replace(scores=scores)

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"alpha={self.alpha}, {super().extra_repr()}"
