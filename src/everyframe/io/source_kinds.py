"""The kinds of video there are to go through: files and streams, pictures, cameras, arrays."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.io.images import read_image
from everyframe.io.video_read import VideoInfo, VideoReader, frame_name

PICTURE_RATE = Fraction(15)
"""Frames per second that pictures are taken to have: the rate at which VSPW's videos were cut into pictures."""

Array = Frame | Tensor | NDArray[np.uint8]


class Source(ABC):
    """One video to go through, once or (files) as often as wanted: an iterable of `Frame`.

    Attributes:
        name: under which its results are written.
        origin: what it was opened from, for messages.
        rate: frames per second, None where nothing states it.
        length: number of frames as far as it is known without decoding, None for streams.
        size: (H, W) of the first frame, None where it is not known before reading. Frames may differ in size.

    Reading a file's `rate`, `length` or `size` looks into it and raises InputError when it cannot be read.
    """

    name: str
    origin: str

    def __init__(self, name: str, origin: str) -> None:
        self.name, self.origin = name, origin

    @property
    def rate(self) -> Fraction | None:
        """Frames per second."""
        return None

    @property
    def length(self) -> int | None:
        """Number of frames."""
        return None

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W)."""
        return None

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.origin!r}, name={self.name!r})"


class VideoSource(Source):
    """A video file, or a network stream that FFmpeg can open. Opened when first asked for something, and once."""

    @cached_property
    def _reader(self) -> VideoReader:
        return VideoReader(self.origin)

    @property
    def info(self) -> VideoInfo:
        """What the header says."""
        return self._reader.info

    @property
    def rate(self) -> Fraction:
        """Average frames per second; `Frame.time` holds the true times."""
        return self.info.rate

    @property
    def length(self) -> int | None:
        """Number of frames that the container declares."""
        return self.info.frames

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), upright."""
        return self.info.height, self.info.width

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames; see `VideoReader.__iter__` for what a damaged file does."""
        return iter(self._reader)


class PictureSource(Source):
    """Pictures in the order given; each frame keeps its file's name."""

    def __init__(self, name: str, origin: str, files: Sequence[Path], rate: Fraction = PICTURE_RATE) -> None:
        super().__init__(name, origin)
        self.files = tuple(files)
        self._rate = rate

    @property
    def rate(self) -> Fraction:
        """Frames per second as given."""
        return self._rate

    @property
    def length(self) -> int:
        """Number of pictures."""
        return len(self.files)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the first picture."""
        height, width = read_image(self.files[0]).shape[1:]  # decoded: EXIF may turn it
        return height, width

    def __iter__(self) -> Iterator[Frame]:
        """Read one picture at a time.

        Raises:
            InputError: a file is not a picture (it is named), or two pictures would have results of one name.
        """
        twice = [stem for stem, count in Counter(file.stem for file in self.files).items() if count > 1]
        if twice:
            raise InputError(
                f"{self.origin}: expected one picture for each name, came several named '{twice[0]}' "
                f"({', '.join(file.name for file in self.files if file.stem == twice[0])}); remove or rename the others"
            )
        for index, file in enumerate(self.files):
            yield Frame(read_image(file), index, float(index / self._rate), file.stem)


class CameraSource(Source):
    """A camera by its number, through OpenCV. Ends when it is unplugged, or by closing the iterator."""

    def __init__(self, number: int) -> None:
        super().__init__(f"camera{number}", str(number))
        self.number = number

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames with their time of arrival.

        Raises:
            InputError: there is no such camera.
        """
        import cv2

        camera = cv2.VideoCapture(self.number)
        try:
            if not camera.isOpened():
                raise InputError(f"camera {self.number}: expected a camera, found none; try another number")
            start, index = time.monotonic(), 0
            while True:
                arrived, bgr = camera.read()
                if not arrived:
                    return
                image = torch.from_numpy(np.ascontiguousarray(bgr[..., ::-1].transpose(2, 0, 1)))
                yield Frame(image, index, time.monotonic() - start, frame_name(index))
                index += 1
        finally:
            camera.release()


class ArraySource(Source):
    """Frames or arrays that a program makes; can be gone through once when they come from a generator."""

    def __init__(self, frames: Iterable[Array], name: str = "frames", rate: Fraction = PICTURE_RATE) -> None:
        super().__init__(name, f"{type(frames).__name__} of frames")
        self.frames = frames
        self._rate = rate

    @property
    def rate(self) -> Fraction:
        """Frames per second as given."""
        return self._rate

    @property
    def length(self) -> int | None:
        """Number of frames, None for a generator."""
        return len(self.frames) if isinstance(self.frames, Sized) else None

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames as they are; arrays get index, time and name.

        Raises:
            InputError: an item is not a frame, a uint8 array [H, W, 3] or a uint8 tensor [3, H, W].
        """
        for index, item in enumerate(self.frames):
            yield (
                item
                if isinstance(item, Frame)
                else Frame(_image(item, index), index, float(index / self._rate), frame_name(index))
            )


def _image(item: Any, index: int) -> Tensor:
    if isinstance(item, Image.Image):
        item = np.array(item.convert("RGB"))
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3:
        return torch.from_numpy(np.ascontiguousarray(item.transpose(2, 0, 1)))
    if isinstance(item, Tensor) and item.dtype == torch.uint8 and item.ndim == 3 and item.shape[0] == 3:
        return item
    shape = f"{item.dtype} {list(item.shape)}" if hasattr(item, "shape") else type(item).__name__
    raise InputError(
        f"frame {index}: expected a Frame, a uint8 array [H, W, 3] (RGB) or a uint8 tensor [3, H, W], came {shape}"
    )
