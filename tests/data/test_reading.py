from __future__ import annotations

import multiprocessing
import os
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everyframe.data import reading
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.reading import iter_frames, read_frame, read_frames, read_labels, target_size
from everyframe.errors import InputError
from everyframe.io.video import VideoReader, VideoWriter
from everyframe.labels import LabelSpace

SPACE = LabelSpace(("a", "b"), raw_to_train={0: 255, 1: 0, 2: 1})
STEP = 20
"""Grey level between two frames of the test video: far more than what the codec changes."""


@pytest.fixture(autouse=True)
def _none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_open", OrderedDict())


def film(path: Path, frames: int = 6) -> VideoRef:
    with VideoWriter(path, size=(32, 48), rate=Fraction(10)) as writer:
        for i in range(frames):
            writer.write(np.full((32, 48, 3), STEP * i + 10, np.uint8), i / 10)
    return VideoRef(path.stem, tuple(FrameRef(i, f"{i:08d}") for i in range(frames)), path)


def pictures(folder: Path, size: tuple[int, int] = (4, 6)) -> VideoRef:
    refs = []
    for i in range(3):
        picture = np.zeros((*size, 3), np.uint8)
        picture[..., 0], picture[0, 0, 2] = i, 255
        Image.fromarray(picture).save(folder / f"p{i}.png")
        refs.append(FrameRef(i, f"p{i}", folder / f"p{i}.png"))
    return VideoRef("pictures", tuple(refs))


def test_pictures(tmp_path: Path) -> None:
    video = pictures(tmp_path)
    frame = read_frame(video, 2)
    assert frame.image.shape == (3, 4, 6)
    assert (frame.image[0] == 2).all()
    assert frame.image[2, 0, 0] == 255  # RGB, not BGR
    assert (frame.index, frame.name, frame.time) == (2, "p2", pytest.approx(2 / 15))
    assert [f.index for f in read_frames(video, [2, 0, 2])] == [2, 0, 2]
    assert [f.name for f in iter_frames(video)] == ["p0", "p1", "p2"]


def test_video_file_by_index_equals_in_order(tmp_path: Path) -> None:
    video = film(tmp_path / "film.mp4")
    in_order = list(iter_frames(video))
    assert [round((float(f.image.float().mean()) - 10) / STEP) for f in in_order] == list(range(6))
    picked = read_frames(video, [5, 0, 3, 3])
    assert [(f.index, f.name) for f in picked] == [(5, "00000005"), (0, "00000000"), (3, "00000003"), (3, "00000003")]
    for frame in picked:
        assert torch.equal(frame.image, in_order[frame.index].image)
        assert frame.time == pytest.approx(frame.index / 10)


@pytest.mark.parametrize("index", [-1, 6])
def test_no_such_frame(tmp_path: Path, index: int) -> None:
    with pytest.raises(InputError, match=rf"film: expected a frame number in 0\.\.5, came {index}"):
        read_frame(film(tmp_path / "film.mp4"), index)


def test_few_files_stay_open(tmp_path: Path) -> None:
    videos = [film(tmp_path / f"{i}.mp4", 1) for i in range(reading.OPEN_VIDEOS + 2)]
    for video in (*videos, videos[-2]):
        read_frame(video, 0)
    assert len(reading._open) == reading.OPEN_VIDEOS
    assert list(reading._open)[-1] == videos[-2].file


def _mean(video: VideoRef, index: int) -> int:
    return round((float(read_frame(video, index).image.float().mean()) - 10) / STEP)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_reads_on_its_own(tmp_path: Path) -> None:
    """It has the readers that the parent had open, and closes some to make room; its files stay as they are."""
    videos = [film(tmp_path / f"{i}.mp4", 8) for i in range(reading.OPEN_VIDEOS + 2)]
    for video in videos[: reading.OPEN_VIDEOS]:
        assert _mean(video, 4) == 4
    jobs = [(video, i) for video in (*videos, *videos) for i in (1, 5, 2)]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        result = pool.starmap_async(_mean, jobs)
        assert [_mean(video, 5) for video in videos] == [5] * len(videos)
        assert result.get(timeout=30) == [i for _, i in jobs]


def test_labels(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 2]], np.uint8)).save(tmp_path / "m.png")
    video = VideoRef("v", (FrameRef(0, "0", None, tmp_path / "m.png"), FrameRef(1, "1")))
    labels = read_labels(video, 0, SPACE, size=(1, 3))
    assert labels is not None
    assert labels.tolist() == [[255, 0, 1]]
    assert read_labels(video, 1, SPACE) is None
    with pytest.raises(InputError, match=r"m\.png: expected a mask of 4x1 pixels like its frame, came 3x1"):
        read_labels(video, 0, SPACE, size=(1, 4))
    other = LabelSpace(("a", "b"), raw_to_train={0: 0, 1: 0, 2: 255})
    labels = read_labels(VideoRef("v", video.frames, space=other), 0, SPACE)
    assert labels is not None
    assert labels.tolist() == [[0, 0, 255]]


def test_height_resizes_frame_and_mask_by_the_480p_rule(tmp_path: Path) -> None:
    """9x16 at 6 rows has int(6 * 16 / 9) = 10 columns: bilinear frame, nearest mask, both as PIL makes them."""
    rng = np.random.default_rng(0)
    image, ids = rng.integers(0, 255, (9, 16, 3)).astype(np.uint8), rng.integers(0, 3, (9, 16)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "f.png")
    Image.fromarray(ids).save(tmp_path / "m.png")
    video = VideoRef("v", (FrameRef(0, "0", tmp_path / "f.png", tmp_path / "m.png"),), height=6)
    assert target_size((9, 16), 6) == (6, 10)
    frame, labels = read_frame(video, 0), read_labels(video, 0, SPACE, size=(6, 10))
    expected = np.asarray(Image.fromarray(image).resize((10, 6), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(frame.image.permute(1, 2, 0).numpy(), expected)
    nearest = np.asarray(Image.fromarray(ids).resize((10, 6), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(labels, SPACE.encode(nearest))
    with pytest.raises(InputError, match="12x6 pixels at 6 rows"):
        read_labels(video, 0, SPACE, size=(6, 12))


def test_damaged_files(tmp_path: Path) -> None:
    video = pictures(tmp_path)
    (tmp_path / "p1.png").write_bytes((tmp_path / "p1.png").read_bytes()[:40])
    with pytest.raises(InputError, match=r"p1\.png: expected a picture, came 40 bytes that do not decode"):
        read_frame(video, 1)
    (tmp_path / "p2.png").unlink()
    with pytest.raises(InputError, match=r"p2\.png: expected a picture, found no file"):
        read_frame(video, 2)
    with pytest.raises(InputError, match=r"gone\.mp4"):
        read_frame(VideoRef("gone", (FrameRef(0, "0"),), tmp_path / "gone.mp4"), 0)


def test_frame_names_agree_with_the_reader(tmp_path: Path) -> None:
    """Results of `predict` are written under the reader's names and found again under the layout's."""
    from everyframe.data.layouts import load_split

    (tmp_path / "videos").mkdir()
    film(tmp_path / "videos/film.mp4", 3)
    (tmp_path / "classes.yaml").write_text("1: a\n")
    (video,), _ = load_split(tmp_path, "all")
    with VideoReader(tmp_path / "videos/film.mp4") as reader:
        assert [frame.name for frame in reader] == [ref.name for ref in video.frames]
