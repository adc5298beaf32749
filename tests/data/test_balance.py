"""Factors of clips, on four clips worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everyframe.data.balance import Balance, clip_pixels, rare_class_factors, repeat_factors
from everyframe.data.label_counts import LabelCounts
from everyframe.errors import InputError

# road in all four clips, car in two, person in one
PIXELS = np.array([[80, 0, 0], [70, 10, 0], [60, 10, 10], [40, 0, 0]])


def test_repeat_factors() -> None:
    """At t = 0.64: road 1, car sqrt(0.64 / 0.5), person sqrt(0.64 / 0.25) = 1.6."""
    assert repeat_factors(PIXELS, 0.64) == pytest.approx([1.0, math.sqrt(1.28), 1.6, 1.0])
    assert repeat_factors(PIXELS, 0.2) == pytest.approx([1.0] * 4)
    assert repeat_factors(np.zeros((2, 3), np.int64), 0.5) == pytest.approx([1.0, 1.0])


def test_rare_class_factors() -> None:
    """Shares of pixels 250, 20 and 10 of 280; a class is drawn by the softmax, then one of its 4, 2 or 1 clips."""
    p = np.exp([(1 - n / 280) / 0.5 for n in (250, 20, 10)])
    road, car, person = p / p.sum()
    wanted = [road / 4, road / 4 + car / 2, road / 4 + car / 2 + person, road / 4]
    factors = rare_class_factors(PIXELS, 0.5)
    assert factors == pytest.approx([4 * w for w in wanted])
    assert factors.mean() == pytest.approx(1.0)
    assert rare_class_factors(PIXELS, 0.01)[2] > 2.9  # DAFormer's temperature
    assert rare_class_factors(np.array([[5, 0], [0, 0]]), 0.1) == pytest.approx([2.0, 0.0])


def test_pixels_of_clips_are_summed_over_what_a_query_is_drawn_from() -> None:
    counts = LabelCounts(((0, 1), (0, 4), (2, 0)), np.array([[1, 0], [2, 3], [0, 4]], np.int32), np.array([9, 9, 9]))
    assert clip_pixels([(0, (1, 4)), (2, (0,))], counts).tolist() == [[3, 3], [0, 4]]
    assert clip_pixels([(0, (1,)), (0, (4,)), (2, (0,))], counts).tolist() == [[1, 0], [2, 3], [0, 4]]
    assert Balance(repeat_threshold=1.0).factors([(0, (1,)), (2, (0,))], counts) == pytest.approx([2**0.5] * 2)
    rare = Balance(rare_class_temperature=0.1).factors([(0, (1,)), (2, (0,))], counts)
    assert rare[0] > rare[1]
    assert not Balance()


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_refused(threshold: float) -> None:
    with pytest.raises(InputError, match="repeat_threshold"):
        repeat_factors(PIXELS, threshold)
    with pytest.raises(InputError, match="rare_class_temperature"):
        rare_class_factors(PIXELS, -threshold if threshold > 0 else threshold)
    with pytest.raises(InputError, match="at least one class"):
        rare_class_factors(np.zeros((2, 2), np.int64), 0.1)
    with pytest.raises(InputError, match="came both"):
        Balance(0.1, 0.1)
