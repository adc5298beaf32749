"""Frames that carry their own number as a bar code that survives lossy coding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

HEIGHT, WIDTH, BITS = 48, 64, 8


def numbered(index: int) -> NDArray[np.uint8]:
    """RGB [48, 64, 3]: eight vertical bars, bright where the bit of `index` is set, over a moving texture."""
    rng = np.random.default_rng(index)
    picture = rng.integers(0, 30, (HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        if index >> bit & 1:
            picture[:, bit * 8 : bit * 8 + 8] += 210
    return picture


def number_of(image: Tensor) -> int:
    bars = image.numpy().mean((0, 1)).reshape(BITS, 8).mean(1)  # numpy: works in forked processes too
    return sum(1 << bit for bit in range(BITS) if bars[bit] > 127)
