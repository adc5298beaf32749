"""Intervals over videos: hand cases, an explicit resampling loop, and the seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everyframe.metrics.bootstrap import bootstrap_interval, class_sums, draws, mean_pairs, ratio_of_sums
from everyframe.metrics.functional import ClassCounts, mean_iou, pixel_accuracy


def test_draws_are_with_replacement_and_seeded() -> None:
    counts = draws(5, 400, seed=3)
    assert counts.shape == (400, 5)
    assert (counts.sum(1) == 5).all()
    assert counts.max() > 1
    assert (draws(5, 400, seed=3) == counts).all()
    assert (draws(5, 400, seed=4) != counts).any()


def test_two_videos_by_hand() -> None:
    # Videos score 0 and 1: a resample is 0, 0.5 or 1 with chances 1/4, 1/2, 1/4, so 95 % reaches from end to end.
    assert bootstrap_interval([[0.0, 1.0], [1.0, 1.0]], ratio_of_sums) == (0.0, 1.0)
    # Half of the resamples are 0.5, a quarter each below and above.
    assert bootstrap_interval([[0.0, 1.0], [1.0, 1.0]], ratio_of_sums, confidence=0.4) == (0.5, 0.5)


def test_equal_videos_have_no_spread() -> None:
    assert bootstrap_interval([[3.0, 4.0]] * 6, ratio_of_sums) == (0.75, 0.75)


def test_equals_an_explicit_loop_over_resamples() -> None:
    rng = np.random.default_rng(0)
    correct = rng.integers(0, 50, (7, 3))
    per_video = np.stack([correct, correct + rng.integers(0, 30, (7, 3)), correct + rng.integers(0, 30, (7, 3))], 1)
    values = []
    for row in draws(7, 200, seed=5):
        picked = [video for video, times in enumerate(row) for _ in range(times)]
        total = per_video[picked].sum(0)
        values.append(float(mean_iou(ClassCounts(*total))))
    want = np.quantile(values, [0.05, 0.95])
    got = bootstrap_interval(per_video, class_sums(mean_iou), resamples=200, confidence=0.9, seed=5)
    assert got == pytest.approx(tuple(want), abs=1e-15)


def test_one_video_has_no_interval() -> None:
    assert all(math.isnan(end) for end in bootstrap_interval([[1.0, 2.0]], ratio_of_sums))


def test_undefined_videos_drop_out() -> None:
    pairs = mean_pairs([0.5, math.nan, 0.5])
    assert pairs.tolist() == [[0.5, 1], [0, 0], [0.5, 1]]
    assert bootstrap_interval(pairs, ratio_of_sums) == (0.5, 0.5)
    assert all(math.isnan(end) for end in bootstrap_interval(np.zeros((3, 3, 2)), class_sums(pixel_accuracy)))
