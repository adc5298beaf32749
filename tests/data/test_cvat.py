from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.cli.__main__ import main
from everyframe.data.cvat import write_cvat
from everyframe.data.layouts import load_split
from everyframe.data.reading import read_labels
from everyframe.errors import InputError
from everyframe.io.label_png import write_label
from everyframe.labels import LabelSpace

SPACE = LabelSpace(("road", "car"), ((1, 2, 3), (4, 5, 6)), {0: 255, 7: 0, 9: 1})


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    """Two label maps as `everyframe predict` leaves them, in raw ids."""
    (tmp_path / "out/film").mkdir(parents=True)
    for index, row in enumerate(([0, 1, 255], [1, 1, 0])):
        write_label(tmp_path / f"out/film/{index:08d}.png", np.array([row], np.uint8), SPACE)
    SPACE.save(tmp_path / "out/labels.json")
    return tmp_path / "out/film"


def test_the_folder_above_and_a_folder_of_its_own(
    predicted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "cvat", str(tmp_path / "out"), str(tmp_path / "film.zip")]) == 1
    assert f"came the folder of 1 video (film); give that of one: {predicted}" in capsys.readouterr().err
    (tmp_path / "out/labels.json").unlink()
    assert main(["data", "cvat", str(predicted), str(tmp_path / "film.zip")]) == 1
    assert "found no file; give the folder of one video" in capsys.readouterr().err


def test_round_trip(predicted: Path, tmp_path: Path) -> None:
    """Predictions into a CVAT archive, and that archive read again as training data."""
    out = tmp_path / "film.zip"
    assert main(["data", "cvat", str(predicted), str(out), "--names", "frame_{:06d}"]) == 0
    with zipfile.ZipFile(out) as archive:
        assert archive.read("ImageSets/Segmentation/default.txt").decode().split() == ["frame_000000", "frame_000001"]
        archive.extractall(tmp_path / "again")
    for index in range(2):
        (tmp_path / "again/JPEGImages").mkdir(exist_ok=True)
        Image.new("RGB", (3, 1)).save(tmp_path / f"again/JPEGImages/frame_{index:06d}.jpg")
    (tmp_path / "again/classes.yaml").write_text("0: {name: background, ignore: true}\n1: road\n2: car\n")
    (video,), space = load_split(tmp_path / "again", "all")
    assert space.names == SPACE.names
    assert [read_labels(video, i, space).tolist() for i in range(2)] == [[[0, 1, 255]], [[1, 1, 0]]]  # type: ignore[union-attr]


def test_background_is_black(predicted: Path, tmp_path: Path) -> None:
    space = LabelSpace(("background", "car"), ((1, 2, 3), (4, 5, 6)), SPACE.raw_to_train)
    assert write_cvat(predicted, tmp_path / "o.zip", space) == 2
    with zipfile.ZipFile(tmp_path / "o.zip") as archive:
        assert archive.read("labelmap.txt").decode().splitlines()[1:] == ["background:0,0,0::", "car:4,5,6::"]
        with archive.open("SegmentationClass/00000000.png") as file:
            assert np.asarray(Image.open(file))[0].tolist() == [[0, 0, 0], [4, 5, 6], [0, 0, 0]]


def test_what_cannot_be(predicted: Path, tmp_path: Path) -> None:
    black = LabelSpace(("road", "car"), ((0, 0, 0), (4, 5, 6)), SPACE.raw_to_train)
    with pytest.raises(InputError, match="other than black"):
        write_cvat(predicted, tmp_path / "o.zip", black)
    alike = LabelSpace(("road", "car"), ((4, 5, 6), (4, 5, 6)), SPACE.raw_to_train)
    with pytest.raises(InputError, match=r"car: expected a colour of its own, .* came that of road"):
        write_cvat(predicted, tmp_path / "o.zip", alike)
    with pytest.raises(InputError, match="pattern such as"):
        write_cvat(predicted, tmp_path / "o.zip", SPACE, names="frame_{}_{}")
    with pytest.raises(
        InputError, match="00000001: expected a name of its own in CVAT, came frame, which 00000000 has"
    ):
        write_cvat(predicted, tmp_path / "o.zip", SPACE, names="frame")
    with pytest.raises(InputError, match="expected to write here, cannot"):
        write_cvat(predicted, tmp_path / "no/o.zip", SPACE)
    before = sorted(tmp_path.iterdir())
    (predicted / "zzz.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="do not decode"):
        write_cvat(predicted, tmp_path / "o.zip", SPACE)
    assert sorted(tmp_path.iterdir()) == before  # half a zip would be imported without a complaint
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found none"):
        write_cvat(tmp_path / "empty", tmp_path / "o.zip", SPACE)
