"""Terms of an objective for heads that predict a class and a mask per query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.losses.distributed import mean_over_processes
from everyframe.losses.mask_set import MaskSetLoss, Support
from everyframe.training.objective import Objective
from everyframe.training.outcome import Outcome, Term


@dataclass(frozen=True)
class MaskOptions(MaskSetLoss):
    """A set loss and the weights of its parts; the defaults are Mask2Former's and ViT-Adapter's, 2 / 5 / 5.

    Attributes:
        classification: weight of the cross entropy of the queries' classes.
        mask: weight of the binary cross entropy of the masks (1 in VSPW 2023's table of weights).
        dice: weight of the Dice loss of the masks.
        auxiliary: weight of the cross entropy of auxiliary class scores, where there are any: those of an auxiliary
            head, or those by which SSLTM gathers its regions.
    """

    classification: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    auxiliary: float = 0.4

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("classification", "mask", "dice", "auxiliary")}
        if min(weights.values()) < 0 or self.classification <= 0 or self.mask + self.dice <= 0:
            given = ", ".join(f"{name}={weight:g}" for name, weight in weights.items())
            raise InputError(
                f"masks: expected weights of 0 or more, classification and one of mask and dice above 0, came {given}"
            )
        if self.points < 1 or self.oversample < 1 or not 0 <= self.importance <= 1:
            raise InputError(
                "masks: expected points and oversample of 1 or more and importance in 0..1, came "
                f"points={self.points}, oversample={self.oversample:g}, importance={self.importance:g}"
            )
        if self.support not in get_args(Support):
            raise InputError(f"masks.support: expected one of {', '.join(get_args(Support))}, came {self.support!r}")

    def terms(self) -> dict[str, tuple[float, Term]]:
        """Return the terms of the queries for an `Objective`: "class", "mask" and "mask_dice"."""
        return set_terms(self, {"class": self.classification, "mask": self.mask, "mask_dice": self.dice})


@dataclass(frozen=True, eq=False)
class QuerySetLoss:
    """The set loss of the query frames of a batch, computed once for the terms that are its parts."""

    loss: MaskSetLoss

    def __call__(self, outcome: Outcome) -> dict[str, Tensor]:
        """Return all parts, see `MaskSetLoss`."""
        return outcome.once(self, lambda: self._compute(outcome))

    def _compute(self, outcome: Outcome) -> dict[str, Tensor]:
        frames = len(outcome.clip.queries)
        outputs = {name: value.flatten(0, 1) for name, value in outcome.prediction.outputs.items()}
        supported = None
        if self.loss.support != "ignore":
            supported = _supported(outcome.clip).repeat_interleave(frames, 0)
        return self.loss(
            outputs["class_logits"],
            outputs["mask_embeddings"],
            outputs["pixels"],
            outcome.labels,
            supported=supported,
            reduce=mean_over_processes,
        )


@dataclass(frozen=True)
class SetTerm:
    """One part of the set loss as a term."""

    shared: QuerySetLoss
    part: str

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        return self.shared(outcome)[self.part]


PARTS = {"class": "class", "mask": "mask", "mask_dice": "dice"}
"""Name of a term -> part of `MaskSetLoss`."""


def set_terms(loss: MaskSetLoss, weights: dict[str, float]) -> dict[str, tuple[float, Term]]:
    """Return the terms of a set loss by their names in `PARTS`, with these weights."""
    shared = QuerySetLoss(loss)
    return {name: (weight, SetTerm(shared, PARTS[name])) for name, weight in weights.items()}


def pseudo_label_objective(objective: Objective) -> Objective | None:
    """Return what a pseudo-labelled clip costs a head that predicts masks; None if the objective is of another head.

    The set loss of the labelled clips with the same weights. Where the teacher was unsure, nobody is told anything:
    ignored pixels count for nothing, and queries that lie on them need not say that they show no object.
    """
    terms = {name: (weight, term) for name, (weight, term) in objective.terms.items() if isinstance(term, SetTerm)}
    found = next((term for _, term in terms.values() if isinstance(term, SetTerm)), None)
    if found is None:
        return None
    loss = replace(found.shared.loss, respect_ignore=True, spare_ignored=True, support="ignore")
    return Objective(set_terms(loss, {name: weight for name, (weight, _) in terms.items()}))


def _supported(clip: Clip) -> Tensor:
    """The classes that the labels of each clip know, bool [B, K]."""
    if clip.supported is None:
        raise InputError(
            "masks.support: expected clips that say which classes their labels know (Clip.supported), came some that "
            "do not; it is for training on several data sets, leave it 'ignore' for one"
        )
    return clip.supported
