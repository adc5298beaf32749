"""Following flow from frame to frame, for the metrics. The estimators stand in `everyframe.flow`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyframe.flow import DISFlow, Flow, FlowField, FlowPair, GivenFlow, RAFTFlow, checked_flow, checked_pair

__all__ = [
    "DISFlow", "Flow", "FlowField", "FlowPair", "GivenFlow", "RAFTFlow", "checked_flow", "checked_pair", "follow",
    "visible",
]  # fmt: skip


def follow(values: NDArray[Any], flow: FlowField) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read a map of the second frame at the points where the pixels of the first one lie.

    Args:
        values: [H, W] of the second frame, such as labels; read at the nearest pixel.
        flow: from the first frame to the second.

    Returns:
        [H, W] on the pixels of the first frame, and bool [H, W]: False where the point lies outside the picture (the
        value there is that of some pixel at the border and must not be used).
    """
    height, width = values.shape
    x = np.rint(flow[0] + np.arange(width, dtype=np.float32)).astype(np.int64)
    y = np.rint(flow[1] + np.arange(height, dtype=np.float32)[:, None]).astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return values[y.clip(0, height - 1), x.clip(0, width - 1)], inside


def visible(pair: FlowPair) -> NDArray[np.bool_]:
    """Pixels of the first frame that are seen in the second, bool [H, W].

    A pixel is seen when it stays in the picture and, if the flow back is known, when going forward and back returns
    near to it: |f + b|^2 <= 0.01 (|f|^2 + |b|^2) + 0.5 (Sundaram, Brox and Keutzer, ECCV 2010).
    """
    forward, backward = pair
    back_x, inside = follow(forward[0] if backward is None else backward[0], forward)
    if backward is None:
        return inside
    back_y, _ = follow(backward[1], forward)
    gap = (forward[0] + back_x) ** 2 + (forward[1] + back_y) ** 2
    length = forward[0] ** 2 + forward[1] ** 2 + back_x**2 + back_y**2
    return inside & (gap <= 0.01 * length + 0.5)
