"""Averages over views of one frame (flips, scales, windows), such that the averages are logits again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from everyframe.inference.predictor import Predictor, scores_of
from everyframe.models.ops.confidence import Confidence

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


def no_finer(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Return scores [B, K, h, w] at `size` where they are finer than that along both sides; else untouched."""
    finer = all(cells >= pixels for cells, pixels in zip(scores.shape[-2:], size, strict=True))
    return resized(scores, size) if finer else scores


def normalized(scores: Tensor, norm: ScoreNorm) -> Tensor:
    """Return a new float32 tensor that may be averaged."""
    if norm == "softmax" or (norm == "l1" and _are_logits(scores)):
        return scores.float().softmax(1)
    if norm == "l1":
        positive = scores.float()
        return positive / positive.sum(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return scores.float().clone()


def as_logits(mean: Tensor, norm: ScoreNorm) -> Tensor:
    """Return the logits whose softmax is `mean`; scores of norm "none" are logits already."""
    return mean if norm == "none" else mean.clamp_min(torch.finfo(torch.float32).tiny).log()


def view_norm(predictor: Predictor) -> ScoreNorm:
    """Return what averages of a predictor's views average: probabilities of logits, and sums of masks as they are.

    Sums stay sums then: windows, scales and flips of them nest in any order, two equal views change nothing, and a view
    in which no query sees anything has no say. Mask2Former's `test_time_augmentation.py` averages the same.
    """
    return "none" if scores_of(predictor) == "masks" else "softmax"


def own_norm(predictor: Predictor) -> ScoreNorm:
    """Return how a predictor's scores become probabilities: "l1" for sums of masks, "softmax" for logits."""
    return "l1" if scores_of(predictor) == "masks" else "softmax"


def own_confidence(predictor: Predictor, scores: Tensor) -> Confidence:
    """Return by which measure a predictor is sure of its scores [B, K, h, w], the one of Mean Teacher's threshold."""
    return "bounded" if scores_of(predictor) == "masks" and not _are_logits(scores) else "softmax"


def _are_logits(scores: Tensor) -> bool:
    """Whether scores of a predictor of masks are logits: those of an average of probabilities."""
    return bool((scores < 0).any())


def check_norm(norm: str) -> None:
    """Refuse an unknown score norm."""
    if norm not in SCORE_NORMS:
        raise ValueError(f"score_norm: expected one of {', '.join(SCORE_NORMS)}, came {norm!r}")
