"""Counting of label maps, and that it happens once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.data import label_counts
from everyframe.data.findings import DataWarning
from everyframe.data.label_counts import cache_file, count_labels, count_parts
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.errors import InputError
from everyframe.labels import LabelSpace

SPACE = LabelSpace(("a", "b"), raw_to_train={1: 0, 2: 1, 0: 255}, colors={(9, 9, 9): 1, (0, 0, 7): 2, (1, 1, 1): 0})


def video(folder: Path, masks: list[list[list[int]] | None], name: str = "v") -> VideoRef:
    frames = []
    for index, rows in enumerate(masks):
        label = None if rows is None else folder / f"{name}_{index}.png"
        if label is not None:
            Image.fromarray(np.array(rows, np.uint8)).save(label)
        frames.append(FrameRef(index, str(index), label=label))
    return VideoRef(name, tuple(frames))


@pytest.fixture
def videos(tmp_path: Path) -> list[VideoRef]:
    return [video(tmp_path, [None, [[1, 1], [2, 0]]], "x"), video(tmp_path, [[[0, 0]], None, [[2, 2, 2, 1]]], "y")]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the masks that were read."""
    seen: list[str] = []
    scan = label_counts.scan_mask
    monkeypatch.setattr(label_counts, "scan_mask", lambda path: (seen.append(path.name), scan(path))[1])
    return seen


def test_counts(videos: list[VideoRef]) -> None:
    counts = count_labels(videos, SPACE)
    assert counts.places == ((0, 1), (1, 0), (1, 2))
    assert counts.pixels.tolist() == [[2, 1], [0, 0], [1, 3]]
    assert counts.area.tolist() == [4, 2, 4]
    assert counts.labelled_share.tolist() == [0.75, 0.0, 1.0]
    parts = count_parts([(videos[:1], None), (videos[1:], None)], SPACE)
    assert parts.places == counts.places
    assert np.array_equal(parts.pixels, counts.pixels)
    assert np.array_equal(parts.area, counts.area)


def test_masks_are_read_once_and_again_when_they_change(
    videos: list[VideoRef], tmp_path: Path, read: list[str]
) -> None:
    cache = tmp_path / "kept" / "counts.json"
    first = count_labels(videos, SPACE, cache)
    assert sorted(read) == ["x_1.png", "y_0.png", "y_2.png"]
    again = count_labels(videos, SPACE, cache)
    # Ids are kept as they stand in the file: another table needs no second look.
    other = count_labels(videos, LabelSpace(("c",), raw_to_train={0: 0, 1: 255, 2: 255}), cache)
    assert len(read) == 3
    assert np.array_equal(first.pixels, again.pixels)
    assert other.pixels.tolist() == [[1], [2], [0]]
    Image.fromarray(np.array([[2, 2]], np.uint8)).save(tmp_path / "y_0.png")
    os.utime(tmp_path / "y_0.png", ns=(1, 1))
    assert count_labels(videos, SPACE, cache).pixels.tolist() == [[2, 1], [0, 2], [1, 3]]
    assert read[3:] == ["y_0.png"]
    cache.write_text("{")  # a broken copy is no copy
    assert count_labels(videos, SPACE, cache).pixels.tolist() == [[2, 1], [0, 2], [1, 3]]
    assert json.loads(cache.read_text())["format"] == label_counts.FORMAT


def test_folders_that_are_gone_leave_the_cache(
    videos: list[VideoRef], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    def in_round(number: int) -> VideoRef:
        folder = tmp_path / f"round{number}"
        folder.mkdir()
        Image.fromarray(np.array([[1]], np.uint8)).save(folder / "0.png")
        return VideoRef("v", (FrameRef(0, "0", label=folder / "0.png"),))

    cache = tmp_path / "counts.json"
    count_labels([*videos, in_round(1)], SPACE, cache)
    shutil.rmtree(tmp_path / "round1")
    count_labels([in_round(2)], SPACE, cache)
    folders = json.loads(cache.read_text())["folders"]
    assert {Path(folder).name: sorted(files) for folder, files in folders.items()} == {
        tmp_path.name: ["x_1.png", "y_0.png", "y_2.png"], "round2": ["0.png"],
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)  # the same file by a shorter name is no second file
    count_labels([VideoRef("v", (FrameRef(0, "0", label=Path("round2/0.png")),))], SPACE, cache)
    assert len(read) == 5


def test_colour_masks_and_own_spaces(tmp_path: Path) -> None:
    path = tmp_path / "rgb.png"
    Image.fromarray(np.array([[[9, 9, 9], [0, 0, 7], [1, 1, 1]]], np.uint8)).save(path)
    swapped = LabelSpace(("a", "b"), raw_to_train={1: 1, 2: 0, 0: 0}, colors=SPACE.colors)
    videos = [VideoRef("v", (FrameRef(0, "0", label=path),), space=space) for space in (None, swapped)]
    videos.append(VideoRef("w", (FrameRef(0, "0", label=path, space=swapped),)))
    assert count_labels(videos, SPACE).pixels.tolist() == [[1, 1], [2, 1], [2, 1]]


def test_what_cannot_be_counted_is_named_and_the_rest_is_kept(
    videos: list[VideoRef], tmp_path: Path, read: list[str]
) -> None:
    cache = tmp_path / "counts.json"
    (tmp_path / "y_2.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"y_2\.png: expected a mask, came damaged"):
        count_labels(videos, SPACE, cache)
    Image.fromarray(np.array([[3]], np.uint8)).save(tmp_path / "y_2.png")
    with pytest.raises(InputError, match=r"y_2\.png: id 3 not in the class table"):
        count_labels(videos, SPACE, cache)
    assert read.count("x_1.png") == 1
    (tmp_path / "y_2.png").unlink()
    with pytest.raises(InputError, match="cannot read it"):
        count_labels(videos, SPACE, cache)


def test_a_cache_that_cannot_be_written_is_no_error(videos: list[VideoRef], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(DataWarning, match="EVERYFRAME_CACHE"):
        assert count_labels(videos, SPACE, tmp_path / "file" / "counts.json").area.sum() == 10


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EVERYFRAME_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    one, two = cache_file(tmp_path / "a" / "VSPW"), cache_file(tmp_path / "b" / "VSPW")
    assert one.parent == tmp_path / "xdg" / "everyframe" / "label_counts"
    assert one != two
    assert one.name.startswith("VSPW-")
    monkeypatch.setenv("EVERYFRAME_CACHE", str(tmp_path / "mine"))
    assert cache_file(tmp_path).parent == tmp_path / "mine" / "label_counts"
