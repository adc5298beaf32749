"""COCO-Stuff and ADE20K on disk, written small: raw ids, both forms of COCO's masks, splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.data.doctor import check
from everyframe.data.findings import DataWarning
from everyframe.data.layouts import CLASSES, LAYOUTS, load_split, recognise
from everyframe.data.mapping_report import report_mapping
from everyframe.data.reading import read_frame, read_labels
from everyframe.errors import InputError


def picture(path: Path, size: tuple[int, int] = (3, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def mask(path: Path, rows: list[list[int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, np.uint8)).save(path)


def test_coco_stuff_as_published(tmp_path: Path) -> None:
    for name in ("000000000009", "000000000025"):
        picture(tmp_path / f"images/train2017/{name}.jpg", (1, 4))
    # person is 0 in both counts; tv is 71 of 182 and 62 of 171; wood 181 and 170; 11 (street sign) is never used.
    mask(tmp_path / "annotations/train2017/000000000009.png", [[0, 71, 181, 255]])
    mask(tmp_path / "annotations/train2017/000000000025.png", [[11, 0, 0, 0]])
    videos, space = load_split(f"coco_stuff:{tmp_path}", "train")
    assert [(video.name, len(video.frames)) for video in videos] == [("000000000009", 1), ("000000000025", 1)]
    assert len(space) == 171
    labels = read_labels(videos[0], 0, space)
    assert labels is not None
    assert labels.tolist() == [[0, 62, 170, 255]]
    assert [space.names[i] for i in (0, 62, 170)] == ["person", "tv", "wood"]
    assert read_labels(videos[1], 0, space).tolist() == [[255, 0, 0, 0]]
    assert space.decode(labels).tolist() == [[0, 71, 181, 255]]
    assert recognise(tmp_path) == "coco_stuff"


def test_coco_stuff_of_171_ids(tmp_path: Path) -> None:
    picture(tmp_path / "val2017/000000000139.jpg", (1, 4))
    mask(tmp_path / "stuffthingmaps/val2017/000000000139_labelTrainIds.png", [[0, 62, 170, 255]])
    videos, space = load_split(f"coco_stuff:{tmp_path}", "val")
    assert read_labels(videos[0], 0, space).tolist() == [[0, 62, 170, 255]]
    assert space.names == CLASSES["coco_stuff"]().names
    mask(tmp_path / "stuffthingmaps/val2017/000000000139_labelTrainIds.png", [[171, 0, 0, 0]])
    with pytest.raises(InputError, match="id 171 not in the class table"):
        read_labels(videos[0], 0, space)
    # With both forms side by side the published one counts.
    mask(tmp_path / "stuffthingmaps/val2017/000000000139.png", [[181, 181, 181, 181]])
    videos, space = load_split(f"coco_stuff:{tmp_path}", "val")
    assert read_labels(videos[0], 0, space).tolist() == [[170] * 4]


def test_coco_stuff_without_masks_and_without_files(tmp_path: Path) -> None:
    picture(tmp_path / "images/unlabeled2017/1.jpg")
    videos, _ = load_split(f"coco_stuff:{tmp_path}", "unlabeled")
    assert [video.labelled for video in videos] == [()]
    picture(tmp_path / "images/train2017/2.jpg")
    with pytest.raises(InputError, match="COCO-Stuff's masks"):
        load_split(f"coco_stuff:{tmp_path}", "train")
    (tmp_path / "annotations/train2017").mkdir(parents=True)
    with pytest.raises(InputError, match="found none"):
        load_split(f"coco_stuff:{tmp_path}", "train")
    with pytest.raises(InputError, match="came 'trainval'"):
        load_split(f"coco_stuff:{tmp_path}", "trainval")
    mask(tmp_path / "annotations/train2017/3.png", [[0]])
    with pytest.warns(DataWarning) as told:
        videos, _ = load_split(f"coco_stuff:{tmp_path}", "train")
    assert [video.labelled for video in videos] == [()]
    assert ["without a mask" in str(told[0].message), "without its picture" in str(told[1].message)] == [True, True]


def test_ade20k(tmp_path: Path) -> None:
    picture(tmp_path / "images/training/ADE_train_00000001.jpg", (1, 4))
    mask(tmp_path / "annotations/training/ADE_train_00000001.png", [[0, 1, 2, 150]])
    picture(tmp_path / "images/testing/ADE_test_00000001.jpg")
    (tmp_path / "objectInfo150.txt").touch()
    videos, space = load_split(tmp_path, "train")
    assert recognise(tmp_path) == "ade20k"
    assert len(space) == 150
    assert read_labels(videos[0], 0, space).tolist() == [[255, 0, 1, 149]]
    assert [space.names[i] for i in (0, 1, 149)] == ["wall", "building", "flag"]
    assert read_frame(videos[0], 0).size == (1, 4)
    assert [video.labelled for video in load_split(tmp_path, "test")[0]] == [()]
    mask(tmp_path / "annotations/training/ADE_train_00000001.png", [[151, 0, 0, 0]])
    with pytest.raises(InputError, match="id 151 not in the class table"):
        read_labels(videos[0], 0, space)
    with pytest.raises(InputError, match="ADEChallengeData2016"):
        load_split(f"ade20k:{tmp_path}", "val")


@pytest.mark.parametrize("name", CLASSES)
def test_classes_known_without_data_belong_to_a_layout(name: str) -> None:
    assert name in LAYOUTS
    assert len(CLASSES[name]()) > 10


def test_each_split_is_read_by_the_form_of_its_own_masks(tmp_path: Path) -> None:
    """COCO's masks as published in train, reduced in val: wood is 181 in the one and 170 in the other."""
    for split, name in (("train", "1"), ("val", "2")):
        picture(tmp_path / f"images/{split}2017/{name}.jpg", (1, 4))
    mask(tmp_path / "annotations/train2017/1.png", [[181, 181, 0, 255]])
    mask(tmp_path / "annotations/val2017/2_labelTrainIds.png", [[170, 170, 0, 0]])
    report = check(f"coco_stuff:{tmp_path}")
    assert [finding.what for finding in report.errors] == []
    assert [dict(count.pixels) for count in report.splits.values()] == [{170: 2, 0: 1, 255: 1}, {170: 2, 0: 2}]
    pixels = report_mapping(f"coco_stuff:{tmp_path}@train+val", "vspw").pixels
    assert pixels is not None
    assert pixels.gained == {"wood": pytest.approx(4 / 8), "person": pytest.approx(3 / 8)}
