from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.cli.__main__ import main
from everyframe.data.layouts import load_split
from everyframe.data.submission import check_submission, write_submission
from everyframe.errors import InputError
from everyframe.io.label_png import write_label
from everyframe.labels import LabelSpace

CLASSES = '{"0": "void", "1": "road", "2": "car", "3": "sky"}'
SPACE = LabelSpace(("sky", "road", "car"), raw_to_train={0: 255, 7: 0, 8: 1, 9: 2})  # another order, other raw ids


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """VSPW test split without masks: video a of two frames, b of one; and predictions of all of them."""
    rng = np.random.default_rng(0)
    for video, frames in (("a", 2), ("b", 1)):
        (tmp_path / "data" / "data" / video / "origin").mkdir(parents=True)
        (tmp_path / "labels" / video).mkdir(parents=True)
        for i in range(frames):
            Image.new("RGB", (9, 5)).save(tmp_path / "data" / "data" / video / "origin" / f"{i}.png")
            ids = rng.integers(0, 3, (5, 9)).astype(np.uint8)
            write_label(tmp_path / "labels" / video / f"{i}.png", ids, SPACE)
    (tmp_path / "data" / "test.txt").write_text("a\nb\n")
    (tmp_path / "data" / "classes.json").write_text(CLASSES)
    SPACE.save(tmp_path / "labels" / "labels.json")
    return tmp_path


def arguments(root: Path, out: str) -> list[str]:
    return ["data", "submission", str(root / "labels"), str(root / out), "--data", f"vspw:{root / 'data'}"]


def test_zip_holds_the_data_sets_ids_and_nothing_else(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "labels" / "a.confidence").mkdir()
    Image.new("L", (9, 5), 200).save(root / "labels" / "a.confidence" / "0.png")
    assert main(arguments(root, "out.zip")) == 0
    assert "3 label maps of 2 videos" in capsys.readouterr().out
    with zipfile.ZipFile(root / "out.zip") as archive:
        assert sorted(archive.namelist()) == ["a/0.png", "a/1.png", "b/0.png"]
        for name in archive.namelist():
            with Image.open(io.BytesIO(archive.read(name))) as picture:
                got, mode = np.array(picture), picture.mode
            raw = np.array(Image.open(root / "labels" / name))
            assert mode == "P"
            assert np.array_equal(got, np.select([raw == 8, raw == 9, raw == 7], [0, 1, 2]))
    assert write_submission(root / "labels", root / "folder") == (2, 3)
    assert np.array_equal(
        np.array(Image.open(root / "folder/b/0.png")) + 7, np.array(Image.open(root / "labels/b/0.png"))
    )


def test_incomplete_or_wrong_label_maps_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "labels" / "b" / "0.png"
    for labels, message in (
        (np.zeros((4, 9), np.uint8), "expected a mask of 9x5 pixels"),
        (np.array([[0] * 9] * 4 + [[255] * 9], np.uint8), "9 have none of the 3 classes"),
        (None, "1 of 3 are missing: b/0.png"),
    ):
        if labels is None:
            path.unlink()
        else:
            write_label(path, labels, SPACE)
        assert main(arguments(root, "out.zip")) == 1
        assert message in capsys.readouterr().err
        assert [p.name for p in root.iterdir() if "out.zip" in p.name] == []


def test_reading_back_finds_what_is_wrong(root: Path) -> None:
    out = root / "out.zip"
    write_submission(root / "labels", out)
    with pytest.raises(InputError, match=r"expected ids 0..1, came 2"):
        check_submission(out, 2)
    with pytest.raises(InputError, match=r"missing: c/0.png; not expected: a/0.png, a/1.png, b/0.png"):
        check_submission(out, 3, {"c/0.png": None})
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("labels.json", "{}")
    with pytest.raises(InputError, match=r"nothing else, came labels.json"):
        check_submission(out, 3)
    out.write_bytes(out.read_bytes()[:30])
    with pytest.raises(InputError, match="cannot read it"):
        check_submission(out, 3)
    with pytest.raises(InputError, match="new or empty folder"):
        write_submission(root / "labels", root / "labels")


def test_frames_that_exif_turns_have_upright_label_maps(root: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    frame = root / "data" / "data" / "b" / "origin" / "0.png"
    frame.unlink()
    Image.new("RGB", (5, 9)).save(frame.with_suffix(".jpg"), exif=turned)  # lies; `predict` labels it as 9x5
    assert write_submission(root / "labels", root / "out.zip", expected=load_split(f"vspw:{root / 'data'}", "test"))
