"""COCO-Stuff and ADE20K on disk, written small: raw ids, both forms of COCO's masks, splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.data.doctor import check
from everyframe.data.findings import DataWarning
from everyframe.data.layouts import CLASSES, LAYOUTS, SPLITS, load_split, recognise
from everyframe.data.mapping import mapping_between, read_mapping
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


# -- Mapillary Vistas -------------------------------------------------------------------------------------------------

STRICT = {
    "road": [13, 24, 41], "sidewalk": [2, 15], "building": [17], "wall": [6], "fence": [3], "pole": [45, 47],
    "traffic light": [48], "traffic sign": [50], "vegetation": [30], "terrain": [29], "sky": [27], "person": [19],
    "rider": [20, 21, 22], "car": [55], "truck": [61], "bus": [54], "train": [58], "motorcycle": [57], "bicycle": [52],
}  # fmt: skip
"""Ids of version 1.2 by the class of Cityscapes, as NVIDIA's semantic-segmentation maps them."""


@pytest.mark.parametrize("masks", ["labels", "v1.2/labels"])
def test_mapillary_as_published(masks: str, tmp_path: Path) -> None:
    picture(tmp_path / "training/images/a.jpg", (1, 4))
    picture(tmp_path / "testing/images/b.jpg", (1, 4))
    mask(tmp_path / f"training/{masks}/a.png", [[13, 65, 64, 0]])
    videos, space = load_split(f"mapillary:{tmp_path}", "train")
    labels = read_labels(videos[0], 0, space)
    assert labels is not None
    assert labels.tolist() == [[13, 255, 64, 0]]
    assert space.decode(labels).tolist() == [[13, 65, 64, 0]]
    assert (len(space), space.names[13], space.names[64]) == (65, "construction--flat--road", "void--ego-vehicle")
    assert load_split(f"mapillary:{tmp_path}", "test")[0][0].labelled == ()
    assert SPLITS["mapillary"](tmp_path) == ["train", "test"]
    assert recognise(tmp_path) == "mapillary"
    mask(tmp_path / f"training/{masks}/a.png", [[66, 0, 0, 0]])
    with pytest.raises(InputError, match="id 66 not in the class table"):
        read_labels(videos[0], 0, space)
    with pytest.raises(InputError, match=r"the pictures of Mapillary Vistas"):
        load_split(f"mapillary:{tmp_path}", "val")
    with pytest.raises(InputError, match="expected split train, val, test, came 'training'"):
        load_split(f"mapillary:{tmp_path}", "training")


def test_mapillary_goes_by_the_configuration_beside_it(tmp_path: Path) -> None:
    picture(tmp_path / "training/images/a.jpg", (1, 3))
    mask(tmp_path / "training/labels/a.png", [[0, 1, 2]])
    labels = [
        {"name": "nature--sky", "color": [70, 130, 180]},
        {"name": "void--unlabeled", "color": [0, 0, 0]},
        {"name": "object--bench", "color": [250, 0, 30]},
    ]
    (tmp_path / "config.json").write_text(json.dumps({"labels": labels}))
    videos, space = load_split(f"mapillary:{tmp_path}", "train")
    assert (space.names, space.palette) == (("nature--sky", "object--bench"), ((70, 130, 180), (250, 0, 30)))
    assert read_labels(videos[0], 0, space).tolist() == [[0, 255, 1]]
    (tmp_path / "config.json").write_text('{"labels": [{"name": "nature--sky"}]}')
    with pytest.raises(InputError, match=r"config\.json: expected the \"labels\" of Mapillary Vistas"):
        load_split(f"mapillary:{tmp_path}", "train")


def test_mapillary_classes_become_those_of_cityscapes() -> None:
    source, target = CLASSES["mapillary"](), CLASSES["cityscapes"]()
    table = mapping_between(("mapillary", source), ("cityscapes_sequence", target))
    assert table == {raw: target.names.index(name) for name, ids in STRICT.items() for raw in ids}
    liberal = read_mapping("mapillary_to_cityscapes_liberal", source, target)
    more = {source.names[i]: target.names[to] for i, to in liberal.items() if i not in table}
    assert {i for i in table if i not in liberal} == {41}  # manholes
    assert all(liberal[i] == to for i, to in table.items() if i != 41)
    assert more == {
        "construction--barrier--guard-rail": "fence", "construction--flat--bike-lane": "road",
        "construction--flat--crosswalk-plain": "road", "construction--flat--parking": "road",
        "construction--flat--rail-track": "road", "construction--flat--service-lane": "road",
        "marking--crosswalk-zebra": "road", "construction--flat--curb-cut": "sidewalk",
        "construction--flat--pedestrian-area": "sidewalk", "construction--structure--bridge": "building",
        "construction--structure--tunnel": "building", "nature--sand": "terrain", "nature--snow": "terrain",
        "object--support--traffic-sign-frame": "traffic sign",
    }  # fmt: skip
