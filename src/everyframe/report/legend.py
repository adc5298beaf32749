"""Legends: names and colours of the classes in a label map, added to pictures of one size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from everyframe.report.planes import Picture, like, planes_of

Place = Literal["auto", "bottom", "right", "inside"]

BACKGROUND = (24, 24, 24)
TEXT = (240, 240, 240)
LARGEST_SHARE = 0.25
"""A legend takes at most this share of the picture's area; a strip below small pictures may take two lines."""
EMPTY = -1000
"""A place of a legend where no class stands."""
LONGEST_NAME = 14
"""Longer class names are cut to about this many letters' width."""


class Legend:
    """Names and colours of the classes present in a label map, added to pictures of one size.

    The result has the same size for every label map, so that pictures of a video fit together. Where there is room for
    all classes, all are shown, whatever is present. Else the largest ones are, and the rest is counted ("+7 more").

    Args:
        names: class names by train id.
        palette: RGB colours by train id.
        size: (H, W) of the pictures.
        place: "bottom" or "right" add a strip beside the picture and hide nothing of it; "inside" covers its lower
            left corner, a quarter of it at most; "auto" takes "bottom", or "right" for pictures too narrow for text.
    """

    def __init__(
        self,
        names: Sequence[str],
        palette: Sequence[tuple[int, int, int]],
        size: tuple[int, int],
        place: Place = "auto",
    ) -> None:
        height, width = size
        self.names, self.palette, self.image_size = tuple(names), tuple(palette), (height, width)
        self._font_size = int(np.clip(round(min(size) / 28), 11, 26))
        self._font = label_font(self._font_size)
        self._line = round(1.45 * self._font_size)
        if place == "auto":
            place = "bottom" if width >= 16 * self._font_size else "right"
        self.place: Place = place
        longest = max(self._font.getlength(name) for name in self.names)
        text = min(longest, LONGEST_NAME * 0.6 * self._font_size)
        room = {"bottom": width, "right": text + 3 * self._font_size, "inside": width // 2}[place]
        self._column = max(1, min(round(text + 2.2 * self._font_size), int(room)))
        columns = max(1, int(room) // self._column)
        if place == "right" and len(self.names) * self._line > height:
            columns = 2
        self._columns = columns
        needed = -(-len(self.names) // columns)
        share = {"bottom": LARGEST_SHARE, "right": 1.0, "inside": 2 * LARGEST_SHARE}[place]  # half by half: a quarter
        least = 2 if place == "bottom" else 1  # a strip hides nothing, so that small pictures may get a larger one
        self._rows = min(needed, max(least, int(share * height) // self._line))
        self._drawn: dict[tuple[int, ...], NDArray[np.uint8]] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of pictures with their legend."""
        height, width = self.image_size
        strip_height, strip_width = self._strip_size(self._rows, self._columns)
        added = {"bottom": (strip_height, 0), "right": (0, strip_width), "inside": (0, 0)}[self.place]
        return height + added[0], width + added[1]

    def draw(self, image: Picture, labels: NDArray[np.uint8], slots: list[int] | None = None) -> Picture:
        """Return `image`, uint8 [3, H, W] tensor or [H, W, 3] array, with the legend of `labels`.

        Args:
            image: to draw on.
            labels: uint8 [H, W], train ids.
            slots: of a video, one list for all of its frames, empty at first: which class stands where, so that one
                that stays does not move when others come and go.
        """
        height, width = self.image_size
        planes = planes_of(image)
        if planes[0].shape != self.image_size or labels.shape != self.image_size:
            raise ValueError(f"Legend: expected {height}x{width}, came {planes[0].shape} and {labels.shape}")
        shown = self._shown(labels)
        strip = self._strip(shown if slots is None else self._settled(shown, slots))
        out = [np.empty(self.size, np.uint8) for _ in planes]
        for channel, plane in enumerate(planes):
            out[channel][:height, :width] = plane
            if self.place == "bottom":
                out[channel][height:] = strip[..., channel]
            elif self.place == "right":
                out[channel][:, width:] = strip[..., channel]
            elif strip.size:
                corner = out[channel][height - strip.shape[0] : height, : strip.shape[1]]
                corner[:] = cv2.addWeighted(corner, 0.15, np.ascontiguousarray(strip[..., channel]), 0.85, 0)
        return like(image, out)

    def _settled(self, shown: tuple[int, ...], slots: list[int]) -> tuple[int, ...]:
        """Put what is shown where it stood before, and what is new into free places; EMPTY between them."""
        classes, left_out = [i for i in shown if i >= 0], [i for i in shown if i < 0]
        places = self._rows * self._columns - len(left_out)
        slots[:] = [i if i in classes else EMPTY for i in slots[:places]]
        for train_id in (i for i in classes if i not in slots):
            if EMPTY in slots:
                slots[slots.index(EMPTY)] = train_id
            else:
                slots.append(train_id)
        return (*slots, *(EMPTY for _ in range(places - len(slots) if left_out else 0)), *left_out)

    def _shown(self, labels: NDArray[np.uint8]) -> tuple[int, ...]:
        """Train ids to show in rising order, and minus the number of those left out as a last item."""
        if len(self.names) <= self._rows * self._columns:
            return tuple(range(len(self.names)))
        areas = cv2.calcHist([np.ascontiguousarray(labels)], [0], None, [256], [0, 256]).ravel()[: len(self.names)]
        present = np.flatnonzero(areas)
        cells = self._rows * self._columns
        if len(present) <= cells:
            return tuple(present.tolist())
        kept = max(1, cells - 1)
        largest = present[np.argsort(-areas[present], kind="stable")[:kept]]
        left_out = (-(len(present) - kept),) if cells > 1 else ()
        return (*sorted(largest.tolist()), *left_out)

    def _strip_size(self, rows: int, columns: int) -> tuple[int, int]:
        margin = self._font_size // 2
        if self.place == "bottom":
            return (rows * self._line + margin, self.image_size[1])
        if self.place == "right":
            return (self.image_size[0], columns * self._column + margin)
        return (min(rows * self._line, self.image_size[0] // 2), columns * self._column)

    def _strip(self, shown: tuple[int, ...]) -> NDArray[np.uint8]:
        if shown in self._drawn:
            return self._drawn[shown]
        rows, columns = self._rows, self._columns
        if self.place == "inside":  # no larger than its entries
            columns = min(self._columns, max(1, -(-len(shown) // self._rows)))
            rows = min(self._rows, len(shown))
        height, width = self._strip_size(rows, columns)
        picture = Image.new("RGB", (width, height), BACKGROUND)
        pen = ImageDraw.Draw(picture)
        swatch, margin = round(0.8 * self._font_size), self._font_size // 3
        for cell, train_id in enumerate(shown):
            if train_id == EMPTY:
                continue
            # Side by side in strips below, one under the other elsewhere.
            row, column = divmod(cell, columns) if self.place == "bottom" else divmod(cell, rows)[::-1]
            left, top = column * self._column + margin, row * self._line + margin
            middle = top + (self._line - margin) // 2
            text = f"+{-train_id} more"
            if train_id >= 0:
                box = (left, middle - swatch // 2, left + swatch, middle + swatch - swatch // 2)
                pen.rectangle(box, fill=self.palette[train_id], outline=TEXT)
                left += swatch + margin
                text = self.names[train_id]
            room = (column + 1) * self._column - left
            pen.text((left, middle), shortened(text, self._font, room), TEXT, self._font, anchor="lm")
        if len(self._drawn) > 64:
            self._drawn.clear()
        self._drawn[shown] = np.asarray(picture)
        return self._drawn[shown]


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    """Return `text`, cut and ended with "…" where it is wider than `room` pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…" if text else ""


@lru_cache(maxsize=16)
def label_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of legends and captions, `size` pixels high."""
    return ImageFont.load_default(size)
