from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from PIL import Image

from everyframe.data.layouts import load_split
from everyframe.io.names import natural_key
from everyframe.io.sources import open_source


def test_numbers_sort_by_value() -> None:
    names = ["a10", "a2", "b1", "a02b", "A1", "10", "9", ""]
    assert sorted(names, key=natural_key) == ["", "9", "10", "A1", "a02b", "a2", "a10", "b1"]
    names = ["f10", "f2", "f1b", "f1a", "10", "9", "a10b2", "a10b10", "²"]
    assert sorted(names, key=natural_key) == ["9", "10", "a10b2", "a10b10", "f1a", "f1b", "f2", "f10", "²"]


def test_the_order_of_listing_never_shows() -> None:
    for names in permutations(["Shot1", "shot1", "SHOT1", "shot1b"]):
        assert sorted(names, key=natural_key) == ["SHOT1", "Shot1", "shot1", "shot1b"]


SEVERAL_NUMBERS = [
    ["cam2_000002.png", "cam2_000012.png", "cam10_000001.png"],
    ["2024-01-02_frame7.jpg", "2024-01-02_frame10.jpg", "2024-01-10_frame1.jpg", "2024-11-01_frame1.jpg"],
    ["shot1_take2_9.png", "shot1_take2_10.png", "shot1_take10_1.png", "shot2_take1_1.png"],
    ["v1_00000099999999999999.png", "v1_00000100000000000000.png"],
]


@pytest.mark.parametrize("names", SEVERAL_NUMBERS)
def test_the_last_of_several_numbers_counts_where_those_before_are_alike(names: list[str], tmp_path: Path) -> None:
    """Written down in the order in which they were taken; prediction and training read them in it."""
    for home in (tmp_path / "videos" / "drive", tmp_path / "data" / "drive" / "origin"):
        home.mkdir(parents=True)
        for name in reversed(names):
            Image.new("RGB", (4, 4)).save(home / name)
    stems = [Path(name).stem for name in names]
    (tmp_path / "train.txt").write_text("drive\n")
    (tmp_path / "classes.yaml").write_text("0: a\n1: b\n")
    (tmp_path / "classes.json").write_text('{"1": "a", "2": "b"}')
    assert [frame.name for frame in open_source(tmp_path / "videos" / "drive")] == stems
    assert [
        frame.name for frame in open_source(str(tmp_path / "videos" / "drive" / f"*{Path(names[0]).suffix}"))
    ] == stems
    for layout in ("folder", "vspw"):
        ((video,), _) = load_split(f"{layout}:{tmp_path}", "train")
        assert [frame.name for frame in video.frames] == stems
