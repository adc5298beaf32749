"""Class mappings: the published numbers of the ones in the package, and what is refused in the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everyframe.data.label_counts import LabelCounts
from everyframe.data.layouts import CLASSES
from everyframe.data.mapping import (
    PAIRS,
    Coverage,
    equal_names,
    mapping_between,
    packaged,
    read_mapping,
    unreached,
    write_mapping,
)
from everyframe.data.mapping_report import mapped_pixels, report_mapping
from everyframe.errors import InputError
from everyframe.labels import LabelSpace

FROM = LabelSpace(("cat", "dog", "car"))
ONTO = LabelSpace(("animal", "car", "road"))
NEITHER = [
    "ladder", "Playground_slide", "goal", "crosswalk", "windmill", "well_or_well_lid", "ice", "pipeline", "roadblock",
    "wheeled_machine", "raft", "tyre", "backboard", "fishbowl", "gun", "blackboard", "printer", "instrument",
]  # fmt: skip


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "map.csv"
    path.write_text(text, encoding="utf-8")
    return path


def coverage(source: str) -> Coverage:
    return report_mapping(source, "vspw").coverage


def test_numbers_of_the_mappings_onto_vspw() -> None:
    coco, ade = coverage("coco_stuff"), coverage("ade20k")
    assert (len(coco.source), len(coco.table), len(coco.reached)) == (171, 159, 89)
    assert (len(ade.source), len(ade.table), len(ade.reached)) == (150, 142, 85)
    assert len(coco.reached | ade.reached) == 106
    assert unreached([coco, ade], coco.target) == NEITHER
    assert coco.unmapped == [
        "fire hydrant", "skis", "snowboard", "baseball glove", "surfboard", "furniture-other", "metal", "paper",
        "plastic", "platform", "solid-other", "straw",
    ]  # fmt: skip
    assert ade.unmapped == ["base", "fireplace", "awning", "stage", "fountain", "canopy", "tank", "shower"]


def test_both_forms_of_coco_stuff_map_alike() -> None:
    source, target = CLASSES["coco_stuff"](), CLASSES["vspw"]()
    tables = [read_mapping(name, source, target) for name in ("coco_stuff_to_vspw", "coco_stuff_171_to_vspw")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_every_known_pair_has_its_file(pair: tuple[str, str]) -> None:
    source, target = ((name, CLASSES[name]()) for name in pair)
    assert packaged(PAIRS[pair]).is_file()
    assert len(mapping_between(source, target)) > 20


def test_mapped_ids() -> None:
    target = CLASSES["vspw"]()
    coco = CLASSES["coco_stuff"]()
    mapped = coco.mapped(target, coverage("coco_stuff").table)
    # raw 0 person -> 60, 10 fire hydrant has no target, 11 is never used, 255 stays ignored
    assert mapped.encode(np.array([[0, 10, 11, 255]], np.uint8)).tolist() == [[60, 255, 255, 255]]
    ade = CLASSES["ade20k"]().mapped(target, coverage("ade20k").table)
    # raw 1 wall -> 0, 2 building -> 21, 41 base has no target, 0 is "other"
    assert ade.encode(np.array([[1, 2, 41, 0]], np.uint8)).tolist() == [[0, 21, 255, 255]]


def test_names_decide_and_ids_alone_are_train_ids(tmp_path: Path) -> None:
    names = own(tmp_path, "source_id,source_name,my_id,my_name\n7,cat,9,animal\n,dog,,animal\n,car,,\n")
    assert read_mapping(names, FROM, ONTO) == {0: 0, 1: 0}
    ids = own(tmp_path, "\ufeffsource_id,target_id\n2,1\n0,0\n")
    assert read_mapping(ids, FROM, ONTO) == {2: 1, 0: 0}
    spaced = own(tmp_path, 'source_name , target_name\ncat, "animal"\ndog , animal\n')
    assert read_mapping(spaced, FROM, ONTO) == {0: 0, 1: 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "expected columns source_id or source_name"),
        ("source_id,one_id,two_id\n1,2,2\n", "expected columns"),
        ("", "came none"),
        ("source_name,target_name\ncta,animal\n", r"csv:2: .* came 'cta'; did you mean cat"),
        ("source_name,target_name\ncat,plant\n", "came 'plant'; correct the name"),
        ("source_id,target_id\n3,0\n", r"train id 0\.\.2"),
        ("source_id,target_id\n-1,0\n", r"train id 0\.\.2"),
        ("source_name,target_name\ncat,animal\ncat,car\n", "csv:3: expected one target for 'cat'"),
        ("source_name,target_name\ncat,\n", "at least one class with a target"),
    ],
)
def test_refused_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read_mapping(own(tmp_path, text), FROM, ONTO)
    assert "\n" not in str(raised.value)


def test_which_mapping_is_taken(tmp_path: Path) -> None:
    source, target = ("folder", FROM), ("vspw", ONTO)
    assert mapping_between(source, ("vspw", FROM)) == {0: 0, 1: 1, 2: 2}  # equal classes
    assert mapping_between(source, target, "names") == {2: 1}
    with pytest.raises(InputError, match=r"folder -> vspw: .*3 classes.*give mapping"):
        mapping_between(source, target)
    # A data set in VSPW's layout with classes of its own is not what COCO's known mapping is for.
    with pytest.raises(InputError, match="coco_stuff -> vspw: expected a mapping"):
        mapping_between(("coco_stuff", CLASSES["coco_stuff"]()), target)
    with pytest.raises(InputError, match="equal names"):
        mapping_between(source, ("vspw", LabelSpace(("x",))), "names")
    with pytest.raises(InputError, match="found no file"):
        mapping_between(source, target, str(tmp_path / "gone.csv"))
    write_mapping(tmp_path / "start.csv", FROM, ONTO, {2: 1})
    assert (tmp_path / "start.csv").read_text().splitlines()[1:] == ["0,cat,,", "1,dog,,", "2,car,1,car"]
    assert mapping_between(source, target, str(tmp_path / "start.csv")) == {2: 1}


def test_pixels_of_a_mapping() -> None:
    """Two label maps of 10 pixels: 8 cat, 1 car, 1 unlabelled; 2 dog, 5 car, 3 unlabelled. dog has no target."""
    counts = LabelCounts(((0, 0), (1, 0)), np.array([[8, 0, 1], [0, 2, 5]], np.int32), np.array([10, 10]))
    pixels = mapped_pixels(counts, Coverage(FROM, ONTO, {0: 0, 2: 1}), 0.8)
    assert (pixels.label_maps, pixels.kept) == (2, 1)
    assert pixels.mapped == pytest.approx(14 / 20)
    assert pixels.unlabelled == pytest.approx(4 / 20)
    assert pixels.lost == {"dog": pytest.approx(0.1)}
    assert pixels.gained == {"animal": pytest.approx(0.4), "car": pytest.approx(0.3)}


def test_equal_names_read_blanks_and_lines_alike() -> None:
    source = LabelSpace(("traffic_light", "Road", "road", "sky"))
    assert equal_names(source, LabelSpace(("road", "traffic light"))) == {0: 1, 2: 0}
