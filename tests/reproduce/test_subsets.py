"""Noisy references by hand: a video in which a class comes, goes, and hides among ignored pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everyframe.data.layouts import load_split
from everyframe.data.predictions import SavedPredictions
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.io.label_png import write_label
from everyframe.labels import LabelSpace
from everyframe.reproduce import subsets
from everyframe.reproduce.subsets import SUBSETS, Compared, compare_frames, frames_of, link_subset

CLASSES = {0: [0, 1], 1: [0, 1, 255], 2: [0], 3: [0, 1, 2], 4: [1, 0]}


def test_frames_are_compared_with_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(SyntheticVideos(1, frames=5, size=(16, 16)), tmp_path, "vspw", "val")
    videos, space = load_split(f"vspw:{tmp_path}", "val")
    fake = lambda video, index, space: np.array([CLASSES[index]], np.uint8)  # noqa: E731
    monkeypatch.setattr(subsets, "read_labels", fake)
    names = [frame.name for frame in videos[0].frames]
    expected = {names[1]: "same", names[2]: "left", names[3]: "lacking", names[4]: "same"}
    compared = compare_frames(videos, space)
    assert compared == {videos[0].name: expected}
    found = {subset: [names.index(frame) for _, frame in frames_of(subset, compared)] for subset in SUBSETS}
    assert found == {"noisy": [2, 3], "clean": [1, 4], "lacking": [3], "covered": [1, 2, 4]}
    sparse = videos[0].keep_labels({2, 3})  # the first frame has no label map: the third stands in
    assert compare_frames([sparse], space) == {videos[0].name: {names[3]: "lacking"}}
    assert compare_frames([videos[0].keep_labels({2})], space) == {}


def test_links_hold_one_subset_and_are_predictions(tmp_path: Path) -> None:
    space = LabelSpace(("a", "b"))
    labels = tmp_path / "labels"
    (labels / "v").mkdir(parents=True)
    space.save(labels / "labels.json")
    for i in range(3):
        write_label(labels / "v" / f"{i}.png", np.full((2, 2), i % 2, np.uint8), space)
    compared: Compared = {"v": {"1": "lacking", "2": "same"}}
    for _ in range(2):  # again after a stop
        link_subset(labels, tmp_path / "noisy", compared, "noisy")
    link_subset(labels, tmp_path / "clean", compared, "clean")
    assert [path.name for path in (tmp_path / "noisy" / "v").iterdir()] == ["1.png"]
    assert [path.name for path in (tmp_path / "clean" / "v").iterdir()] == ["2.png"]
    assert SavedPredictions(tmp_path / "noisy", space).notes == []
    assert (tmp_path / "noisy" / "v" / "1.png").read_bytes() == (labels / "v" / "1.png").read_bytes()
