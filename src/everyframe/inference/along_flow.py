"""Wrappers that mix a frame's scores with those of frames near it, followed along optical flow."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from everyframe.flow import Flow
from everyframe.inference.following import Following
from everyframe.inference.predictor import Predictor, State, Wrapper, child_states
from everyframe.inference.scores import ScoreNorm, check_norm, normalized, resized


class AlongFlow(Wrapper):
    """What `FlowSmoothing` and `FlowWindow` have in common: the frames that wait for their logits, and the flow.

    Args:
        predictor: what to run. The outermost place is the cheap one: one flow a frame.
        flow: see `Following`, as are min_visible and cut_threshold.
        score_norm: what is mixed, see `ScoreNorm`.
        full_resolution: mix at the frame's resolution instead of the logits', at K x H x W floats a map.

    Raises:
        InputError: no such flow.
    """

    before: int
    """Frames before the latest answered one that are kept."""

    def __init__(
        self,
        predictor: Predictor,
        flow: str | Flow,
        min_visible: float,
        score_norm: ScoreNorm,
        full_resolution: bool,
        cut_threshold: float,
    ) -> None:
        super().__init__(predictor)
        check_norm(score_norm)
        self.score_norm: ScoreNorm = score_norm
        self.full_resolution = full_resolution
        self.following = Following(flow, min_visible, cut_threshold)
        self.late = self.lookahead
        """Frames by which the logits of `predictor` come late."""

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `Predictor.step`."""
        inner, own = child_states(state, 2, type(self).__name__)
        logits, inner = self.predictor.step(frame, inner)
        own = own or self._nothing()
        if own.preview:
            return logits, (inner, own._replace(preview=False))
        frames = (*own.frames, frame)[-(self.late + self.before + 1) :]
        own = own._replace(frames=frames)
        if not self._begun(own) and len(frames) <= self.late:  # nothing of the video is answered yet
            return logits, (inner, own)
        logits, own = self._mixed(logits, frames[: len(frames) - self.late], own)
        return logits, (inner, own)

    @abstractmethod
    def _nothing(self) -> Any:
        """Return what is kept before the first frame: a named tuple with `frames` and `preview`."""

    @abstractmethod
    def _begun(self, own: Any) -> bool:
        """Whether a frame of the video has had its logits."""

    @abstractmethod
    def _mixed(self, logits: Tensor, answered: tuple[Tensor, ...], own: Any) -> tuple[Tensor, Any]:
        """Take the logits of the last of the answered frames; return what to hand on, and what is kept."""

    def _scores(self, logits: Tensor, frame: Tensor) -> Tensor:
        """Return what is mixed, at the resolution at which it is."""
        return normalized(
            resized(logits, (frame.shape[-2], frame.shape[-1])) if self.full_resolution else logits, self.score_norm
        )

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"{self.following}, score_norm={self.score_norm!r}, full_resolution={self.full_resolution}"
