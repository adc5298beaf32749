"""Noisy and clean references: which frames hold the classes of the frame that a stream takes as its reference.

A query is noisy when the set of its classes is not that of the reference frame, ignored pixels aside (SSLTM, CVPR 2023,
fig. 4b). One-sided, it matters only what the reference lacks: what has left the picture since does no harm. On a stream
the reference is the first frame; where that has no label map, the first one that has stands in.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from everyframe.data.layout import VideoRef
from everyframe.data.reading import read_labels
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace

Comparison = Literal["same", "left", "lacking"]
"""The frame's classes are the reference's; some of those have left; or the reference lacks one of the frame's."""

SUBSETS: dict[str, tuple[Comparison, ...]] = {
    "noisy": ("left", "lacking"),
    "clean": ("same",),
    "lacking": ("lacking",),
    "covered": ("same", "left"),
}
"""Subset -> which frames it holds. The first two are the paper's, the others the one-sided form."""

Compared = Mapping[str, Mapping[str, Comparison]]
"""Video name -> frame name -> how its classes compare with the reference's; the reference itself is left out."""


def compare_frames(videos: Sequence[VideoRef], space: LabelSpace) -> dict[str, dict[str, Comparison]]:
    """Compare the classes of every labelled frame with those of its video's reference."""
    found: dict[str, dict[str, Comparison]] = {}
    for video in videos:
        if len(video.labelled) < 2:
            continue
        reference, *queries = video.labelled
        held = _classes(video, reference, space)
        found[video.name] = {video.frames[i].name: _compared(_classes(video, i, space), held) for i in queries}
    return found


def _compared(frame: set[int], reference: set[int]) -> Comparison:
    if frame - reference:
        return "lacking"
    return "left" if reference - frame else "same"


def _classes(video: VideoRef, index: int, space: LabelSpace) -> set[int]:
    labels = read_labels(video, index, space)
    assert labels is not None  # the frame is one of `VideoRef.labelled`
    return set(np.unique(labels).tolist()) - {IGNORE}


def frames_of(subset: str, compared: Compared) -> list[tuple[str, str]]:
    """Return the frames of a subset, each (video name, frame name)."""
    return [(v, frame) for v, frames in compared.items() for frame, how in frames.items() if how in SUBSETS[subset]]


def link_subset(labels: Path, folder: Path, compared: Compared, subset: str) -> None:
    """Make a folder of predictions that holds the frames of one subset, as links to those of all frames.

    Args:
        labels: label maps of all frames, <video>/<frame>.png, with `labels.json`.
        folder: made anew.
        compared: see `compare_frames`.
        subset: one of `SUBSETS`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(labels / "labels.json", folder / "labels.json")
    for video, frame in frames_of(subset, compared):
        (folder / video).mkdir(parents=True, exist_ok=True)
        (folder / video / f"{frame}.png").symlink_to((labels / video / f"{frame}.png").resolve())
