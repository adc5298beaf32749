"""Weights against class imbalance, worked out from how often the classes occur in the labels.

Every formula takes a `ClassCounts` and returns one weight per class. A class without a pixel gets 1; it never occurs in
a loss. Cross entropies divide by the summed weights, so a common factor changes nothing there; in a set loss it stands
beside the weight of "no object", so all formulas but the median-frequency one, whose middle is 1 by itself, are scaled
to a mean of 1 over the classes that occur.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyframe.errors import InputError

Formula = Literal["inverse-sqrt", "median-frequency", "effective-number", "inverse-log"]


class ClassCounts(NamedTuple):
    """How often each of K classes occurs in a set of label maps.

    Attributes:
        pixels: int64 [K], pixels of the class.
        maps: int64 [K], label maps that hold it.
        labelled: int64 [K], labelled pixels, of any class, of the label maps that hold it.
    """

    pixels: NDArray[np.int64]
    maps: NDArray[np.int64]
    labelled: NDArray[np.int64]

    @classmethod
    def of(cls, pixels: NDArray[np.integer[Any]]) -> ClassCounts:
        """Sum up the pixels of each class in each of N label maps, integers [N, K]."""
        held = pixels > 0
        return cls(
            pixels.sum(0, dtype=np.int64),
            held.sum(0, dtype=np.int64),
            (held * pixels.sum(1, dtype=np.int64, keepdims=True)).sum(0, dtype=np.int64),
        )


def inverse_sqrt(counts: ClassCounts) -> NDArray[np.float64]:
    """Weigh by 1 / sqrt(p), p the class's share of the labelled pixels; mean 1."""
    return _of_present(counts, lambda c: 1 / np.sqrt(c.pixels / c.pixels.sum()))


def median_frequency(counts: ClassCounts, low: float = 0.5, high: float = 5.0) -> NDArray[np.float64]:
    """Weigh by median(f) / f, cut to `low`..`high`.

    f is the class's share of the labelled pixels of the label maps that hold it (Eigen and Fergus, ICCV 2015).
    """
    held = counts.pixels > 0
    weights = np.ones(len(held))
    frequency = counts.pixels[held] / counts.labelled[held]
    if held.any():
        weights[held] = np.clip(np.median(frequency) / frequency, low, high)
    return weights


def effective_number(counts: ClassCounts, beta: float = 0.999) -> NDArray[np.float64]:
    """Weigh by (1 - beta) / (1 - beta^n), n the number of label maps that hold the class; mean 1.

    Cui et al., "Class-Balanced Loss Based on Effective Number of Samples" (CVPR 2019), eq. 2. Label maps are the
    samples: with pixels beta^n would be 0 for every class.
    """
    return _of_present(counts, lambda c: (1 - beta) / (1 - np.power(beta, c.maps, dtype=np.float64)))


def inverse_log(counts: ClassCounts, offset: float = 1.02) -> NDArray[np.float64]:
    """Weigh by 1 / ln(offset + p), p the class's share of the labelled pixels (Paszke et al., ENet, 2016); mean 1."""
    return _of_present(counts, lambda c: 1 / np.log(offset + c.pixels / c.pixels.sum()))


FORMULAS: dict[str, Callable[[ClassCounts], NDArray[np.float64]]] = {
    "inverse-sqrt": inverse_sqrt,
    "median-frequency": median_frequency,
    "effective-number": effective_number,
    "inverse-log": inverse_log,
}


def class_weights(formula: str, counts: ClassCounts) -> list[float]:
    """Return the weight of each class.

    Args:
        formula: a name of `FORMULAS`.
        counts: of the labels that training sees.

    Raises:
        InputError: no such formula.
    """
    if formula not in FORMULAS:
        raise InputError(f"class_weights: expected {', '.join(FORMULAS)}, or one number per class, came {formula!r}")
    return [float(weight) for weight in FORMULAS[formula](counts)]


def _of_present(counts: ClassCounts, formula: Callable[[ClassCounts], NDArray[np.float64]]) -> NDArray[np.float64]:
    """Apply a formula to the classes that occur, and scale to a mean of 1 over them."""
    held = counts.pixels > 0
    weights = np.ones(len(held))
    if held.any():
        found = formula(ClassCounts(counts.pixels[held], counts.maps[held], counts.labelled[held]))
        weights[held] = found / found.mean()
    return weights
