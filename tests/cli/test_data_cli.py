from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.cli.__main__ import main
from everyframe.data.layouts import load_split


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        (tmp_path / "masks" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((4, 5, 3), 50 * i + len(name), np.uint8)).save(tmp_path / f"videos/{name}/{i}.jpg")
    Image.fromarray(np.array([[0, 1, 2, 2, 255]] * 4, np.uint8)).save(tmp_path / "masks/a/0.png")
    Image.fromarray(np.array([[1, 1, 1, 1, 255]] * 4, np.uint8)).save(tmp_path / "masks/b/1.png")
    return tmp_path


def test_init_then_check(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(root)]) == 1
    printed = capsys.readouterr().out
    assert "everyframe data init" in printed
    assert "no masks" not in printed, "there are two"
    assert main(["data", "init", str(root)]) == 0
    lines = (root / "classes.yaml").read_text().splitlines()[2:]
    assert lines[0].startswith("0: class_0  # 10.00 % of the pixels, in 1 of 2 masks; write `ignore`")
    assert lines[1].startswith("1: class_1  # 50.00 % of the pixels, in 2 of 2 masks")
    assert lines[3].startswith("255: ignore  # 20.00 %")
    assert main(["data", "check", str(root), "--json", str(root / "report.json")]) == 0
    assert "fit for training" in capsys.readouterr().out
    assert json.loads((root / "report.json").read_text())["ok"] is True
    assert main(["data", "init", str(root)]) == 1
    assert "add the ids that it lacks with --force" in capsys.readouterr().err
    assert main(["data", "init", str(root), "--force"]) == 0


def test_check_fails_on_one_bad_id(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "classes.yaml").write_text("0: sky\n1: road\n255: ignore\n")
    assert main(["data", "check", f"folder:{root}"]) == 1
    out = capsys.readouterr().out
    assert "id 2 is not in the class table (8 pixels)" in out
    assert str(root / "masks/a/0.png") in out
    held_out = load_split(root, "val")[0][0].name
    assert main(["data", "check", str(root), "--split", "train" if held_out == "a" else "val"]) == 0


def test_init_of_colours(root: Path) -> None:
    for path in root.glob("masks/*/*.png"):
        rgb = np.zeros((4, 5, 3), np.uint8)
        rgb[1:] = (7, 8, 9)
        Image.fromarray(rgb).save(path)
    assert main(["data", "init", str(root)]) == 0
    _, space = load_split(root, "all")
    assert space.colors == {(0, 0, 0): 0, (7, 8, 9): 1}
    assert main(["data", "check", str(root)]) == 0


def test_init_of_palette_masks_takes_their_colours(root: Path) -> None:
    colors = [(0, 0, 0), (128, 64, 128), (0, 0, 142), (0, 0, 142)]  # 2 and 3 share theirs
    for path, ids in ((root / "masks/a/0.png", (0, 1, 2, 3)), (root / "masks/b/1.png", (1, 1, 2, 3))):
        picture = Image.fromarray(np.array([[*ids, 255]] * 4, np.uint8))
        picture.putpalette([value for color in [*colors, *[(224, 224, 192)] * 252] for value in color])
        picture.save(path)
    assert main(["data", "init", str(root)]) == 0
    _, space = load_split(root, "all")
    assert space.colors == {(0, 0, 0): 0, (128, 64, 128): 1, (224, 224, 192): 255}
    assert space.palette[space.names.index("class_1")] == (128, 64, 128)
    assert space.raw_to_train[255] == 255
    assert main(["data", "check", str(root)]) == 0


def test_init_of_palettes_that_differ_or_are_grey_takes_none(root: Path) -> None:
    ids = np.array([[0, 1]] * 4, np.uint8)
    for ramp in (True, False):
        for turn, path in enumerate((root / "masks/a/0.png", root / "masks/b/1.png")):
            picture = Image.fromarray(ids)
            other = [(9, 9, 9 + turn), (7, 7, 7 + turn)]
            picture.putpalette([v for i in range(256) for v in ((i, i, i) if ramp else other[i % 2])])
            picture.save(path)
        assert main(["data", "init", str(root), "--force"]) == 0
        assert "color" not in (root / "classes.yaml").read_text()


def test_init_of_a_cvat_export(root: Path) -> None:
    (root / "masks/labelmap.txt").write_text('background:0,0,0::\nno "quotes": really:1,2,3::\nvoid:4,5,6::\n')
    assert main(["data", "init", str(root)]) == 0
    _, space = load_split(root, "all")
    assert space.names == ("background", 'no "quotes": really')


def test_init_of_foreground_255(root: Path) -> None:
    for path in root.glob("masks/*/*.png"):
        Image.fromarray(np.array([[0, 255]] * 4, np.uint8)).save(path)
    assert main(["data", "init", str(root)]) == 0
    assert "255: class_255" in (root / "classes.yaml").read_text()


def test_one_line_for_what_cannot_be(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["check", str(root / "gone")],
        ["check", f"vpsw:{root}"],
        ["init", str(root / "videos")],
        ["init", str(root / "gone")],
        ["check", str(root), "--json", str(root / "no/folder/report.json")],
    ):
        assert main(["data", *arguments]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("everyframe data: ")
        assert "expected" in line


def test_help_names_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", "--help"])
    assert stopped.value.code == 0
    assert "check" in capsys.readouterr().out


def test_init_again_keeps_the_names_that_somebody_wrote(root: Path) -> None:
    (root / "classes.yaml").write_text('0: ignore\n1: class_1\n2: {name: "a: car", color: [1, 2, 3]}\n9: boat\n')
    assert main(["data", "init", str(root), "--force"]) == 0
    lines = (root / "classes.yaml").read_text().splitlines()[2:]
    assert lines[:3] == [
        '0: {name: "ignore", ignore: true}',
        '2: {name: "a: car", color: [1, 2, 3]}',
        '9: {name: "boat"}',
    ]
    assert [line.partition("  #")[0] for line in lines[3:]] == ["1: class_1", "255: ignore"]
    _, space = load_split(root, "all")
    assert space.names == ("class_1", "a: car", "boat")
    assert space.colors == {(1, 2, 3): 2}
    (root / "classes.yaml").write_text("\n")
    assert main(["data", "init", str(root), "--force"]) == 0
    (root / "classes.yaml").write_text("1: [\n")  # names may be in there
    assert main(["data", "init", str(root), "--force"]) == 1


def test_init_again_keeps_the_names_beside_colours_and_a_labelmap(root: Path) -> None:
    for path in root.glob("masks/*/*.png"):
        Image.fromarray(np.full((4, 5, 3), (7, 8, 9), np.uint8)).save(path)
    assert main(["data", "init", str(root)]) == 0
    (root / "classes.yaml").write_text("4: {name: road, color: [7, 8, 9]}\n")
    rgb = np.full((4, 5, 3), (7, 8, 9), np.uint8)
    rgb[0] = 5
    Image.fromarray(rgb).save(root / "masks/a/0.png")
    assert main(["data", "init", str(root), "--force"]) == 0
    assert load_split(root, "all")[1].colors == {(5, 5, 5): 0, (7, 8, 9): 4}
    (root / "masks/labelmap.txt").write_text("background:0,0,0::\nroad:7,8,9::\nstreet:5,5,5::\n")
    (root / "classes.yaml").write_text("0: {name: background, ignore: true}\n4: {name: road, color: [5, 5, 5]}\n")
    assert main(["data", "init", str(root), "--force"]) == 0
    assert load_split(root, "all")[1].names == ("street", "road")


def test_init_without_masks_names_the_polygons(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in root.glob("masks/*/*.png"):
        path.unlink()
    (root / "masks/a/0.json").write_text('{"shapes": []}')
    assert main(["data", "init", str(root)]) == 1
    assert "masks/a/0.json: polygons are not read; export CVAT" in capsys.readouterr().err
