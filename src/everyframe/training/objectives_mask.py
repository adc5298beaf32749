"""Terms of an objective for heads that predict a class and a mask per query."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import get_args

from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.losses.distributed import mean_over_processes
from everyframe.losses.mask_set import MaskSetLoss, Support
from everyframe.models.segmenter import Prediction
from everyframe.training.objective import Objective, Term


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


@dataclass
class SetLossOnce:
    """The set loss, computed once per batch for the terms that are its parts.

    Attributes:
        loss: the set loss.
        parts: those of its parts that are terms. The others are dropped: nobody would fetch them, and their graph, that
            of the whole model, would live until the next step.
    """

    loss: MaskSetLoss
    parts: frozenset[str] = frozenset({"class", "mask", "dice"})
    _waiting: dict[str, Tensor] = field(default_factory=dict)
    _of: list[Prediction] = field(default_factory=list)

    def __call__(self, name: str, prediction: Prediction, clip: Clip) -> Tensor:
        """Return one part. A part is handed out once, so that no graph outlives its step."""
        if not self._of or self._of[0] is not prediction or name not in self._waiting:
            self._waiting, self._of = self.compute(prediction, clip), [prediction]
        value = self._waiting.pop(name)
        if not self._waiting:
            self._of = []
        return value

    def compute(self, prediction: Prediction, clip: Clip) -> dict[str, Tensor]:
        """Return the parts that are terms, for the query frames of all clips."""
        frames = clip.query_labels.shape[1]
        outputs = {name: value.flatten(0, 1) for name, value in prediction.outputs.items()}
        labels = clip.query_labels.flatten(0, 1)
        supported = None if self.loss.support == "ignore" else _supported(clip).repeat_interleave(frames, 0)
        losses = self.loss(**outputs, labels=labels, supported=supported, reduce=mean_over_processes)
        return {name: loss for name, loss in losses.items() if name in self.parts}


@dataclass(frozen=True)
class SetTerm:
    """One part of the set loss as a term."""

    shared: SetLossOnce
    part: str

    def __call__(self, prediction: Prediction, clip: Clip) -> Tensor:
        """See `Term`."""
        return self.shared(self.part, prediction, clip)


PARTS = {"class": "class", "mask": "mask", "mask_dice": "dice"}
"""Name of a term -> part of `MaskSetLoss`."""


def set_terms(loss: MaskSetLoss, weights: dict[str, float]) -> dict[str, tuple[float, Term]]:
    """Return the terms of a set loss by their names in `PARTS`, with these weights."""
    shared = SetLossOnce(loss, frozenset(PARTS[name] for name, weight in weights.items() if weight))
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
