"""Against class imbalance: how often each clip shall come, worked out from which classes its label maps hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everyframe.data.label_counts import LabelCounts
from everyframe.errors import InputError


@dataclass(frozen=True)
class Balance:
    """Which rule, if any, lets clips of rare classes come more often.

    Attributes:
        repeat_threshold: see `repeat_factors`; 0: off.
        rare_class_temperature: see `rare_class_factors`; 0: off.
    """

    repeat_threshold: float = 0.0
    rare_class_temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.repeat_threshold and self.rare_class_temperature:
            raise InputError("data: expected repeat_threshold or rare_class_temperature, came both; leave one at 0")

    def __bool__(self) -> bool:
        return bool(self.repeat_threshold or self.rare_class_temperature)

    def factors(self, clips: Sequence[tuple[int, tuple[int, ...]]], counts: LabelCounts) -> NDArray[np.float64]:
        """Return how often each clip comes per pass on the average; the arguments are those of `clip_pixels`."""
        pixels = clip_pixels(clips, counts)
        if self.repeat_threshold:
            return repeat_factors(pixels, self.repeat_threshold)
        return rare_class_factors(pixels, self.rare_class_temperature)


def clip_pixels(clips: Sequence[tuple[int, tuple[int, ...]]], counts: LabelCounts) -> NDArray[np.int64]:
    """Sum up the class pixels of the label maps that a clip's query is drawn from.

    Args:
        clips: (position of the video, candidate query frames), as `clip_queries` lists them.
        counts: of all labelled frames of the same videos.

    Returns:
        int64 [C, K].
    """
    row_of = {place: row for row, place in enumerate(counts.places)}
    pixels = np.zeros((len(clips), counts.pixels.shape[1]), np.int64)
    for clip, (video, candidates) in enumerate(clips):
        pixels[clip] = counts.pixels[[row_of[video, index] for index in candidates]].sum(0)
    return pixels


def repeat_factors(pixels: NDArray[np.int64], threshold: float) -> NDArray[np.float64]:
    """Return max over the classes c of a clip of max(1, sqrt(t / f_c)); f_c is the share of clips that hold class c.

    Repeat factor sampling of Gupta et al., "LVIS" (CVPR 2019), section 4.2, with clips for images.

    Args:
        pixels: [C, K], see `clip_pixels`.
        threshold: t; classes in fewer than this share of the clips come more often.

    Returns:
        float64 [C], 1 or more.

    Raises:
        InputError: the threshold is no share.
    """
    if not 0 < threshold <= 1:
        raise InputError(f"repeat_threshold: expected a share of the clips in (0, 1], or 0 for off, came {threshold:g}")
    held = pixels > 0
    share = held.mean(0)
    factor = np.maximum(1.0, np.sqrt(threshold / np.where(share > 0, share, 1.0)))
    factors: NDArray[np.float64] = np.where(held, factor, 1.0).max(1)
    return factors


def rare_class_factors(pixels: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
    """Return how often clips come per pass when a class is drawn first, a rare one more often, then a clip with it.

    Rare class sampling of Hoyer et al., "DAFormer" (CVPR 2022), eq. 11: P(c) is the softmax of (1 - f_c) / T over the
    classes that occur, f_c the share of pixels of class c. A clip's factor is C times the probability that it is drawn.

    Args:
        pixels: [C, K], see `clip_pixels`.
        temperature: T, 0.01 there; the higher, the more even are the classes.

    Returns:
        float64 [C], with mean 1. A clip without any class never comes.

    Raises:
        InputError: the temperature is not above 0, or no clip holds a class.
    """
    if temperature <= 0:
        raise InputError(f"rare_class_temperature: expected more than 0, or 0 for off, came {temperature:g}")
    held = pixels > 0
    occurs = held.any(0)
    if not occurs.any():
        raise InputError("rare_class_temperature: expected labels with at least one class, came none; check the masks")
    frequency = pixels.sum(0)[occurs] / pixels.sum()
    logits = (1 - frequency) / temperature
    probability = np.exp(logits - logits.max())
    probability /= probability.sum()
    factors: NDArray[np.float64] = len(pixels) * (held[:, occurs] / held[:, occurs].sum(0)) @ probability
    return factors
