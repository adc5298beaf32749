"""Label maps over pictures: blended class colours, boundary lines, pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace
from everyframe.report.legend import BACKGROUND, TEXT, Legend, Place, label_font, shortened
from everyframe.report.planes import Picture, as_bytes, like, planes_of


def overlay(
    image: Picture, labels: NDArray[np.uint8], space: LabelSpace, alpha: float = 0.5, *, boundaries: bool = False
) -> Picture:
    """Blend the class colours of a label map over its picture.

    Args:
        image: uint8 [3, H, W] tensor or [H, W, 3] array, RGB.
        labels: uint8 [H, W], train ids; the picture shows through unchanged where they are 255.
        space: gives the colours.
        alpha: share of the class colour, 0..1.
        boundaries: draw a white line where two classes meet.

    Returns:
        A new picture of the kind and size of `image`.

    Raises:
        ValueError: the sizes differ.
    """
    planes = planes_of(image)
    if labels.shape != planes[0].shape:
        raise ValueError(f"overlay: expected labels of {planes[0].shape} pixels like the image, came {labels.shape}")
    labels = np.ascontiguousarray(labels, np.uint8)
    table = np.zeros((256, 3), np.uint8)
    table[: len(space)] = space.palette
    unlabelled = (labels == IGNORE).view(np.uint8)
    lines = _boundaries(labels) if boundaries else None
    blended = []
    for channel, plane in enumerate(planes):
        mixed = as_bytes(cv2.addWeighted(plane, 1 - alpha, cv2.LUT(labels, table[:, channel]), alpha, 0))
        cv2.copyTo(plane, unlabelled, mixed)
        blended.append(mixed if lines is None else as_bytes(cv2.max(mixed, lines)))
    return like(image, blended)


def overlay_with_legend(
    image: Picture,
    labels: NDArray[np.uint8],
    space: LabelSpace,
    alpha: float = 0.5,
    *,
    boundaries: bool = False,
    place: Place = "auto",
    slots: list[int] | None = None,
) -> Picture:
    """Blend the class colours and add a legend, see `overlay`, `Legend` and, for `slots` of a video, `Legend.draw`."""
    painted = overlay(image, labels, space, alpha, boundaries=boundaries)
    return _legend(space.names, space.palette, labels.shape, place).draw(painted, labels, slots)


def side_by_side(images: Sequence[Tensor | NDArray[np.uint8]], captions: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Join pictures from left to right, each under its caption.

    Args:
        images: uint8 [3, H, W] tensors or [H, W, 3] arrays, RGB; scaled to the height of the tallest.
        captions: one for each picture, or none at all.

    Returns:
        uint8 [H', W', 3].

    Raises:
        ValueError: no picture, or another number of captions.
    """
    if not images or (captions and len(captions) != len(images)):
        raise ValueError(f"side_by_side: expected pictures and as many captions, came {len(images)}, {len(captions)}")
    panels = [np.ascontiguousarray(np.dstack(planes_of(image))) for image in images]
    height = max(panel.shape[0] for panel in panels)
    panels = [
        panel
        if panel.shape[0] == height
        else as_bytes(cv2.resize(panel, (max(1, round(panel.shape[1] * height / panel.shape[0])), height)))
        for panel in panels
    ]
    gap = max(2, height // 120)
    font_size = int(np.clip(height / 24, 11, 26))
    head = round(1.6 * font_size) if captions else 0
    canvas = Image.new("RGB", (sum(p.shape[1] for p in panels) + gap * (len(panels) - 1), height + head), BACKGROUND)
    pen, font, left = ImageDraw.Draw(canvas), label_font(font_size), 0
    for number, panel in enumerate(panels):
        canvas.paste(Image.fromarray(panel), (left, head))
        if captions:
            text = shortened(captions[number], font, panel.shape[1] - gap)
            pen.text((left + panel.shape[1] / 2, head / 2), text, TEXT, font, anchor="mm")
        left += panel.shape[1] + gap
    return np.array(canvas)


def _boundaries(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 255 where a pixel's right or lower neighbours differ from it; wider in large pictures."""
    side = 2 + min(labels.shape) // 1000
    differ = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((side, side), np.uint8))
    return as_bytes(cv2.threshold(differ, 0, 255, cv2.THRESH_BINARY)[1])


@lru_cache(maxsize=16)
def _legend(
    names: tuple[str, ...], palette: tuple[tuple[int, int, int], ...], size: tuple[int, int], place: Place
) -> Legend:
    return Legend(names, palette, size, place)
