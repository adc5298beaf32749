"""Terms of an objective for heads that predict a class and a mask per query."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.losses.distributed import mean_over_processes
from everyframe.losses.mask_set import MaskSetLoss, count_masks
from everyframe.models.segmenter import Prediction
from everyframe.training.objective import Term


@dataclass(frozen=True)
class MaskOptions:
    """What a set of queries costs; the defaults are Mask2Former's and ViT-Adapter's.

    Attributes:
        classification: weight of the cross entropy of the queries' classes.
        mask: weight of the binary cross entropy of the masks (1 in VSPW 2023's table of weights).
        dice: weight of the Dice loss of the masks.
        cost_class: weight of the class in the matching of queries and classes.
        cost_mask: weight of the masks' cross entropy in the matching.
        cost_dice: weight of the masks' Dice loss in the matching.
        no_object: weight of the queries without an object in the cross entropy of classes.
        class_weights: factor per class in that cross entropy.
        points: at which masks are compared.
        oversample: candidates for the uncertain ones among these points, as a multiple of them.
        importance: share of the points that are uncertain ones.
        respect_ignore: ignored pixels count for nothing. Off, as published: they are outside of every mask.
    """

    classification: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    cost_class: float = 2.0
    cost_mask: float = 5.0
    cost_dice: float = 5.0
    no_object: float = 0.1
    class_weights: list[float] | None = None
    points: int = 12_544
    oversample: float = 3.0
    importance: float = 0.75
    respect_ignore: bool = True

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("classification", "mask", "dice")}
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

    def terms(self) -> dict[str, tuple[float, Term]]:
        """Return the terms for an `Objective`: "class", "mask" and "mask_dice"."""
        shared = SetLossOnce(
            MaskSetLoss(
                self.cost_class, self.cost_mask, self.cost_dice, self.no_object, self.class_weights, self.points,
                self.oversample, self.importance, self.respect_ignore,
            )
        )  # fmt: skip
        return {
            "class": (self.classification, partial(shared, "class")),
            "mask": (self.mask, partial(shared, "mask")),
            "mask_dice": (self.dice, partial(shared, "dice")),
        }


@dataclass
class SetLossOnce:
    """The set loss, computed once per batch for the terms that are its parts."""

    loss: MaskSetLoss
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
        """Return all parts for the query frames of all clips."""
        outputs = {name: value.flatten(0, 1) for name, value in prediction.outputs.items()}
        labels = clip.query_labels.flatten(0, 1)
        queries = outputs["class_logits"].shape[2]
        masks = torch.tensor(float(count_masks(labels, queries)), device=labels.device)
        return self.loss(**outputs, labels=labels, num_masks=mean_over_processes(masks))
