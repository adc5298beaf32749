"""What everything here runs: a predictor. Segmenters are predictors, and so are the wrappers around them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

from torch import Tensor, nn

from everyframe.labels import LabelSpace

State = Any
"""What a predictor remembers between frames: a pytree of tensors of bounded size; None before the first frame."""


Scored = Literal["logits", "masks"]
"""What class scores are: logits of each pixel; or, of heads that predict masks, sums over queries of class probability
times mask probability, of which none is negative. Wrappers that average "masks" as probabilities hand on logits all the
same, some of them negative: that is how `everyframe.inference.scores` tells them apart."""


class Predictor(Protocol):
    """Contract of `Segmenter`, `Window`, `Flip`, `Scales` and whatever else labels frames one after the other.

    A predictor that wraps others has the tuple of their states as its state, so wrappers nest in any order. One that
    looks ahead says so by `lookahead` and `preview`, see `Timing`.

    Attributes:
        label_space: the K classes.
    """

    label_space: LabelSpace

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Predict the next frame.

        Args:
            frame: uint8 [B, 3, H, W], RGB.
            state: what the previous step returned; None at the first frame.

        Returns:
            logits [B, K, h, w] of any resolution that covers the whole frame (cell centres as
            `align_corners=False` has them), and the state for the next step.
        """
        ...


def child_states(state: State, count: int, owner: str) -> tuple[State, ...]:
    """Return the states of a wrapper's `count` children; Nones before the first frame.

    Raises:
        ValueError: the state belongs to another wrapper or another frame size.
    """
    if state is None:
        return (None,) * count
    if not isinstance(state, tuple) or len(state) != count:
        came = f"{len(state)} of them" if isinstance(state, tuple) else type(state).__name__
        raise ValueError(f"{owner}: expected a tuple of {count} states, came {came}; pass None after a change of size")
    return state


class Timing(NamedTuple):
    """When a predictor answers.

    Attributes:
        lookahead: the step that takes frame t returns the logits of frame t - lookahead.
        preview: the first step of a video is to show its last frame; its answer belongs to no frame.
    """

    lookahead: int = 0
    preview: bool = False


def timing(predictor: Predictor) -> Timing:
    """Return when a predictor answers; those that do not say so answer at once."""
    return Timing(getattr(predictor, "lookahead", 0), getattr(predictor, "preview", False))


def scores_of(predictor: Predictor) -> Scored:
    """Return what a predictor's scores are: as its `predicts` says, or its head's; logits where nobody says so."""
    said = getattr(predictor, "predicts", None) or getattr(getattr(predictor, "head", None), "predicts", None)
    return "masks" if said == "masks" else "logits"


class Wrapper(nn.Module):
    """A predictor around another one; it has the classes, the timing and the kind of scores of that one.

    Args:
        predictor: what to run.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor
        self.label_space = predictor.label_space
        self.lookahead, self.preview = timing(predictor)
        self.predicts: Scored = scores_of(predictor)
