"""Averages over views of one frame (flips, scales, windows), such that the averages are logits again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

ScoreNorm = Literal["softmax", "none", "l1"]
"""What is averaged: "softmax" probabilities; "none" the scores as they come; "l1" scores divided by their sum over
the classes (for heads whose scores are sums of mask probabilities, which a softmax would flatten). Such sums are never
negative; scores with a negative one among them are logits, those of an average of views say, and go through a softmax.

After "softmax" and "l1" the mean is a probability, and its logarithm is handed on: the softmax of that is the mean
again, so averages of averages are averages, and downstream every predictor speaks logits."""

SCORE_NORMS = get_args(ScoreNorm)


def mean_logits(members: Iterable[Tensor], norm: ScoreNorm, size: tuple[int, int] | None = None) -> Tensor:
    """Return the mean of logits [B, K, h, w] as logits; a single member is returned untouched.

    Args:
        members: logits whose resolutions may differ.
        norm: what is averaged.
        size: resolution at which it is averaged; None: the finest member's.
    """
    members = list(members)
    if len(members) == 1:
        return members[0]
    if size is None:
        size = max(((m.shape[-2], m.shape[-1]) for m in members), key=lambda hw: hw[0] * hw[1])
    total = normalized(resized(members[0], size), norm)
    for member in members[1:]:
        total += normalized(resized(member, size), norm)
    return as_logits(total / len(members), norm)


def resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Return scores at another resolution, bilinear; untouched where the size is right already."""
    if tuple(scores.shape[-2:]) == tuple(size):
        return scores
    return F.interpolate(scores.float(), size, mode="bilinear", align_corners=False)


def normalized(scores: Tensor, norm: ScoreNorm) -> Tensor:
    """Return a new float32 tensor that may be averaged."""
    if norm == "softmax" or (norm == "l1" and bool((scores < 0).any())):
        return scores.float().softmax(1)
    if norm == "l1":
        positive = scores.float()
        return positive / positive.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return scores.float().clone()


def as_logits(mean: Tensor, norm: ScoreNorm) -> Tensor:
    """Return the logits whose softmax is `mean`; scores of norm "none" are logits already."""
    return mean if norm == "none" else mean.clamp_min(torch.finfo(torch.float32).tiny).log()


def as_probable(scores: Tensor, norm: ScoreNorm) -> Tensor:
    """Return scores whose softmax is the probability of a class: sums of masks are shares of their sum then.

    Args:
        scores: [B, K, h, w].
        norm: what `own_norm` says of the model that they come from.
    """
    return as_logits(normalized(scores, norm), norm) if norm == "l1" else scores


def own_norm(predictor: object) -> ScoreNorm:
    """Return how a model's scores become probabilities: "l1" for heads that predict masks, "softmax" for logits.

    Models say so by `predicts`, their own or their head's; wrappers hand on logits.
    """
    return "l1" if getattr(getattr(predictor, "head", predictor), "predicts", "logits") == "masks" else "softmax"


def check_norm(norm: str) -> None:
    """Refuse an unknown score norm."""
    if norm not in SCORE_NORMS:
        raise ValueError(f"score_norm: expected one of {', '.join(SCORE_NORMS)}, came {norm!r}")
