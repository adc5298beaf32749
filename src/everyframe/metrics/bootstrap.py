"""Confidence intervals by the bootstrap over videos: how much would the score move with other videos of the same kind?

Frames of one video are alike, so videos are drawn, not frames (Efron and Tibshirani, An Introduction to the Bootstrap,
1993, percentile interval). All our scores are functions of sums over videos, which makes a resample one row of a matrix
product instead of a second evaluation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyframe.metrics.functional import ClassCounts, Floats


def draws(videos: int, resamples: int, seed: int = 0) -> NDArray[np.int64]:
    """How often each video occurs in each resample, drawn with replacement: int64 [resamples, videos]."""
    picks = np.random.default_rng(seed).integers(0, videos, (resamples, videos))
    rows = np.arange(resamples)[:, None] * videos
    return np.bincount((picks + rows).ravel(), minlength=resamples * videos).reshape(resamples, videos)


def bootstrap_interval(
    per_video: ArrayLike,
    statistic: Callable[[Floats], Floats],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of a statistic of sums over videos.

    Args:
        per_video: [V, ...], what each video adds to the sums.
        statistic: sums [R, ...] of R resamples -> values [R]; `class_sums` and `ratio_of_sums` make common ones.
        resamples: R.
        confidence: share of the resampled values inside the interval.
        seed: of the draws; the same seed draws the same videos for every statistic.

    Returns:
        (low, high); NaN with fewer than 2 videos, or where the statistic is defined in no resample.

    Example:
        >>> bootstrap_interval([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], ratio_of_sums)
        (0.5, 0.5)
    """
    sums = np.asarray(per_video, np.float64)
    if len(sums) < 2:
        return float("nan"), float("nan")
    resampled = draws(len(sums), resamples, seed).astype(np.float64) @ sums.reshape(len(sums), -1)
    values = statistic(resampled.reshape(resamples, *sums.shape[1:]))
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def class_sums(score: Callable[[ClassCounts], Floats]) -> Callable[[Floats], Floats]:
    """Statistic of per-video `ClassCounts` stacked as [V, 3, K]: `class_sums(mean_iou)`."""

    def statistic(sums: Floats) -> Floats:
        counts = sums.astype(np.int64)
        return score(ClassCounts(counts[:, 0], counts[:, 1], counts[:, 2]))

    return statistic


def ratio_of_sums(sums: Floats) -> Floats:
    """Statistic of per-video pairs (numerator, denominator), [V, 2]; a mean over videos has pairs (value, 1)."""
    top, bottom = sums[:, 0], sums[:, 1]
    return np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0)


def mean_pairs(values: ArrayLike) -> Floats:
    """Per-video values [V] as pairs (value, 1) for `ratio_of_sums`; NaN (not defined for that video) as (0, 0)."""
    array = np.asarray(values, np.float64)
    return np.stack([np.nan_to_num(array), ~np.isnan(array)], -1).astype(np.float64)
