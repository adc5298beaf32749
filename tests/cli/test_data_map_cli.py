"""`everyframe data map`: the published numbers, counted pixels, a mapping to start from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.cli.__main__ import main


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVERYFRAME_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    """Two masks of 10 pixels: 9 wall and 1 base; 5 wall, 3 fountain, 2 other. Base and fountain have no target."""
    for n, ids in enumerate([[1] * 9 + [41], [1] * 5 + [105] * 3 + [0] * 2]):
        for folder in ("images", "annotations"):
            (tmp_path / "ade" / folder / "training").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 1)).save(tmp_path / f"ade/images/training/{n}.jpg")
        Image.fromarray(np.array([ids], np.uint8)).save(tmp_path / f"ade/annotations/training/{n}.png")
    return tmp_path / "ade"


def test_numbers_of_both_sources_and_of_their_union(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "map", "coco_stuff", "ade20k", "vspw"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "coco_stuff -> vspw: 159 of 171 classes mapped onto 89 of 124"
    assert lines[1].startswith("  not mapped (12): fire hydrant, skis, snowboard")
    assert lines[2] == "ade20k -> vspw: 142 of 150 classes mapped onto 85 of 124"
    assert lines[3] == "  not mapped (8): base, fireplace, awning, stage, fountain, canopy, tank, shower"
    assert lines[4].startswith("106 of 124 classes of vspw have a source; not reached (18): ladder, Playground_slide")


@pytest.mark.parametrize("named", [["ade20k", "--data", "ade20k:{}"], ["ade20k:{}@train"], ["ade20k:{}"]])
def test_pixels_and_images(named: list[str], ade: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, *data = [word.format(ade) for word in named]
    assert main(["data", "map", source, "vspw", *data, "--json", str(tmp_path / "report.json")]) == 0
    out = capsys.readouterr().out
    assert "pixels: 70.00% mapped, 20.00% of classes not mapped, 10.00% unlabelled" in out
    assert "images: 1 of 2 (50.0%) have a class in more than 80% of their pixels" in out
    report = json.loads((tmp_path / "report.json").read_text())
    (only,) = report["sources"]
    assert only["pixels"]["lost"] == pytest.approx({"fountain": 0.15, "base": 0.05})
    assert list(only["pixels"]["lost"]) == ["fountain", "base"]
    assert only["pixels"]["gained"] == pytest.approx({"wall": 0.7})
    assert only["mapped"]["wall"] == "wall"
    assert len(report["unreached"]) == 124 - 85


def test_effective_is_the_option_of_the_same_name(ade: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "map", f"ade20k:{ade}", "vspw", "--effective", "0.4"]) == 0
    assert "images: 2 of 2 (100.0%) have a class in more than 40%" in capsys.readouterr().out
    assert main(["data", "map", f"ade20k:{ade}", "vspw", "--effective", "80"]) == 1
    assert "expected effective: a share of pixels in [0, 1), came 80" in capsys.readouterr().err


def test_a_mapping_to_start_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.csv"
    assert main(["data", "map", "camvid", "cityscapes", "--write", str(path)]) == 0
    assert "camvid -> cityscapes: 6 of 11 classes mapped" in capsys.readouterr().out.replace("\n", " ")
    assert "3,road,0,road" in path.read_text().splitlines()
    path.write_text(path.read_text().replace("4,pavement,,", "4,pavement,1,sidewalk"))
    assert main(["data", "map", "camvid", "cityscapes", "--mapping", str(path)]) == 0
    assert "camvid -> cityscapes: 7 of 11 classes mapped onto 7 of 19\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["coco", "vspw"], "coco: expected LAYOUT:ROOT, or a layout with known classes"),
        (["coco_stuff:gone", "vspw"], "expected the folder of a data set"),
        (["coco_stuff", "vspw", "--mapping", "gone.csv"], "gone.csv: expected a mapping"),
        (["coco_stuff", "vspw", "--mapping", "a", "--mapping", "b"], "came more"),
        (["coco_stuff", "ade20k", "vspw", "--write", "x.csv"], "--write: expected one SOURCE"),
        (["coco_stuff", "vspw", "--write", "no/folder/x.csv"], "no/folder"),
    ],
)
def test_one_line_for_what_cannot_be(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "map", *arguments]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("everyframe data: ")
    assert message in line
