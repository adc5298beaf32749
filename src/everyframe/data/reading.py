"""Frames and label maps of a `VideoRef`, whether its frames are pictures or lie inside a video file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everyframe.data.layout import VideoRef
from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.io.images import read_image
from everyframe.io.label_png import read_label
from everyframe.io.sources import PICTURE_RATE
from everyframe.io.video import VideoReader
from everyframe.labels import LabelSpace

OPEN_VIDEOS = 4
"""Video files that one process keeps open: random access then pays a seek, not an open."""

_open: OrderedDict[Path, VideoReader] = OrderedDict()
"""(A forked worker inherits them; each then opens its file again, see `VideoReader`.)"""


def read_frame(video: VideoRef, index: int) -> Frame:
    """Read one frame.

    Args:
        video: the video.
        index: position in the video, 0..N-1.

    Returns:
        The frame, RGB and upright; its `name` is the one in `video.frames`.

    Raises:
        InputError: the file is missing or damaged, or has no such frame.
    """
    return read_frames(video, [index])[0]


def read_frames(video: VideoRef, indices: Sequence[int]) -> list[Frame]:
    """Read some frames, in the order asked for (a frame may be asked for twice).

    Raises:
        InputError: as `read_frame`.
    """
    for index in indices:
        if not 0 <= index < len(video.frames):
            raise InputError(
                f"{video.name}: expected a frame number in 0..{len(video.frames) - 1}, came {index}; count from 0"
            )
    if video.file is None:
        return [_read_picture(video, index) for index in indices]
    frames = _reader(video.file).read(list(indices))
    return [_named(video, index, frame) for index, frame in zip(indices, frames, strict=True)]


def iter_frames(video: VideoRef) -> Iterator[Frame]:
    """Read all frames in order; a video file is decoded once from its start."""
    if video.file is None:
        for index in range(len(video.frames)):
            yield _read_picture(video, index)
        return
    with VideoReader(video.file) as reader:
        for index, frame in enumerate(reader):
            if index >= len(video.frames):
                break
            yield _named(video, index, frame)


def read_labels(
    video: VideoRef, index: int, space: LabelSpace, size: tuple[int, int] | None = None
) -> NDArray[np.uint8] | None:
    """Read the label map of one frame.

    Args:
        video: the video; its own `space`, or its frame's, decides how masks are read, where there is one.
        index: position in the video.
        space: the label space of the split.
        size: (H, W) of the frame as `read_frame` gives it; the mask must have it.

    Returns:
        uint8 [H, W] train ids, or None when the frame is not labelled.

    Raises:
        InputError: the mask is missing, damaged, of another size, or has an id outside the table.
    """
    path = video.frames[index].label
    if path is None:
        return None
    own = video.frames[index].space or video.space or space
    labels = read_label(path, own, size if video.height is None else None)
    if video.height is None:
        return labels
    height, width = target_size(labels.shape, video.height)
    if size is not None and size != (height, width):
        raise InputError(
            f"{path}: expected a mask of {size[1]}x{size[0]} pixels at {height} rows like its frame, "
            f"came {width}x{height}; resize it with nearest neighbour"
        )
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


def target_size(size: Sequence[int], height: int) -> tuple[int, int]:
    """Return (H, W) at `height` rows: int(height * W / H) columns, the rule by which VSPW_480p was made."""
    return height, int(height * size[1] / size[0])


def _reader(path: Path) -> VideoReader:
    reader = _open.pop(path, None) or VideoReader(path)
    _open[path] = reader
    if len(_open) > OPEN_VIDEOS:
        _open.popitem(last=False)[1].close()
    return reader


def _read_picture(video: VideoRef, index: int) -> Frame:
    ref = video.frames[index]
    if ref.image is None:
        raise InputError(f"{video.name}: expected a picture or a video file for frame {index}, the layout gave neither")
    return Frame(_resized(read_image(ref.image), video.height), index, float(index / PICTURE_RATE), ref.name)


def _named(video: VideoRef, index: int, frame: Frame) -> Frame:
    return Frame(_resized(frame.image, video.height), index, frame.time, video.frames[index].name)


def _resized(image: Tensor, height: int | None) -> Tensor:
    """Resize bilinearly (PIL, anti-aliased), as VSPW_480p was made from the full frames."""
    if height is None:
        return image
    target = target_size(image.shape[1:], height)
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    resized = np.array(picture.resize((target[1], target[0]), Image.Resampling.BILINEAR))
    return torch.from_numpy(resized).permute(2, 0, 1).contiguous()
