"""What the frames around a frame say of its pixels, followed along optical flow: a mean, or a vote."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.flow import Flow
from everyframe.inference.along_flow import AlongFlow
from everyframe.inference.following import Way
from everyframe.inference.labelmap import label_map
from everyframe.inference.predictor import Predictor
from everyframe.inference.scores import ScoreNorm, as_logits

OWN_VOTE = 1.001
"""Weight of a frame's own label among the votes, so that of equal counts its own one wins."""


class Around(NamedTuple):
    """What a window over a stream keeps.

    Attributes:
        frames: the latest frames [B, 3, H, W], oldest first: those that wait for their logits, and `radius` before.
        scores: scores [B, K, h, w], or where they vote label maps uint8 [B, 1, H, W], of the latest 2 radius + 1 frames
            that had their logits.
        ways: of each of the latest radius + 1 of these, the ways to the `radius` frames before it and back from them,
            nearest first; of the first frames of a video fewer.
        preview: whether the next frame is a preview, see `Timing`.
    """

    frames: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    ways: tuple[tuple[tuple[Way, Way], ...], ...]
    preview: bool


class FlowWindow(AlongFlow):
    """Let the frames before and after have a say in each frame, wherever its pixels are found again in them.

        P'_t = (P_t + sum_j m_tj warp(P_{t+j})) / (1 + sum_j m_tj),   j = -radius..radius but 0

    m_tj is 1 where a pixel of frame t is found again in frame t+j, see `Following`; at the logits' resolution it is the
    share of such pixels in a cell. With `vote` the label maps of the frames are counted instead, pixel by pixel at the
    frame's resolution, each read at the nearest pixel: the majority of the labels that are found, of equal counts the
    frame's own. Post-processing that the VSPW 2023 winner tried, symmetric where `FlowSmoothing` is recursive: nothing
    older or newer than `radius` frames has a say.

    Answers come `radius` frames late. After the end the last frame is repeated, as `LookAhead` feeds it, and counts as
    often; before the first frame there is nothing. Costs flow both ways to `radius` frames before each frame (what
    leads to the frames after it is kept), and 2 radius + 1 maps of scores; a vote keeps label maps, and takes K x H x W
    floats while it counts. What it hands on are shares of the votes (`predicts` is "masks").

    Args:
        predictor: what to run. The outermost place is the cheap one.
        radius: frames to either side, 1 or more.
        vote: count labels in place of mixing scores; score_norm and full_resolution then change nothing.
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
        super().__init__(predictor, flow, min_visible, score_norm, full_resolution, cut_threshold)
        if radius < 1:
            raise InputError(f"smooth window: expected one frame or more to either side, came {radius}")
        self.radius, self.vote, self.before = radius, vote, radius
        self.lookahead += radius
        if vote:
            self.predicts = "masks"

    def _nothing(self) -> Around:
        return Around((), (), (), self.preview)

    def _begun(self, own: Around) -> bool:
        return bool(own.scores)

    def _mixed(self, logits: Tensor, answered: tuple[Tensor, ...], own: Around) -> tuple[Tensor, Around]:
        frame = answered[-1]
        size = (frame.shape[-2], frame.shape[-1])
        says = label_map(logits, size)[:, None] if self.vote else self._scores(logits, frame)
        scores = (*own.scores, says)[-(2 * self.radius + 1) :]
        ways = (*own.ways, self._ways(answered, says))[-(self.radius + 1) :]
        if len(ways) > self.radius:  # the frame in the middle has seen those after it
            around = self._around(scores, ways)
            middle = scores[len(scores) - 1 - self.radius]
            logits = counted(middle, around, logits.shape[1]) if self.vote else self._mean(middle, around)
        return logits, own._replace(scores=scores, ways=ways)

    def _ways(self, frames: tuple[Tensor, ...], scores: Tensor) -> tuple[tuple[Way, Way], ...]:
        """Return the ways from the last of the frames to those before it, nearest first, and back."""
        *before, now = frames
        size = (scores.shape[-2], scores.shape[-1])
        links = [self.following.link(now, other) for other in before[: -self.radius - 1 : -1]]
        return tuple((link.forth(size, scores.device), link.back(size, scores.device)) for link in links)

    def _around(
        self, scores: tuple[Tensor, ...], ways: tuple[tuple[tuple[Way, Way], ...], ...]
    ) -> list[tuple[Tensor, Way]]:
        """Return what the frames around that in the middle say, and the ways from that to them."""
        middle = len(scores) - 1 - self.radius
        before = [(scores[middle - j], forth) for j, (forth, _) in enumerate(ways[0], 1)]
        return before + [(scores[middle + j], ways[j][j - 1][1]) for j in range(1, self.radius + 1)]

    def _mean(self, own: Tensor, around: list[tuple[Tensor, Way]]) -> Tensor:
        total, count = own, torch.ones_like(around[0][1].found)
        for scores, way in around:
            total = total + way.found * way.moved(scores)
            count = count + way.found
        return as_logits(total / count, self.score_norm)

    def describe(self) -> str:
        """Return a sentence for a summary: how far it looks."""
        after = "frame after it has" if self.radius == 1 else f"{self.radius} frames after it have"
        return f"smooth window: each frame is answered when the {after} come"

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"radius={self.radius}, vote={self.vote}, {super().extra_repr()}"


def counted(own: Tensor, around: list[tuple[Tensor, Way]], classes: int) -> Tensor:
    """Return shares of the votes [B, K, H, W] of label maps uint8 [B, 1, H, W], the frame's own and those around."""
    votes = torch.zeros((own.shape[0], classes, *own.shape[2:]), device=own.device)
    ballots = [(own, torch.full(own.shape, OWN_VOTE, device=own.device))]
    ballots += [(way.nearest(labels), way.found) for labels, way in around]
    for labels, weight in ballots:
        votes.scatter_add_(1, labels.long(), weight)
    return votes.div_(votes.sum(1, keepdim=True))
