"""What the frames around a frame say of its pixels, followed along optical flow: a mean, or a vote."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from everyframe.errors import InputError
from everyframe.flow import Flow
from everyframe.inference.following import Following, Way
from everyframe.inference.predictor import Predictor, State, Wrapper, child_states
from everyframe.inference.scores import ScoreNorm, as_logits, check_norm, normalized, resized

OWN_VOTE = 1.001
"""Weight of a frame's own label among the votes, so that of equal counts its own one wins."""


class Around(NamedTuple):
    """What a window over a stream keeps.

    Attributes:
        frames: the latest frames [B, 3, H, W], oldest first: those that wait for their logits, and `radius` before.
        scores: shares or votes [B, K, h, w] of the latest 2 radius + 1 frames that had their logits.
        ways: of each of the latest radius + 1 of these, the ways to the `radius` frames before it and back from them,
            nearest first; of the first frames of a video fewer.
        preview: whether the next frame is a preview, see `Timing`.
    """

    frames: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    ways: tuple[tuple[tuple[Way, Way], ...], ...]
    preview: bool


class FlowWindow(Wrapper):
    """Let the frames before and after have a say in each frame, wherever its pixels are found again in them.

        P'_t = (P_t + sum_j m_tj warp(P_{t+j})) / (1 + sum_j m_tj),   j = -radius..radius but 0

    m_tj is 1 where a pixel of frame t is found again in frame t+j, see `Following`; at the logits' resolution it is the
    share of such pixels in a cell. With `vote` P is 1 for a frame's own label and 0 for the other classes: the majority
    of the labels that are found, of equal counts the frame's own. Post-processing that the VSPW 2023 winner tried,
    symmetric where `FlowSmoothing` is recursive: nothing older or newer than `radius` frames has a say.

    Answers come `radius` frames late. After the end the last frame is repeated, as `LookAhead` feeds it, and counts as
    often; before the first frame there is nothing. Costs flow both ways to `radius` frames before each frame (what
    leads to the frames after it is kept), and 2 radius + 1 maps of scores.

    Args:
        predictor: what to run. The outermost place is the cheap one.
        radius: frames to either side, 1 or more.
        vote: count labels in place of mixing probabilities.
        flow: see `Following`, as are min_visible and cut_threshold; it must give the flow back.
        score_norm: what is mixed, see `ScoreNorm`.
        full_resolution: mix at the frame's resolution instead of the logits', at (2 radius + 1) x K x H x W floats.

    Raises:
        InputError: radius out of range, or no such flow; in `step`, one that gives no flow back.
    """

    def __init__(
        self,
        predictor: Predictor,
        radius: int = 1,
        vote: bool = False,
        flow: str | Flow = "dis",
        min_visible: float = 0.2,
        score_norm: ScoreNorm = "softmax",
        full_resolution: bool = False,
        cut_threshold: float = 0.3,
    ) -> None:
        super().__init__(predictor)
        check_norm(score_norm)
        if radius < 1:
            raise InputError(f"smooth window: expected one frame or more to either side, came {radius}")
        self.radius, self.vote = radius, vote
        self.score_norm: ScoreNorm = score_norm
        self.full_resolution = full_resolution
        self.following = Following(flow, min_visible, cut_threshold)
        self.late = self.lookahead
        """Frames by which the logits of `predictor` come late."""
        self.lookahead += radius

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `Predictor.step`."""
        inner, own = child_states(state, 2, "FlowWindow")
        logits, inner = self.predictor.step(frame, inner)
        own = own or Around((), (), (), self.preview)
        if own.preview:
            return logits, (inner, own._replace(preview=False))
        frames = (*own.frames, frame)[-(self.late + self.radius + 1) :]
        if not own.scores and len(frames) <= self.late:  # nothing of the video is answered yet
            return logits, (inner, own._replace(frames=frames))
        scores = (*own.scores, self._says(logits, frame))[-(2 * self.radius + 1) :]
        answered = frames[: len(frames) - self.late]
        ways = (*own.ways, self._ways(answered, scores[-1]))[-(self.radius + 1) :]
        if len(ways) > self.radius:  # the frame in the middle has seen those after it
            logits = self._together(scores, ways)
        return logits, (inner, Around(frames, scores, ways, False))

    def _says(self, logits: Tensor, frame: Tensor) -> Tensor:
        if self.full_resolution:
            logits = resized(logits, (frame.shape[-2], frame.shape[-1]))
        if self.vote:
            return F.one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1).float()
        return normalized(logits, self.score_norm)

    def _ways(self, frames: tuple[Tensor, ...], scores: Tensor) -> tuple[tuple[Way, Way], ...]:
        """Return the ways from the last of the frames to those before it, nearest first, and back."""
        *before, now = frames
        size = (scores.shape[-2], scores.shape[-1])
        links = [self.following.link(now, other) for other in before[: -self.radius - 1 : -1]]
        return tuple((link.forth(size, scores.device), link.back(size, scores.device)) for link in links)

    def _together(self, scores: tuple[Tensor, ...], ways: tuple[tuple[tuple[Way, Way], ...], ...]) -> Tensor:
        """Return the logits of the frame that has `radius` frames after it."""
        middle = len(scores) - 1 - self.radius
        around = [(scores[middle - j], way) for j, (way, _) in enumerate(ways[0], 1)]
        around += [(scores[middle + j], ways[j][j - 1][1]) for j in range(1, self.radius + 1)]
        weight = OWN_VOTE if self.vote else 1.0
        total, count = weight * scores[middle], scores[middle].new_tensor(weight)
        for says, way in around:
            total = total + way.found * way.moved(says)
            count = count + way.found
        return as_logits(total / count, "softmax" if self.vote else self.score_norm)

    def describe(self) -> str:
        """Return a sentence for a summary: how far it looks."""
        after = "frame after it has" if self.radius == 1 else f"{self.radius} frames after it have"
        return f"smooth window: each frame is answered when the {after} come"

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return (
            f"radius={self.radius}, vote={self.vote}, {self.following}, score_norm={self.score_norm!r}, "
            f"full_resolution={self.full_resolution}"
        )
