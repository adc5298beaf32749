"""Files as people leave them: links to nothing, links in circles, odd names."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from layout_files import mask, picture, text

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.findings import DataWarning
from everyframe.data.layouts import load_split
from everyframe.data.listing import NoSuchSplit, list_frames, list_masks, read_list
from everyframe.errors import InputError


def test_a_link_to_nothing_is_told_and_left_out(tmp_path: Path) -> None:
    for stem in ("1", "3"):
        picture(tmp_path / f"{stem}.jpg")
    os.symlink("gone.jpg", tmp_path / "2.jpg")
    os.symlink("3.jpg", tmp_path / "4.jpg")
    with pytest.warns(DataWarning, match=r"2\.jpg: a link to a file that is not there; these frames are left out"):
        assert list(list_frames(tmp_path)) == ["1", "3", "4"]


def test_a_vspw_frame_that_is_a_link_to_nothing_takes_its_mask_along(tmp_path: Path) -> None:
    for i in (0, 2):
        picture(tmp_path / f"data/v/origin/{i}.jpg")
    os.symlink("gone.jpg", tmp_path / "data/v/origin/1.jpg")
    for i in range(3):
        mask(tmp_path / f"data/v/mask/{i}.png")
    text(tmp_path / "train.txt", "v")
    with pytest.warns(DataWarning) as told:
        ((video,), _) = load_split(f"vspw:{tmp_path}", "train")
    assert [frame.name for frame in video.frames] == ["0", "2"]
    assert video.labelled == (0, 1)
    assert len(told) == 1


def test_a_video_file_that_is_a_link_to_nothing_is_told_and_left_out(tmp_path: Path) -> None:
    picture(tmp_path / "videos/a/1.jpg")
    picture(tmp_path / "videos/folder.mp4/1.jpg")  # a folder, whatever it is called
    os.symlink("gone.mp4", tmp_path / "videos/b.mp4")
    text(tmp_path / "classes.yaml", "1: road")
    with pytest.warns(DataWarning, match=r"b\.mp4: a link to a file that is not there; this video is left out"):
        videos, _ = load_split(f"folder:{tmp_path}", "train")
    assert [(video.name, len(video.frames)) for video in videos] == [("a", 1), ("folder.mp4", 1)]


def test_links_in_circles_end(tmp_path: Path) -> None:
    mask(tmp_path / "masks/a/1.png")
    os.symlink("..", tmp_path / "masks/a/up")
    os.symlink(".", tmp_path / "masks/self")
    mask(tmp_path / "elsewhere/2.png")
    os.symlink("../elsewhere", tmp_path / "masks/b")
    assert list(list_masks(tmp_path / "masks", nested=True)) == ["a/1", "b/2"]


def test_names_beyond_ascii_and_endings_in_capitals(tmp_path: Path) -> None:
    name = "Straße 视频"
    for i in (1, 2):
        picture(tmp_path / f"videos/{name}/é{i}.JPG")
    mask(tmp_path / f"masks/{name}/é2.PNG")
    text(tmp_path / "classes.yaml", "1: road")
    (tmp_path / "train.txt").write_text(f"\ufeff{name}\r\n", encoding="utf-8")  # as Windows' editors save it
    ((video,), _) = load_split(f"folder:{tmp_path}", "train")
    assert (video.name, video.labelled) == (name, (1,))


def test_a_split_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    picture(tmp_path / "videos/a/1.jpg")
    text(tmp_path / "classes.yaml", "1: road")
    few = (
        r"fewer than two labelled videos to hold one out; take --split train or all, or write one video name per line$"
    )
    with pytest.raises(InputError, match=few):
        load_split(tmp_path, "val")
    with pytest.raises(NoSuchSplit, match=r"vall\.txt: expected a list .* found no file; take --split train or all"):
        load_split(tmp_path, "vall")
    text(tmp_path / "val.txt", "a")
    with pytest.raises(NoSuchSplit, match=r"test\.txt: .* take --split train or val or all, or write"):
        load_split(tmp_path, "test")


@pytest.mark.parametrize(
    ("spec", "files", "message"),
    [
        (
            "vspw",
            ("val.txt", "data/v/origin/1.jpg"),
            r"vall\.txt: expected a list .* take --split val or all, or write",
        ),
        ("camvid", ("trainannot/1.png", "train/1.png"), r"vall: expected .* take --split train, or check the path"),
        ("cityscapes", ("leftImg8bit/val/x",), r"leftImg8bit/vall: expected .* take --split val, or check the path"),
    ],
)
def test_published_data_sets_name_their_splits(tmp_path: Path, spec: str, files: list[str], message: str) -> None:
    for file in files:
        text(tmp_path / file, "v")
    with pytest.raises(NoSuchSplit, match=message):
        load_split(f"{spec}:{tmp_path}", "vall")


def test_training_without_a_val_list_says_how_to_do_without(tmp_path: Path) -> None:
    picture(tmp_path / "videos/a/1.jpg")
    mask(tmp_path / "masks/a/1.png")
    text(tmp_path / "classes.yaml", "1: road")
    data = ClipDataModule(str(tmp_path))
    with pytest.raises(InputError, match=r"one out; write one video name per line, or .*--data\.val_split null$"):
        _ = data.val_videos


def test_a_list_of_many_names_is_read_once(tmp_path: Path) -> None:
    names = [str(i) for i in range(60_000)]
    text(tmp_path / "train.txt", *names, "7")
    start = time.process_time()
    with pytest.warns(DataWarning, match="names listed twice, counted once: 7;"):
        assert read_list(tmp_path / "train.txt") == names
    assert time.process_time() - start < 5  # once for every name took a minute
