"""Noisy and clean references: which frames hold the classes of the frame that a stream takes as its reference.

A query is noisy when the set of its classes is not that of the reference frame, ignored pixels aside (SSLTM, CVPR 2023,
fig. 4b). On a stream the reference is the first frame; where that has no label map, the first one that has stands in.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from everyframe.data.layout import VideoRef
from everyframe.data.reading import read_labels
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace

SUBSETS = ("noisy", "clean")


def noisy_frames(videos: Sequence[VideoRef], space: LabelSpace) -> dict[str, dict[str, bool]]:
    """Compare the classes of every labelled frame with those of its video's reference.

    Returns:
        Video name -> frame name -> whether the sets differ. The reference itself is left out.
    """
    found: dict[str, dict[str, bool]] = {}
    for video in videos:
        if len(video.labelled) < 2:
            continue
        reference, *queries = video.labelled
        expected = _classes(video, reference, space)
        found[video.name] = {video.frames[i].name: _classes(video, i, space) != expected for i in queries}
    return found


def _classes(video: VideoRef, index: int, space: LabelSpace) -> set[int]:
    labels = read_labels(video, index, space)
    assert labels is not None  # the frame is one of `VideoRef.labelled`
    return set(np.unique(labels).tolist()) - {IGNORE}


def link_subset(labels: Path, folder: Path, noisy: Mapping[str, Mapping[str, bool]], wanted: bool) -> None:
    """Make a folder of predictions that holds the frames of one subset, as links to those of all frames.

    Args:
        labels: label maps of all frames, <video>/<frame>.png, with `labels.json`.
        folder: made anew.
        noisy: see `noisy_frames`.
        wanted: True for the noisy frames, False for the clean ones.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(labels / "labels.json", folder / "labels.json")
    for video, frames in noisy.items():
        (folder / video).mkdir(parents=True, exist_ok=True)
        for frame, is_noisy in frames.items():
            if is_noisy == wanted:
                (folder / video / f"{frame}.png").symlink_to((labels / video / f"{frame}.png").resolve())
