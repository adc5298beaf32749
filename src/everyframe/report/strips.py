"""Frame, prediction, ground truth and errors side by side, small enough to lie inside a page."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everyframe.frames import IGNORE
from everyframe.report.charts import WRONG, data_uri

PICTURE_WIDTH = 480
"""Widest embedded picture in pixels; twice what a page shows side by side, so that it stays sharp."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One frame of a video with what was predicted and what is true.

    Attributes:
        video: name of the video.
        name: name of the frame.
        image: uint8 [H, W, 3], RGB.
        prediction: uint8 [H, W], train ids; 255 where no class was predicted.
        target: uint8 [H, W], train ids, 255 = ignore.
    """

    video: str
    name: str
    image: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    target: NDArray[np.uint8]

    @property
    def wrong(self) -> float:
        """Share of the labelled pixels that are predicted wrong; 0 without labelled pixels."""
        labelled = self.target != IGNORE
        return float((self.prediction != self.target)[labelled].mean()) if labelled.any() else 0.0

    def mistakes(self, names: Sequence[str], count: int = 2) -> list[str]:
        """The most frequent confusions of this frame, such as `car → truck 12 %` (of the labelled pixels)."""
        bad = (self.prediction != self.target) & (self.target != IGNORE)
        pairs, pixels = np.unique(
            self.target[bad].astype(np.int32) << 8 | self.prediction[bad].astype(np.int32), return_counts=True
        )
        total = int((self.target != IGNORE).sum())
        worst = np.argsort(-pixels)[:count]
        return [
            f"{names[pairs[i] >> 8]} → {names[pairs[i] & 255] if pairs[i] & 255 < len(names) else 'no class'} "
            f"{100 * pixels[i] / total:.0f} %"
            for i in worst
            if pixels[i] >= 0.005 * total
        ]

    def pictures(self, palette: Sequence[tuple[int, int, int]]) -> list[str]:
        """Four `data:` addresses: frame, prediction, ground truth, errors; at most `PICTURE_WIDTH` wide."""
        height, width = self.target.shape
        if width > PICTURE_WIDTH:
            height, width = max(1, round(height * PICTURE_WIDTH / width)), PICTURE_WIDTH
        frame = Image.fromarray(self.image).resize((width, height), Image.Resampling.LANCZOS)
        wrong = ((self.prediction != self.target) & (self.target != IGNORE)).astype(np.uint8) * 255
        share = Image.fromarray(wrong).resize((width, height), Image.Resampling.BOX)  # keeps thin errors visible
        target = _shrink(self.target, width, height)
        return [
            data_uri(frame, quality=72),
            data_uri(_painted(_shrink(self.prediction, width, height), palette), lossless=True),
            data_uri(_painted(target, palette), lossless=True),
            data_uri(_errors(np.asarray(frame), np.asarray(share), target == IGNORE), quality=72),
        ]


def _shrink(labels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def _painted(labels: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """Class colours; a light chequer, as of an empty canvas, where there is no class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    rgb = table[labels]
    y, x = np.indices(labels.shape)
    chequer = np.where((x // 6 + y // 6) % 2 == 0, 238, 208).astype(np.uint8)
    nothing = labels >= len(palette)
    rgb[nothing] = chequer[nothing][:, None]
    return Image.fromarray(rgb)


def _errors(frame: NDArray[np.uint8], share: NDArray[np.uint8], ignored: NDArray[np.bool_]) -> Image.Image:
    """The frame in pale grey, wrong pixels in orange, pixels without a label dark."""
    grey = frame @ np.array([0.299, 0.587, 0.114])
    pale = np.where(ignored, 0.35 * grey, 110 + 0.5 * grey)
    strength = (share / 255.0 * 0.9)[..., None]
    rgb = pale[..., None] * (1 - strength) + np.array(WRONG) * strength
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


class WorstFrames:
    """Remembers the frames with the largest share of wrong pixels while an evaluation passes by.

    At most one from each part of a video, so that one bad second does not fill the page; memory is bounded by `count`
    compressed label maps.

    Args:
        count: frames to keep; 0 keeps none.
        videos: how many videos there are; with few of them each is cut into more parts.
    """

    def __init__(self, count: int, videos: int) -> None:
        self.count = count
        self.parts = max(3, -(-count // max(videos, 1)))
        self._kept: dict[tuple[str, int], tuple[float, int, bytes, tuple[int, int]]] = {}

    def offer(
        self, video: str, index: int, frames: int, prediction: NDArray[np.uint8], target: NDArray[np.uint8]
    ) -> None:
        """Look at one labelled frame, number `index` of `frames`; both label maps uint8 [H, W]."""
        labelled = target != IGNORE
        pixels = np.count_nonzero(labelled)
        if not self.count or not pixels:
            return
        wrong = np.count_nonzero((prediction != target) & labelled) / pixels
        key = (video, index * self.parts // max(frames, 1))
        if key in self._kept:
            bar = self._kept[key][0]
        else:
            bar = (
                min((entry[0] for entry in self._kept.values()), default=0.0) if len(self._kept) == self.count else 0.0
            )
        if wrong <= bar:
            return
        self._kept[key] = (wrong, index, zlib.compress(prediction.tobytes() + target.tobytes(), 1), target.shape)
        if len(self._kept) > self.count:
            del self._kept[min(self._kept, key=lambda k: self._kept[k][0])]

    def __iter__(self) -> Iterator[tuple[str, int, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield (video, index, prediction, target), the worst first."""
        for (video, _), (_, index, packed, shape) in sorted(self._kept.items(), key=lambda item: -item[1][0]):
            prediction, target = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(2, *shape)
            yield video, index, prediction, target
