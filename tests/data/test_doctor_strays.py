"""What `data check` says of masks in the wrong place, of names and of what it holds out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from doctor_sets import H, W, ids, noise, problems, save
from rich.console import Console

from everyframe.data.check_report import print_report
from everyframe.data.doctor import check


def test_masks_that_belong_to_no_video_are_listed(root: Path) -> None:
    (root / "masks/a").rename(root / "masks/as")
    save(root / "masks/b.mp4/0.png", ids(1))
    save(root / "masks/9.png", ids(1))
    found = {Path(f.files[0]).name: (f.what, f.fix) for f in check(root).errors if f.files}
    assert found["9.png"][0] == "a mask that lies in the folder of no video"
    for name, meant in (("as", "a"), ("b.mp4", "b")):
        what, fix = found[name]
        assert what == "a folder of masks, but no video of that name"
        assert fix.startswith(f"did you mean {meant}? ")


def test_no_labelled_frame_names_the_polygons(root: Path) -> None:
    (root / "masks/a/1.png").unlink()
    (root / "masks/a/1.json").write_text('{"shapes": []}')
    report = check(root)
    (finding,) = [f for f in report.errors if f.what == "no labelled frame in split train"]
    assert "masks/a/1.json: polygons are not read; export CVAT 'Segmentation mask 1.1'" in finding.fix
    assert problems(report, "warning")["a file of polygons among the masks, left out"] == ["1.json"]


def test_a_mask_of_a_rotated_frame_says_so(root: Path) -> None:
    save(root / "masks/a/0.png", np.ones((W, H), np.uint8))
    save(root / "masks/a/2.png", np.ones((W, H + 1), np.uint8))
    fixes = {Path(f.files[0]).name: f.fix for f in check(root).errors}
    assert fixes["0.png"].startswith("the frame is shown rotated: rotate the mask by 90 degrees")
    assert fixes["2.png"].startswith("resize the mask")


def test_the_videos_that_the_rule_holds_out_are_named(root: Path) -> None:
    assert check(root).held_out == []
    for name in ("train.txt", "val.txt"):
        (root / name).unlink()
    report = check(root)
    assert report.held_out == ["a"]  # md5("a") = 0cc175... < md5("b") = 92eb5f...
    assert report.to_dict()["held_out_by_rule"] == ["a"]
    console = Console(width=80, file=io.StringIO(), record=True)
    print_report(report, console)
    assert "val (held out by rule): a\n" in console.export_text()


def test_folders_of_splits_are_no_rule(tmp_path: Path) -> None:
    for i, split in enumerate(("train", "val")):
        save(tmp_path / f"images/{split}/{i}.jpg", noise(i))
        save(tmp_path / f"masks/{split}/{i}.png", ids(1))
    (tmp_path / "classes.yaml").write_text("1: road\n")
    assert check(f"images:{tmp_path}").held_out == []
    for split in ("train", "val"):
        for home in ("images", "masks"):
            (tmp_path / home / split).rename(tmp_path / home / f"{split}_day")
    assert len(check(f"images:{tmp_path}").held_out) == 1


def test_placeholder_names_are_told(root: Path) -> None:
    (root / "classes.yaml").write_text("0: class_0\n1: class_1\n2: class_3\n3: boat\n")
    assert "classes that nobody named: class_0, class_1" in problems(check(root), "warning")


def test_an_export_of_cvat_without_its_labelmap(root: Path) -> None:
    save(root / "masks/c/SegmentationClass/0.png", noise(1))
    ((what, files),) = problems(check(root)).items()
    assert "labelmap.txt, which says what their colours mean, is missing" in what
    assert files == ["0.png"]
