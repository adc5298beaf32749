"""The short side that a model's training saw: which predictors ask for one, and what shows them frames of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from everyframe.errors import InputError
from everyframe.inference.predictor import Predictor, State, Wrapper
from everyframe.inference.tta import Scales


class TrainedSide(Scales):
    """`Scales` at the short side of the model's training, which nobody had to say; sides as there, to whole pixels."""


class OwnSide(Wrapper):
    """A predictor that looks at frames as they are, whatever its training saw."""

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """See `Predictor.step`."""
        answer: tuple[Tensor, State] = self.predictor.step(frame, state)
        return answer


def trained_side(predictor: Predictor) -> int | None:
    """Return the short side that frames must be brought to before a predictor sees them; None: they may stay.

    `Segmenter.short_side` of the model in it, however it is wrapped, unless a wrapper brings frames to a side itself.

    Raises:
        InputError: members of an ensemble ask for several.
    """
    sides = _sides(predictor)
    if len(sides) > 1:
        raise InputError(
            f"model: expected members that were trained at one size, came short sides of "
            f"{', '.join('the frames themselves' if side is None else str(side) for side in sides)}; make each member "
            f"by everyframe.predict.with_views(MODEL), or say short (--short), 0 for frames as they are"
        )
    return next(iter(sides))


def _sides(predictor: Any) -> dict[int | None, None]:
    """What the models in a predictor ask for, each once and in order; None: frames as they come."""
    if isinstance(predictor, OwnSide) or (isinstance(predictor, Scales) and predictor.short is not None):
        return {None: None}
    inner = getattr(predictor, "predictor", getattr(predictor, "segmenter", None))  # of a Wrapper, of Offline
    members = getattr(predictor, "members", [] if inner is None else [inner])
    if not members:
        return {getattr(predictor, "short_side", None): None}
    return dict.fromkeys(side for member in members for side in _sides(member))
