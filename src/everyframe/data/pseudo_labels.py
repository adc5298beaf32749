"""Label maps from a folder for frames that have none: a teacher's pseudo-labels, or what people made of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from everyframe.data.focus import Focus
from everyframe.data.layout import VideoRef
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.metrics.results_text import counted


def with_pseudo_labels(
    videos: Sequence[VideoRef], folder: str | Path, space: LabelSpace, focus: Focus | None = None
) -> list[VideoRef]:
    """Give frames without a label map the one that lies in FOLDER/<video>/<frame>.png.

    Args:
        videos: their own labels stay.
        folder: as `everyframe predict` and `everyframe self-train` write it. FOLDER/labels.json says what the ids in
            its files mean; without it, they mean what the video's own masks mean.
        space: the classes of the data.
        focus: how label maps of all classes are read where `space` is a few of them and "rest".

    Returns:
        The same videos in the same order.

    Raises:
        InputError: no such folder, none of its files fits, or it holds other classes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of label maps (<video>/<frame>.png), found none; check the path")
    table = folder / "labels.json"
    own = LabelSpace.load(table) if table.is_file() else None
    if own is not None and focus is not None and own.names == focus.whole.names:
        own = focus.read(own)
    if own is not None and own.names != space.names:
        raise InputError(
            f"{table}: expected the {len(space)} classes of the data in their order ({', '.join(space.names[:4])}…), "
            f"came {len(own)} others ({', '.join(own.names[:4])}…); use a model of these classes"
        )
    given = [_with_labels(video, folder / video.name, own) for video in videos]
    if all(new is old for new, old in zip(given, videos, strict=True)):
        example = next((folder / v.name / f"{v.frames[0].name}.png" for v in videos if v.frames), folder)
        raise InputError(
            f"{folder}: expected label maps of frames that have none, found no file that fits "
            f"{counted(len(videos), 'video')} (one could be {example}); label the frames of these videos"
        )
    return given


def _with_labels(video: VideoRef, folder: Path, space: LabelSpace | None) -> VideoRef:
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    new = {f.index for f in video.frames if f.label is None and f"{f.name}.png" in there}
    if not new:
        return video
    frames = (replace(f, label=folder / f"{f.name}.png", space=space) if f.index in new else f for f in video.frames)
    return replace(video, frames=tuple(frames))
