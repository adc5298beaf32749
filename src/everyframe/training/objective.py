"""What a batch costs: named, weighted terms, each a function `Outcome` -> scalar."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.losses import pixel
from everyframe.losses.distributed import mean_over_processes
from everyframe.losses.region import labelled_pictures, region_loss
from everyframe.models.segmenter import Prediction
from everyframe.training.outcome import Outcome, Term
from everyframe.training.pixel_loss import Form, PixelLoss

TERMS: dict[str, Term | type[nn.Module]] = {}
"""Terms of one's own: `TERMS["tversky"] = term`, and training takes `--objective.terms '{tversky: 0.5}'`. A class of
modules is built without arguments for each run."""


HardPixels = Callable[[Tensor, Tensor], Tensor]
"""(logits [N, K, h, w], labels uint8 [N, H, W]) -> float32 [N, H, W], 1 for pixels that count: `pixel.ohem_weights`."""


def own_terms(weights: Mapping[str, float], taken: Container[str] = ()) -> dict[str, tuple[float, Term]]:
    """Return terms of `TERMS` with their weights.

    Args:
        weights: name -> weight.
        taken: names that are other terms'.

    Raises:
        InputError: no such term, or a name that is taken.
    """
    for name in weights:
        if name not in TERMS or name in taken:
            came = f"{name!r}, a name that is taken" if name in taken else repr(name)
            there = ", ".join(TERMS) or "none"
            raise InputError(
                f"objective.terms: expected names of everyframe.training.objective.TERMS ({there}), came {came}; "
                f"register it in a file for `everyframe --import FILE.py`"
            )
    chosen = {name: TERMS[name] for name in weights}
    return {name: (weights[name], term() if isinstance(term, type) else term) for name, term in chosen.items()}


class Objective(nn.Module):
    """A weighted sum of named terms.

    A new loss is one more entry: a function, or an `nn.Module` where it owns parameters (they are then trained,
    moved and saved with the rest). What several terms need they ask of the `Outcome`, which computes it once.

    Args:
        terms: name -> (weight, term). Terms of weight 0 are left out, but for those that learn from what they see
            beside their gradient: they have an attribute `observes` that is true.

    Raises:
        InputError: a name that a module cannot have; in a step, a term that is no scalar.
    """

    def __init__(self, terms: Mapping[str, tuple[float, Term]]) -> None:
        super().__init__()
        for name in terms:
            if name in ("loss", "terms") or "." in name or hasattr(self, name):
                raise InputError(
                    f"objective: expected another name of a term, came {name!r}, which is in use; rename it"
                )
        self.terms = {name: (weight, term) for name, (weight, term) in terms.items() if weight or _observes(term)}
        for name, (_, term) in self.terms.items():
            if isinstance(term, nn.Module):
                self.add_module(name, term)

    def forward(self, prediction: Prediction, clip: Clip, step: int | None = None) -> dict[str, Tensor]:
        """Return every term by name, unweighted, and their weighted sum as "loss".

        Args:
            prediction: of the model.
            clip: the batch.
            step: optimiser steps done before this one, see `Outcome`.
        """
        outcome = Outcome(prediction, clip, step)
        values = {name: _scalar(name, term(outcome)) for name, (_, term) in self.terms.items()}
        total = torch.stack([weight * values[name] for name, (weight, _) in self.terms.items()]).sum()
        return {**values, "loss": total}


def _scalar(name: str, value: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim:
        came = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"objective: expected a tensor without dimensions from the term {name!r}, came {came}")
    return value


def _observes(term: Term) -> bool:
    return bool(getattr(term, "observes", False))


def pixel_objective(
    cross_entropy: float = 1.0,
    auxiliary: float = 0.4,
    dice: float = 0.0,
    lovasz: float = 0.0,
    region: float = 0.0,
    scales: float = 0.0,
    cross_entropy_form: Form = "softmax",
    relaxed_border: int = 1,
    strict_classes: list[int] | None = None,
    ohem: bool = False,
    ohem_threshold: float = 0.7,
    ohem_min_kept: int = 100_000,
    top_k: float = 1.0,
    class_weights: list[float] | None = None,
    rare_classes: float = 0.0,
    average: pixel.Average = "labelled",
) -> Objective:
    """Build the objective of per-pixel heads.

    Args:
        cross_entropy: weight of the cross entropy of the query frames.
        auxiliary: weight of the cross entropy of the auxiliary head on all labelled frames of the clip.
        dice: weight of the Dice loss of the query frames; in distributed training of those of each process by itself,
            as Dice and Lovász losses are no sums over pixels.
        lovasz: weight of the Lovász-softmax loss of the query frames, likewise.
        region: weight of the region mutual information of the query frames; RMI is 0.5 of it and 0.5 of the cross
            entropy in the form "sigmoid".
        scales: weight of the cross entropy of each single scale of a head over several (0.05 in HMSA).
        cross_entropy_form: of query frames and scales (and, with "sigmoid", of the auxiliary head): "softmax";
            "sigmoid", each class against the rest; "relaxed", any class near a border (boundary label relaxation).
        relaxed_border: of "relaxed", pixels to each side of a pixel whose classes are right for it too.
        strict_classes: of "relaxed", train ids whose own pixels are not relaxed.
        ohem: only the hard pixels of the query frames count in the cross entropy.
        ohem_threshold: a pixel is hard below this probability of its true class.
        ohem_min_kept: pixels per frame that count at least.
        top_k: share of the labelled pixels of the query frames, those of the largest loss before class weights, that
            count in the cross entropy (0.2 in Panoptic-DeepLab); 1: all. Each process chooses among its own.
        class_weights: factor per class in both cross entropies.
        rare_classes: u, by which a class of share f of the batch weighs 1 + u (1 - f) in the cross entropies (1 in
            Zhu et al., HMSA and InverseForm); 0: all alike.
        average: "labelled": mean over labelled pixels; "pixels": divided by all pixels, as in mmsegmentation.
    """
    given = {"cross_entropy": cross_entropy, "auxiliary": auxiliary, "dice": dice, "lovasz": lovasz, "region": region}
    if min(*given.values(), scales, rare_classes) < 0 or cross_entropy + dice + lovasz + region <= 0:
        raise InputError(
            "objective: expected weights of 0 or more and at least one of cross_entropy, dice, lovasz and region above "
            f"0, came {', '.join(f'{name}={weight:g}' for name, weight in given.items())}"
        )
    if not 0 < top_k <= 1 or (ohem and top_k < 1):
        came = f"{top_k:g}{' with ohem' if ohem else ''}"
        raise InputError(f"objective.top_k: expected a share above 0 and up to 1, and 1 with ohem, came {came}")
    own = (class_weights is not None or rare_classes) and cross_entropy_form == "sigmoid"
    if own or (cross_entropy_form != "softmax" and (ohem or top_k < 1 or average != "labelled")):
        raise InputError(
            f"objective: expected cross_entropy_form softmax with ohem, top_k and average: pixels, and another one "
            f"than sigmoid with class_weights and rare_classes, came {cross_entropy_form}"
        )
    weights = None if class_weights is None else torch.tensor(class_weights)
    loss = PixelLoss(weights, average, cross_entropy_form, relaxed_border, tuple(strict_classes or ()), rare_classes)
    coarse = loss if cross_entropy_form == "sigmoid" else replace(loss, form="softmax")
    hard: HardPixels | None = None
    if ohem:
        hard = partial(pixel.ohem_weights, threshold=ohem_threshold, min_kept=ohem_min_kept)
    elif top_k < 1:
        hard = partial(pixel.top_k_weights, share=top_k)
    return Objective(
        {
            "cross_entropy": (cross_entropy, QueryCrossEntropy(loss, hard)),
            "auxiliary": (auxiliary, AuxiliaryCrossEntropy(coarse)),
            "dice": (dice, lambda outcome: pixel.dice_of(query_pixels(outcome))),
            "lovasz": (lovasz, lambda outcome: pixel.lovasz_of(query_pixels(outcome))),
            "region": (region, query_regions),
            "scales": (scales, ScaleCrossEntropy(loss)),
        }
    )


@dataclass(frozen=True)
class QueryCrossEntropy:
    """Cross entropy of the query frames' logits.

    Attributes:
        loss: in its form.
        hard: which pixels count, see `HardPixels`; None: all.
    """

    loss: PixelLoss = field(default_factory=PixelLoss)
    hard: HardPixels | None = None

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        logits, labels = outcome.logits, outcome.labels
        return self.loss(logits, labels, None if self.hard is None else self.hard(logits, labels))


@dataclass(frozen=True)
class AuxiliaryCrossEntropy:
    """Cross entropy of the auxiliary logits on all labelled frames of the clips, context frames too (TCB).

    0 for models without an auxiliary head.
    """

    loss: PixelLoss = field(default_factory=PixelLoss)

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        labels, auxiliary = outcome.clip.labels, outcome.prediction.auxiliary
        if auxiliary is None:
            return torch.zeros((), device=labels.device)
        return self.loss(auxiliary.flatten(0, 1), labels.flatten(0, 1))


@dataclass(frozen=True)
class ScaleCrossEntropy:
    """Summed cross entropies of the scales of a head over several, each by itself; 0 for other heads."""

    loss: PixelLoss = field(default_factory=PixelLoss)

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        own = [logits for name, logits in outcome.prediction.outputs.items() if name.startswith("logits@")]
        costs = [self.loss(logits.flatten(0, 1), outcome.labels) for logits in own]
        return torch.stack(costs).sum() if costs else torch.zeros((), device=outcome.labels.device)


def query_pixels(outcome: Outcome) -> pixel.LabelledPixels:
    """Return the labelled pixels of the query frames, which Dice and Lovász losses share."""
    return outcome.once(query_pixels, lambda: pixel.labelled_pixels(outcome.logits, outcome.labels))


def query_regions(outcome: Outcome) -> Tensor:
    """Region mutual information of the query frames, see `region_loss`; a `Term`."""
    pictures = mean_over_processes(labelled_pictures(outcome.labels).sum().float())
    return region_loss(outcome.logits, outcome.labels, divisor=pictures)
