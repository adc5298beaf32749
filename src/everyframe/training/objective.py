"""What a batch costs: named, weighted terms, each a function (prediction, clip) -> scalar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.losses import pixel
from everyframe.losses.distributed import mean_over_processes
from everyframe.models.segmenter import Prediction

Term = Callable[[Prediction, Clip], Tensor]
"""One part of the cost of a batch: scalar, differentiable, averaged over the batch (and over the processes)."""


class Objective(nn.Module):
    """A weighted sum of named terms.

    A new loss is one more entry: a function, or an `nn.Module` where it owns parameters (they are then trained,
    moved and saved with the rest).

    Args:
        terms: name -> (weight, term). Terms of weight 0 are left out.
    """

    def __init__(self, terms: Mapping[str, tuple[float, Term]]) -> None:
        super().__init__()
        self.terms = {name: (weight, term) for name, (weight, term) in terms.items() if weight}
        for name, (_, term) in self.terms.items():
            if isinstance(term, nn.Module):
                self.add_module(name, term)

    def forward(self, prediction: Prediction, clip: Clip) -> dict[str, Tensor]:
        """Return every term by name, unweighted, and their weighted sum as "loss"."""
        values = {name: term(prediction, clip) for name, (_, term) in self.terms.items()}
        total = torch.stack([weight * values[name] for name, (weight, _) in self.terms.items()]).sum()
        return {**values, "loss": total}


def pixel_objective(
    cross_entropy: float = 1.0,
    auxiliary: float = 0.4,
    dice: float = 0.0,
    lovasz: float = 0.0,
    ohem: bool = False,
    ohem_threshold: float = 0.7,
    ohem_min_kept: int = 100_000,
    class_weights: list[float] | None = None,
    average: pixel.Average = "labelled",
) -> Objective:
    """Build the objective of per-pixel heads.

    Args:
        cross_entropy: weight of the cross entropy of the query frames.
        auxiliary: weight of the cross entropy of the auxiliary head on all labelled frames of the clip.
        dice: weight of the Dice loss of the query frames.
        lovasz: weight of the Lovász-softmax loss of the query frames.
        ohem: only the hard pixels of the query frames count in the cross entropy.
        ohem_threshold: a pixel is hard below this probability of its true class.
        ohem_min_kept: pixels per frame that count at least.
        class_weights: factor per class in both cross entropies.
        average: "labelled": mean over labelled pixels; "pixels": divided by all pixels, as in mmsegmentation.
    """
    if min(cross_entropy, auxiliary, dice, lovasz) < 0 or cross_entropy + dice + lovasz <= 0:
        raise InputError(
            "objective: expected weights of 0 or more and at least one of cross_entropy, dice and lovasz above 0, came "
            f"cross_entropy={cross_entropy:g}, auxiliary={auxiliary:g}, dice={dice:g}, lovasz={lovasz:g}"
        )
    weights = None if class_weights is None else torch.tensor(class_weights)
    mining = (ohem_threshold, ohem_min_kept) if ohem else None
    return Objective(
        {
            "cross_entropy": (cross_entropy, QueryCrossEntropy(weights, average, mining)),
            "auxiliary": (auxiliary, AuxiliaryCrossEntropy(weights, average)),
            "dice": (dice, lambda prediction, clip: pixel.dice(*_queries(prediction, clip))),
            "lovasz": (lovasz, lambda prediction, clip: pixel.lovasz(*_queries(prediction, clip))),
        }
    )


@dataclass(frozen=True)
class QueryCrossEntropy:
    """Cross entropy of the query frames' logits.

    Attributes:
        class_weights: [K] or None.
        average: see `pixel.cross_entropy`.
        ohem: (threshold, min_kept) of `pixel.ohem_weights`, or None.
    """

    class_weights: Tensor | None = None
    average: pixel.Average = "labelled"
    ohem: tuple[float, int] | None = None

    def __call__(self, prediction: Prediction, clip: Clip) -> Tensor:
        """See `Term`."""
        logits, labels = _queries(prediction, clip)
        hard = None if self.ohem is None else pixel.ohem_weights(logits, labels, *self.ohem)
        return _cross_entropy(logits, labels, self.class_weights, self.average, hard)


@dataclass(frozen=True)
class AuxiliaryCrossEntropy:
    """Cross entropy of the auxiliary logits on all labelled frames of the clips, context frames too (TCB).

    0 for models without an auxiliary head.
    """

    class_weights: Tensor | None = None
    average: pixel.Average = "labelled"

    def __call__(self, prediction: Prediction, clip: Clip) -> Tensor:
        """See `Term`."""
        if prediction.auxiliary is None:
            return torch.zeros((), device=clip.labels.device)
        logits, labels = prediction.auxiliary.flatten(0, 1), clip.labels.flatten(0, 1)
        return _cross_entropy(logits, labels, self.class_weights, self.average)


def _queries(prediction: Prediction, clip: Clip) -> tuple[Tensor, Tensor]:
    """Logits [B*Q, K, h, w] and labels [B*Q, H, W] of the query frames."""
    return prediction.logits.flatten(0, 1), clip.query_labels.flatten(0, 1)


def _cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None,
    average: pixel.Average,
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Cross entropy whose divisor is the mean over the processes, see `mean_over_processes`."""
    divisor = None
    if average == "labelled":
        divisor = mean_over_processes(pixel.labelled_weights(labels, class_weights, pixel_weights).sum())
    return pixel.cross_entropy(logits, labels, class_weights, pixel_weights, average, divisor)
