"""What is asked of losses of pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from everyframe.frames import IGNORE, Clip, Role
from everyframe.models.segmenter import Prediction
from everyframe.models.temporal.base import Features
from everyframe.training.outcome import Outcome, Term


def check_pixel_loss(loss: Callable[[Tensor, Tensor], Tensor], classes: int = 4) -> None:
    """Hold a loss to what training on partly labelled frames needs of it.

    Ignored pixels (255) have a gradient of zero, and what the model says there changes nothing; a batch without a label
    costs exactly 0 and gives a gradient of exactly 0 to everything (one NaN would end the run); the loss is a finite
    scalar, computed in float32, that falls along its gradient.

    Args:
        loss: (logits [N, K, H, W], labels uint8 [N, H, W]) -> scalar.
        classes: K that the loss works with.

    Raises:
        AssertionError: with what does not hold.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (2, 6, 7), generator=generator, dtype=torch.uint8)
    ignored = torch.rand(labels.shape, generator=generator) < 0.3
    labels[ignored] = IGNORE
    logits = torch.randn(2, classes, 6, 7, generator=generator).requires_grad_()

    value = loss(logits, labels)
    _hold(value.ndim == 0 and bool(value.isfinite()), f"expected a finite scalar, came {value.detach()}")
    gradient = _gradient(value, logits)
    _hold(bool(gradient.isfinite().all()), "expected a finite gradient, came one with NaN or infinity")
    at_ignored = gradient.movedim(1, -1)[ignored]
    _hold(not at_ignored.any(), "expected no gradient at pixels labelled 255, came one")
    other = torch.where(ignored[:, None], logits.detach() + 3, logits.detach())
    with torch.no_grad():
        _hold(
            bool(torch.isclose(loss(other, labels), value)),
            "expected the same loss whatever is predicted at pixels labelled 255, came another",
        )
        step = 1e-3 / gradient.norm().clamp(min=1e-12)
        _hold(bool(loss(logits - step * gradient, labels) < value), "expected the loss to fall along its gradient")

    nothing = loss(logits, torch.full_like(labels, IGNORE))
    _hold(float(nothing.detach()) == 0, f"expected exactly 0 of a batch without labels, came {nothing.detach()}")
    gradient = _gradient(nothing, logits)
    _hold(not gradient.any(), "expected a gradient of exactly 0 of a batch without labels, came another")


def _gradient(value: Tensor, logits: Tensor) -> Tensor:
    """Return the gradient of a loss at the logits; a loss that has none would not train, and stop distributed runs."""
    (found,) = torch.autograd.grad(value, logits, allow_unused=True) if value.requires_grad else (None,)
    if found is None:
        raise AssertionError("expected a loss with a gradient at the logits, also without labels, came a constant")
    return found


def check_term(term: Term, classes: int = 4) -> None:
    """Hold a term of an objective, which looks at logits and labels alone, to what `check_pixel_loss` asks.

    Args:
        term: what `everyframe.training.objective.TERMS` holds: (`Outcome`) -> scalar.
        classes: K that the term works with.

    Raises:
        AssertionError: with what does not hold.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        images = torch.zeros(len(labels), 1, 3, *labels.shape[1:], dtype=torch.uint8)
        clip = Clip(
            images=images,
            labels=labels[:, None],
            labelled=torch.ones(len(labels), 1, dtype=torch.bool),
            roles=(Role.QUERY,),
            indices=torch.zeros(len(labels), 1, dtype=torch.long),
            videos=tuple(map(str, range(len(labels)))),
        )
        outputs = {"logits": logits[:, None]}
        return term(Outcome(Prediction(outputs, None, Features((), {})), clip))

    check_pixel_loss(loss, classes)


def _hold(true: bool, message: str) -> None:
    if not true:
        raise AssertionError(message)
