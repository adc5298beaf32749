"""A first look at the masks of a split, before hours of training end at one that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from PIL import Image

from everyframe.data.decoding import DecodingThreads
from everyframe.data.layout import VideoRef
from everyframe.data.reading import read_frame, read_labels, target_size
from everyframe.io.images import UNREADABLE, upright_size
from everyframe.io.video import VideoReader
from everyframe.labels import LabelSpace

OPENED = 4000
"""Masks whose header is compared with that of their frame: a third of a millisecond each on a local disk."""
READ = 200
"""Masks that are read to their end, ids and all: ten milliseconds each."""

Item = TypeVar("Item")


def look_at_masks(
    videos: Sequence[VideoRef], space: LabelSpace, split: str, opened: int = OPENED, read: int = READ
) -> str:
    """Open masks, compare their size with their frame's, and read some of them: all of a small set, else a sample.

    Args:
        videos: of a split.
        space: how masks are read where a video says nothing else.
        split: its name in what is said.
        opened: masks to open, evenly over the split.
        read: masks to read to their end, evenly over the split.

    Returns:
        What was looked at, in words; "" where it was all of it.

    Raises:
        InputError: a mask is missing, damaged, of another size than its frame, or has an id outside the table.
    """
    masks = [(video, index) for video in videos for index in video.labelled]
    whole = _evenly(masks, read)
    with DecodingThreads(2) as pool:
        for _ in pool.ahead(_read, ((video, index, space) for video, index in whole)):
            pass
    for video, index in _evenly(masks, opened):
        if not _headers_fit(video, index):
            _read(video, index, space)  # says what is wrong
    if len(whole) == len(masks):
        return ""
    return (
        f"{split} masks: {min(opened, len(masks))} of {len(masks)} opened, {len(whole)} read, all sound; "
        f"`everyframe data check` reads all of them"
    )


def _evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Return so many of the items, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]


def _read(video: VideoRef, index: int, space: LabelSpace) -> None:
    try:
        size = _frame_size(video, index, whole=True)
    except UNREADABLE:
        size = read_frame(video, index).size  # says what is wrong
    read_labels(video, index, space, size if video.height is None else target_size(size, video.height))


def _headers_fit(video: VideoRef, index: int) -> bool:
    """Whether mask and frame open and have one size, by their headers."""
    label = video.frames[index].label
    try:
        sizes = _picture_size(label or Path()), _frame_size(video, index)
    except UNREADABLE:
        return False
    mask, frame = sizes if video.height is None else (target_size(size, video.height) for size in sizes)
    return mask == frame


def _frame_size(video: VideoRef, index: int, whole: bool = False) -> tuple[int, int]:
    """Return (H, W) of a frame as it lies on disk, upright; see `upright_size`."""
    image = video.frames[index].image
    return _video_size(video.file or Path()) if image is None else _picture_size(image, whole)


def _picture_size(path: Path, whole: bool = False) -> tuple[int, int]:
    with Image.open(path) as picture:
        return upright_size(picture, whole)


@lru_cache(maxsize=64)
def _video_size(file: Path) -> tuple[int, int]:
    with VideoReader(file) as reader:
        return reader.info.height, reader.info.width
