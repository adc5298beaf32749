from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.predictions import SavedPredictions, foreign_classes, table_by_name
from everyframe.errors import InputError
from everyframe.labels import LabelSpace

SPACE = LabelSpace(("road", "car", "sky"), raw_to_train={0: 255, 1: 0, 2: 1, 3: 2, 255: 255})
VIDEO = VideoRef("v", tuple(FrameRef(i, f"f{i}", label=Path(f"f{i}.png") if i != 1 else None) for i in range(3)))


def write(folder: Path, name: str, ids: list[list[int]]) -> None:
    (folder / "v").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(ids, np.uint8)).save(folder / "v" / f"{name}.png")


def test_raw_and_train_ids_read_to_the_same(tmp_path: Path) -> None:
    write(tmp_path / "raw", "f0", [[1, 2, 3, 0]])
    write(tmp_path / "train", "f0", [[0, 1, 2, 255]])
    raw = SavedPredictions(tmp_path / "raw", SPACE).read(VIDEO, VIDEO.frames[0])
    train = SavedPredictions(tmp_path / "train", SPACE, "train").read(VIDEO, VIDEO.frames[0])
    np.testing.assert_array_equal(raw, [[0, 1, 2, 255]])
    np.testing.assert_array_equal(train, raw)


def test_labels_json_of_another_order_is_matched_by_name(tmp_path: Path) -> None:
    write(tmp_path, "f0", [[10, 20, 30]])
    LabelSpace(("Sky", "bus", "road"), raw_to_train={10: 0, 20: 1, 30: 2}).save(tmp_path / "labels.json")
    saved = SavedPredictions(tmp_path, SPACE)
    np.testing.assert_array_equal(saved.read(VIDEO, VIDEO.frames[0]), [[2, 255, 0]])
    (note,) = saved.notes
    assert "no class for car" in note
    assert saved.foreign == f"bus, which {tmp_path / 'labels.json'} has and the data do not"


def test_missing_lists_labelled_frames_only(tmp_path: Path) -> None:
    write(tmp_path, "f0", [[1]])
    saved = SavedPredictions(tmp_path, SPACE)
    assert saved.missing([VIDEO, VideoRef("w", VIDEO.frames)]) == {"v": ["f2"], "w": ["f0", "f2"]}


def test_unknown_id_names_file_id_and_the_option(tmp_path: Path) -> None:
    write(tmp_path, "f0", [[7]])
    with pytest.raises(InputError, match=r"f0\.png: id 7 not in the class table.*--pred-ids train"):
        SavedPredictions(tmp_path, SPACE).read(VIDEO, VIDEO.frames[0])


def test_missing_folder_and_foreign_classes_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of predictions"):
        SavedPredictions(tmp_path / "nowhere", SPACE)
    with pytest.raises(
        InputError, match=r"expected classes of the data \(road, car, sky\), came 2 others \(cat, dog\)"
    ):
        table_by_name(LabelSpace(("cat", "dog")), SPACE, "model m")


def test_names_match_whatever_their_spelling() -> None:
    table, notes = table_by_name(LabelSpace(("Traffic-Light", " road")), LabelSpace(("road", "traffic_light")), "m")
    assert table[:3].tolist() == [1, 0, 255]
    assert notes == []
    assert foreign_classes(LabelSpace(("Traffic-Light",)), LabelSpace(("road", "traffic_light")), "m") == ""


def test_classes_that_differ_in_spelling_alone_stay_apart() -> None:
    space = LabelSpace(("Car", "car", "road"))
    table, notes = table_by_name(space, space, "m")
    assert table[:4].tolist() == [0, 1, 2, 255]
    assert notes == []
    table, notes = table_by_name(LabelSpace(("CAR", "Road")), space, "m")  # CAR may be either
    assert table[:2].tolist() == [255, 2]
    assert "no class for Car, car" in notes[0]
    assert foreign_classes(space, LabelSpace(("car", "road")), "m") == "Car, which m has and the data do not"
