"""Test-time augmentation: averages over views of a frame. Each view is a stream of its own and keeps its own state."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from everyframe.errors import InputError
from everyframe.inference.predictor import Predictor, State, Wrapper, child_states
from everyframe.inference.scores import ScoreNorm, check_norm, mean_logits, no_finer, view_norm


class Flip(Wrapper):
    """Average a predictor's view of the frame with its view of the mirrored frame (left to right).

    Args:
        predictor: what to run, twice a frame.
        score_norm: what is averaged, see `ScoreNorm`; None: what fits the predictor, see `view_norm`.
    """

    def __init__(self, predictor: Predictor, score_norm: ScoreNorm | None = None) -> None:
        super().__init__(predictor)
        self.score_norm: ScoreNorm = view_norm(predictor) if score_norm is None else score_norm
        check_norm(self.score_norm)

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `Predictor.step`."""
        straight, mirrored = child_states(state, 2, "Flip")
        logits, straight = self.predictor.step(frame, straight)
        flipped, mirrored = self.predictor.step(frame.flip(-1), mirrored)
        return mean_logits([logits, flipped.flip(-1)], self.score_norm), (straight, mirrored)

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"score_norm={self.score_norm!r}"


class Scales(Wrapper):
    """Average a predictor's views of the frame resized by some factors.

    Averages are taken at the finest member's logits, not at the frame's resolution: some 14 times less work and
    memory at stride 4, with labels that differ from the full-resolution average in a few pixels of a thousand, at
    the borders of regions. Set `full_resolution` where published numbers are to be met.

    With `short` a frame is seen at the size that the model was trained at, whatever its own: 480x853 frames at 896x1600
    by a model of 896 crops. Logits finer than the frame itself, those of windows, are brought to its resolution then,
    as in the published tests; the memory of a member is bounded by the frame.

    Args:
        predictor: what to run, once a scale.
        scales: factors of height and width; 1.0 leaves the frame untouched.
        multiple: round the resized height and width up to a multiple of this.
        short: pixels of the frame's short side at factor 1, the ratio of the sides being kept; None: as it is.
        score_norm: what is averaged, see `ScoreNorm`; None: what fits the predictor, see `view_norm`.
        full_resolution: bring all members to the frame's resolution before they are averaged.
    """

    def __init__(
        self,
        predictor: Predictor,
        scales: Sequence[float] = (0.75, 1.0, 1.25),
        multiple: int = 1,
        score_norm: ScoreNorm | None = None,
        full_resolution: bool = False,
        short: int | None = None,
    ) -> None:
        super().__init__(predictor)
        self.scales = tuple(float(scale) for scale in scales)
        if not self.scales or min(self.scales) <= 0:
            raise InputError(f"scales: expected one or more factors above 0, came {list(self.scales)}")
        if multiple < 1:
            raise InputError(f"scales: expected a multiple of at least 1 pixel, came {multiple}; 1 rounds nothing")
        if short is not None and short < 1:
            raise InputError(f"short: expected a short side of at least 1 pixel, came {short}, such as 480")
        self.multiple = multiple
        self.short = short
        self.score_norm: ScoreNorm = view_norm(predictor) if score_norm is None else score_norm
        check_norm(self.score_norm)
        self.full_resolution = full_resolution

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `Predictor.step`."""
        states = child_states(state, len(self.scales), "Scales")
        members, new_states = [], []
        for scale, old in zip(self.scales, states, strict=True):
            logits, new = self.predictor.step(self._resized(frame, scale), old)
            members.append(logits if self.short is None else no_finer(logits, (frame.shape[-2], frame.shape[-1])))
            new_states.append(new)
        size = (frame.shape[-2], frame.shape[-1]) if self.full_resolution else None
        return mean_logits(members, self.score_norm, size), tuple(new_states)

    def _resized(self, frame: Tensor, scale: float) -> Tensor:
        """Return uint8 [B, 3, H', W'], bilinear.

        Factors of the frame's own size are taken without antialiasing, as in the published tests. A short side is that
        of training, whose pictures are shrunk with it.
        """
        factor = scale if self.short is None else scale * self.short / min(frame.shape[-2:])
        sides = (-(-max(round(side * factor), 1) // self.multiple) * self.multiple for side in frame.shape[-2:])
        size = tuple(sides)
        if size == tuple(frame.shape[-2:]):
            return frame
        shrunk_in_training = self.short is not None
        resized = F.interpolate(frame.float(), size, mode="bilinear", align_corners=False, antialias=shrunk_in_training)
        return resized.round_().clamp_(0, 255).to(frame.dtype)

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return (
            f"scales={self.scales}, multiple={self.multiple}, score_norm={self.score_norm!r}, "
            f"full_resolution={self.full_resolution}, short={self.short}"
        )
