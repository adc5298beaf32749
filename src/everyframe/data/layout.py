"""What a layout returns: videos as paths, nothing decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from everyframe.labels import LabelSpace


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Where one frame and its label map lie.

    Attributes:
        index: position in the video, from 0.
        name: file name without ending under which results are written.
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
