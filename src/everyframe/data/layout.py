"""What a layout returns: videos as paths, nothing decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everyframe.errors import InputError
from everyframe.labels import LabelSpace


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Where one frame and its label map lie.

    Attributes:
        index: position in the video, from 0.
        name: file name without ending under which results are written; unique within the video.
        image: picture file, or None when the frame lies inside `VideoRef.file`.
        label: mask file, or None when the frame is not labelled.
        space: how this mask is read, when that differs from the video's others (pseudo-labels beside masks).
    """

    index: int
    name: str
    image: Path | None = None
    label: Path | None = None
    space: LabelSpace | None = None


@dataclass(frozen=True, slots=True)
class VideoRef:
    """One video: a folder of pictures, a video file, or a still image (a video of one frame).

    Attributes:
        name: unique within the split; results are written under it.
        frames: all frames in order of time, labelled or not.
        file: the video file when the frames lie inside one.
        space: how this video's masks are read, when that differs from the split's label space.
        height: read frames and masks at this many rows and int(height * width / height of the file) columns; None
            reads them as they are.
    """

    name: str
    frames: tuple[FrameRef, ...]
    file: Path | None = None
    space: LabelSpace | None = None
    height: int | None = None

    @property
    def labelled(self) -> tuple[int, ...]:
        """Positions of the labelled frames."""
        return tuple(frame.index for frame in self.frames if frame.label is not None)

    def keep_labels(self, indices: set[int]) -> VideoRef:
        """Return this video with the labels of the other frames left out."""
        frames = tuple(f if f.index in indices else replace(f, label=None) for f in self.frames)
        return replace(self, frames=frames)


Split = tuple[list[VideoRef], LabelSpace]


def check_split(split: Any, layout: str) -> Split:
    """Return what a layout gave, once it keeps the contract above. No file is looked at.

    What breaks it does not stop training by itself: labels are looked up by position, and frames counted from 1 lose
    them one and all.

    Args:
        split: as it came.
        layout: its name, for the message.

    Raises:
        InputError: with the video and frame at fault, and what to write.
    """
    where = f"layout {layout}"
    if not (isinstance(split, tuple) and len(split) == 2 and isinstance(split[1], LabelSpace)):
        raise InputError(f"{where}: expected (videos, LabelSpace), came {type(split).__name__}; return both in a tuple")
    videos, space = split
    if not isinstance(videos, list):
        raise InputError(f"{where}: expected a list of videos, came {type(videos).__name__}; return list(videos)")
    seen: set[str] = set()
    for video in videos:
        if not isinstance(video, VideoRef) or not isinstance(video.name, str):
            raise InputError(f"{where}: expected every video to be a VideoRef with a name, came {video!r:.80}")
        if video.name in seen:
            raise InputError(f"{where}: expected videos of different names, {video.name!r} came twice; rename one")
        seen.add(video.name)
        _check_frames(video, f"{where}, video {video.name!r}")
    return videos, space


def _check_frames(video: VideoRef, where: str) -> None:
    if not isinstance(video.frames, tuple):
        raise InputError(
            f"{where}: expected a tuple of frames, came {type(video.frames).__name__}; write tuple(frames)"
        )
    _check_path(video.file, f"{where}: expected file")
    names: set[str] = set()
    for position, frame in enumerate(video.frames):
        if not isinstance(frame, FrameRef):
            raise InputError(f"{where}, position {position}: expected a FrameRef, came {frame!r:.80}")
        if frame.index != position:
            raise InputError(
                f"{where}, frame {frame.name!r}: expected index {position}, its position in the video, came "
                f"{frame.index}; number the frames from 0 without gaps, as enumerate(frames) does"
            )
        if frame.name in names:
            raise InputError(
                f"{where}: expected frames of different names, by which their results are kept apart, {frame.name!r} "
                f"came twice; rename one"
            )
        names.add(frame.name)
        if frame.image is None and video.file is None:
            raise InputError(
                f"{where}, frame {frame.name!r}: expected an image, or a video file that holds the frames, came neither"
            )
        _check_path(frame.image, f"{where}, frame {frame.name!r}: expected image")
        _check_path(frame.label, f"{where}, frame {frame.name!r}: expected label")


def _check_path(path: Any, what: str) -> None:
    if path is not None and not isinstance(path, Path):
        raise InputError(f"{what} to be a pathlib.Path or None, came {type(path).__name__}; write Path({path!r:.80})")


def in_space(split: Split, space: LabelSpace) -> list[VideoRef]:
    """Return the videos of a split for use beside another split of the same classes.

    Args:
        split: videos, and how their masks are read.
        space: how masks are read where a video says nothing else; the ids in the files may be others than here
            (COCO-Stuff's two forms).
    """
    videos, own = split
    return videos if own == space else [replace(v, space=own) if v.space is None else v for v in videos]


def read_as(videos: Iterable[VideoRef], mapped: Callable[[LabelSpace], LabelSpace]) -> list[VideoRef]:
    """Return the videos with each label space that one of them, or of their frames, has for itself mapped.

    Args:
        videos: those without a label space of their own stay as they are.
        mapped: called once for each; videos that share one share what it returns.
    """
    spaces: dict[int, LabelSpace] = {}

    def new(own: LabelSpace | None) -> LabelSpace | None:
        if own is None:
            return None
        if id(own) not in spaces:
            spaces[id(own)] = mapped(own)
        return spaces[id(own)]

    def frames(video: VideoRef) -> tuple[FrameRef, ...]:
        if all(frame.space is None for frame in video.frames):
            return video.frames
        return tuple(frame if frame.space is None else replace(frame, space=new(frame.space)) for frame in video.frames)

    return [replace(video, frames=frames(video), space=new(video.space)) for video in videos]


Layout = Callable[[Path, str], Split]
"""`layout(root, split) -> (videos in a stable order, label space)`."""
