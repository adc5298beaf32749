"""Smoothing over time along optical flow: what a pixel was, where it can be followed, has a say in what it is."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from everyframe.errors import InputError
from everyframe.flow import Flow, open_flow
from everyframe.inference.predictor import Predictor, State, Wrapper, child_states
from everyframe.inference.scores import ScoreNorm, as_logits, check_norm, normalized, resized
from everyframe.metrics.flow import visible
from everyframe.models.ops.warp import resize_flow, warp
from everyframe.models.temporal.ring import scene_change, scene_signature


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


class FlowSmoothing(Wrapper):
    """Mix a predictor's probabilities with those of the frame before, moved along optical flow.

        P'_t = (1 - alpha m) P_t + alpha m warp(P'_{t-1})

    m is 1 where a pixel of frame t is found again in frame t-1, and 0 where it is not: out of the picture, or going
    there and back does not return near to it (`everyframe.metrics.flow.visible`: |f + b|^2 < 0.01 (|f|^2 + |b|^2) +
    0.5). There P_t stays what it is. At the logits' resolution m is the share of such pixels in a cell. Where hardly
    anything is found again, or the pictures differ as those of two scenes do, a new scene begins. The recursion
    remembers about 1 / (1 - alpha) frames and costs one map of scores. Post-processing that the VSPW 2023 winner tried;
    whether it helps is for `evaluate` to say.

    Args:
        predictor: what to run. The outermost place is the cheap one: one flow a frame.
        alpha: weight of the past, 0 up to but not 1; 0.3 to 0.5 are usual.
        flow: "dis" (OpenCV, no weights), "raft", "raft:WEIGHTS.pth" (on the frames' device), or any `Flow` with a flow
            back; one without it can tell no occlusion.
        min_visible: share of the pixels of a frame that must be found again, else a new scene begins.
        score_norm: what is mixed, see `ScoreNorm`.
        full_resolution: mix at the frame's resolution instead of the logits', at K x H x W floats.
        cut_threshold: see `everyframe.models.temporal.ring.scene_change`, here of the frames themselves; 2 never finds
            a cut. (Between pictures of little texture flow finds much again, whatever they show.)

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
        super().__init__(predictor)
        check_norm(score_norm)
        if not 0 <= alpha < 1:
            raise InputError(f"smooth: expected a weight of the past from 0 up to but not 1, came {alpha}")
        self.alpha = alpha
        self.flow = flow
        self.min_visible = min_visible
        self.score_norm: ScoreNorm = score_norm
        self.full_resolution = full_resolution
        self.cut_threshold = cut_threshold
        open_flow(flow)  # an unknown name is refused here
        self._flow: Flow | None = None

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `Predictor.step`."""
        inner, own = child_states(state, 2, "FlowSmoothing")
        logits, inner = self.predictor.step(frame, inner)
        own = own or Smoothed((), None, self.preview)
        if own.preview:
            return logits, (inner, own._replace(preview=False))
        frames = (*own.frames, frame)[-(self.lookahead + 2) :]
        if own.scores is None and len(frames) <= self.lookahead:  # nothing of the video is answered yet
            return logits, (inner, own._replace(frames=frames))
        if self.full_resolution:
            logits = resized(logits, (frame.shape[-2], frame.shape[-1]))
        scores = normalized(logits, self.score_norm)
        if own.scores is not None and own.scores.shape == scores.shape:
            before, now = frames[-2 - self.lookahead], frames[-1 - self.lookahead]
            moved, weight = self._follow(own.scores, now, before)
            scores = scores + self.alpha * weight * (moved - scores)
        return as_logits(scores, self.score_norm), (inner, Smoothed(frames, scores, False))

    def _follow(self, past: Tensor, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Move the scores [B, K, h, w] of `before` to the grid of `now`, and return m [B, 1, h, w] beside them."""
        self._flow = self._flow or open_flow(self.flow, now.device)
        flows, masks = [], []
        cuts = scene_change(scene_signature(before), scene_signature(now)) > self.cut_threshold
        for image, earlier, cut in zip(now.cpu(), before.cpu(), cuts.tolist(), strict=True):
            pair = self._flow.between(image, earlier)
            mask = torch.from_numpy(visible(pair)).float()
            flows.append(torch.from_numpy(pair.forward))
            masks.append(torch.zeros_like(mask) if cut or mask.mean() < self.min_visible else mask)
        size = (past.shape[-2], past.shape[-1])
        flow = resize_flow(torch.stack(flows).to(past.device), size)
        weight = F.adaptive_avg_pool2d(torch.stack(masks)[:, None].to(past.device), size)
        return warp(past, flow, border="border"), weight

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        flow = self.flow if isinstance(self.flow, str) else type(self.flow).__name__
        return (
            f"alpha={self.alpha}, flow={flow!r}, min_visible={self.min_visible}, score_norm={self.score_norm!r}, "
            f"full_resolution={self.full_resolution}, cut_threshold={self.cut_threshold}"
        )
