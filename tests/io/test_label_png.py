from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.errors import InputError
from everyframe.io.label_png import read_label, read_raw, write_label
from everyframe.labels import LabelSpace

SPACE = LabelSpace(
    ("road", "car", "tree"),
    palette=((128, 64, 128), (0, 0, 142), (107, 142, 35)),
    raw_to_train={0: 255, 7: 0, 26: 1, 21: 2, 255: 255},
)
LABELS = np.array([[0, 1, 2], [255, 2, 0]], np.uint8)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    """Also at odd sizes, one pixel, all ids, and at every compression level."""
    wide = LabelSpace(tuple(f"c{i}" for i in range(255)))
    rng = np.random.default_rng(0)
    for size in ((1, 1), (3, 5), (480, 853)):
        labels = rng.integers(0, 256, size, np.uint8)
        for raw in (True, False):
            write_label(tmp_path / "a.png", labels, wide, raw=raw)
            assert np.array_equal(read_label(tmp_path / "a.png", wide), labels)
    for level in (0, 1, 9):
        write_label(tmp_path / "a.png", LABELS, SPACE, compress_level=level)
        assert np.array_equal(read_label(tmp_path / "a.png", SPACE, (2, 3)), LABELS)


def test_files_hold_raw_ids_in_the_class_colours(tmp_path: Path) -> None:
    write_label(tmp_path / "a.png", LABELS, SPACE)
    assert read_raw(tmp_path / "a.png").tolist() == [[7, 26, 21], [255, 21, 7]]
    shown = np.array(Image.open(tmp_path / "a.png").convert("RGB"))
    assert shown[0].tolist() == [list(color) for color in SPACE.palette]
    assert shown[1, 0].tolist() == [0, 0, 0]


def test_train_ids_on_request(tmp_path: Path) -> None:
    write_label(tmp_path / "a.png", LABELS, SPACE, raw=False)
    assert read_raw(tmp_path / "a.png").tolist() == LABELS.tolist()
    shown = np.array(Image.open(tmp_path / "a.png").convert("RGB"))
    assert shown[0].tolist() == [list(color) for color in SPACE.palette]


def test_grey_sixteen_bit_and_colour_masks(tmp_path: Path) -> None:
    raw = np.array([[7, 26], [21, 0]])
    want = [[0, 1], [2, 255]]
    Image.fromarray(raw.astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(raw.astype(np.uint16)).save(tmp_path / "deep.png")
    assert read_label(tmp_path / "grey.png", SPACE).tolist() == want
    assert read_label(tmp_path / "deep.png", SPACE).tolist() == want
    colors = LabelSpace(SPACE.names, SPACE.palette, SPACE.raw_to_train, {(255, 0, 0): 7, (0, 255, 0): 26})
    rgb = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    Image.fromarray(rgb).convert("RGBA").save(tmp_path / "rgba.png")
    assert read_label(tmp_path / "rgb.png", colors).tolist() == [[0, 1]]
    assert read_label(tmp_path / "rgba.png", colors).tolist() == [[0, 1]]


def test_bad_masks_give_one_clear_line(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 3), 9, np.uint8)).save(tmp_path / "unknown.png")
    Image.new("F", (3, 2)).save(tmp_path / "float.tif")
    (tmp_path / "empty.png").touch()
    write_label(tmp_path / "good.png", LABELS, SPACE)
    cases = {
        "unknown.png": ("id 9 not in the class table", None),
        "float.tif": ("mode F; save it as a grey PNG", None),
        "empty.png": ("0 bytes", None),
        "missing.png": ("no file", None),
        "good.png": ("expected a mask of 4x4 pixels like its frame, came 3x2", (4, 4)),
    }
    for name, (expected, size) in cases.items():
        with pytest.raises(InputError, match=expected) as caught:
            read_label(tmp_path / name, SPACE, size)
        assert name in str(caught.value)


def test_unwritable_places(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected to write here, cannot"):
        write_label(tmp_path / "nowhere" / "a.png", LABELS, SPACE)
