"""Class weights: each formula on three label maps counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everyframe.errors import InputError
from everyframe.losses.class_weights import (
    FORMULAS,
    ClassCounts,
    class_weights,
    effective_number,
    inverse_log,
    inverse_sqrt,
    median_frequency,
)

# road is everywhere, car in two label maps, person in one, sky in none
COUNTS = ClassCounts.of(np.array([[60, 30, 10, 0], [90, 10, 0, 0], [50, 0, 0, 0]]))


def test_counts() -> None:
    assert COUNTS.pixels.tolist() == [200, 40, 10, 0]
    assert COUNTS.maps.tolist() == [3, 2, 1, 0]
    assert COUNTS.labelled.tolist() == [250, 200, 100, 0]


def test_inverse_sqrt() -> None:
    raw = [1 / math.sqrt(p) for p in (0.8, 0.16, 0.04)]
    mean = sum(raw) / 3
    assert inverse_sqrt(COUNTS) == pytest.approx([*(w / mean for w in raw), 1.0])


def test_median_frequency() -> None:
    """Frequencies 200/250, 40/200 and 10/100: the median is 0.2."""
    assert median_frequency(COUNTS, low=0.1) == pytest.approx([0.25, 1.0, 2.0, 1.0])
    assert median_frequency(COUNTS) == pytest.approx([0.5, 1.0, 2.0, 1.0])
    assert median_frequency(COUNTS, high=1.5) == pytest.approx([0.5, 1.0, 1.5, 1.0])


def test_effective_number() -> None:
    """At beta 0.5 one sample counts 1, two 1.5, three 1.75."""
    raw = [1 / 1.75, 1 / 1.5, 1 / 1.0]
    mean = sum(raw) / 3
    assert effective_number(COUNTS, 0.5) == pytest.approx([*(w / mean for w in raw), 1.0])


def test_inverse_log() -> None:
    raw = [1 / math.log(1.02 + p) for p in (0.8, 0.16, 0.04)]
    mean = sum(raw) / 3
    assert inverse_log(COUNTS) == pytest.approx([*(w / mean for w in raw), 1.0])


@pytest.mark.parametrize("formula", FORMULAS)
def test_every_formula(formula: str) -> None:
    weights = class_weights(formula, COUNTS)
    assert weights[0] < weights[1] < weights[2]
    assert weights[3] == 1.0
    assert all(isinstance(weight, float) and math.isfinite(weight) for weight in weights)
    assert class_weights(formula, ClassCounts.of(np.zeros((0, 2), np.int32))) == [1.0, 1.0]


def test_unknown_formula() -> None:
    with pytest.raises(InputError, match=r"median-frequency, .* came 'median'"):
        class_weights("median", COUNTS)
