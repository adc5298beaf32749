from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from layout_files import mask, picture, text

from everyframe.data.findings import DataWarning
from everyframe.data.layouts import LAYOUTS, SPLITS, load_split, parse_spec
from everyframe.data.layouts.camvid import space11, space32
from everyframe.data.layouts.cityscapes import label_space as cityscapes_space
from everyframe.data.mapping import read_mapping
from everyframe.data.reading import read_labels, target_size
from everyframe.errors import InputError

# -- vspw ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def vspw_root(tmp_path: Path) -> Path:
    for video, frames in {"1001_abc": 3, "2_xyz": 2}.items():
        for i in range(frames):
            picture(tmp_path / "data" / video / "origin" / f"{i * 15:08d}.jpg")
    mask(tmp_path / "data/1001_abc/mask/00000015.png", 124)
    text(tmp_path / "data/1001_abc/origin/._00000000.jpg", "what a Mac leaves")
    text(tmp_path / "train.txt", "1001_abc", "2_xyz", end="")  # the authors' script reads `2_xy` here
    text(tmp_path / "val.txt", " 2_xyz ", "")
    return tmp_path


def test_vspw(vspw_root: Path) -> None:
    videos, space = load_split(f"vspw:{vspw_root}", "train")
    assert [video.name for video in videos] == ["1001_abc", "2_xyz"]
    assert [frame.name for frame in videos[0].frames] == ["00000000", "00000015", "00000030"]
    assert [frame.index for frame in videos[0].frames] == [0, 1, 2]
    assert videos[0].labelled == (1,)
    assert videos[1].labelled == ()
    assert len(space) == 124
    assert (space.names[0], space.names[28], space.names[123]) == ("wall", "sky", "train")
    assert space.encode(np.array([0, 1, 124, 255], np.uint8)).tolist() == [255, 0, 123, 255]
    with pytest.raises(InputError, match="id 125"):
        space.encode(np.array([125], np.uint8))
    assert (read_labels(videos[0], 1, space) == 123).all()
    assert [video.name for video in load_split(vspw_root, "val")[0]] == ["2_xyz"]
    assert SPLITS["vspw"](vspw_root) == ["train", "val"]


def test_vspw_reads_its_own_class_file_and_ours_wins(vspw_root: Path) -> None:
    text(vspw_root / "label_num_dic_final.json", json.dumps({"others": "0", "grass": "2", "stone": "1"}))
    assert load_split(f"vspw:{vspw_root}", "val")[1].names == ("stone", "grass")
    text(vspw_root / "classes.json", json.dumps({"0": "void", "1": "sky", "2": "road"}))
    space = load_split(f"vspw:{vspw_root}", "val")[1]
    assert space.names == ("sky", "road")
    assert space.encode(np.array([0, 1, 2, 255], np.uint8)).tolist() == [255, 0, 1, 255]


@pytest.mark.parametrize("content", ["[]", "{", '{"a": "1", "b": "3"}', '{"a": "x"}'])
def test_vspw_damaged_class_file(vspw_root: Path, content: str) -> None:
    text(vspw_root / "label_num_dic_final.json", content)
    with pytest.raises(InputError, match=r"label_num_dic_final\.json: expected"):
        load_split(f"vspw:{vspw_root}", "val")


def test_vspw_empty_files(vspw_root: Path) -> None:
    """A frame of 0 bytes is left out with its mask; a mask of 0 bytes leaves its frame unlabelled."""
    origin, masks = vspw_root / "data/1001_abc/origin", vspw_root / "data/1001_abc/mask"
    (origin / "00000000.jpg").write_bytes(b"")
    mask(masks / "00000000.png")
    (masks / "00000030.png").write_bytes(b"")
    with pytest.warns(DataWarning) as caught:
        videos, _ = load_split(f"vspw:{vspw_root}", "train")
    messages = "\n".join(str(warning.message) for warning in caught)
    assert "00000000.jpg: an empty file (0 bytes); these frames are left out" in messages
    assert "00000030.png: an empty file (0 bytes); their frames count as unlabelled" in messages
    assert "without a frame" not in messages
    assert [(frame.index, frame.name) for frame in videos[0].frames] == [(0, "00000015"), (1, "00000030")]
    assert videos[0].labelled == (0,)


def test_vspw_what_is_missing(vspw_root: Path) -> None:
    with pytest.raises(InputError, match=r"test\.txt: expected a list"):
        load_split(f"vspw:{vspw_root}", "test")
    text(vspw_root / "test.txt", "gone_1", "2_xyz", "gone_2")
    with pytest.raises(InputError, match=r"gone_1/origin: .* 2 of 3 are missing \(and 1 more\); copy them"):
        load_split(f"vspw:{vspw_root}", "test")
    with pytest.raises(InputError, match=r"data: expected a folder .*nothing there"):
        LAYOUTS["vspw"](vspw_root / "data", "train")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1080, 1920), (480, 853)), ((720, 1280), (480, 853)), ((1920, 1080), (480, 270)), ((479, 853), (480, 854))],
)
def test_480p_rule(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert target_size(size, height=480) == expected


def test_vspw480_marks_every_video(vspw_root: Path) -> None:
    assert {video.height for video in load_split(f"vspw480:{vspw_root}", "train")[0]} == {480}
    assert {video.height for video in load_split(f"vspw:{vspw_root}", "train")[0]} == {None}


# -- camvid ----------------------------------------------------------------------------------------------------------


def test_camvid_segnet_form(tmp_path: Path) -> None:
    for number in (390, 420, 450, 480, 4350, 4380):
        picture(tmp_path / f"train/0016E5_{number:05d}.png")
        mask(tmp_path / f"trainannot/0016E5_{number:05d}.png", 11)
    picture(tmp_path / "train/0001TP_006690.png")
    videos, space = load_split(f"camvid:{tmp_path}", "train")
    # 0016E5 has a hole of 65 s: two videos, named by their first frame.
    assert [(v.name, len(v.frames), len(v.labelled)) for v in videos] == [
        ("0001TP", 1, 0),
        ("0016E5_00390", 4, 4),
        ("0016E5_04350", 2, 2),
    ]
    assert len(space) == 11
    assert space.encode(np.array([0, 10, 11], np.uint8)).tolist() == [0, 10, 255]
    assert SPLITS["camvid"](tmp_path) == ["train"]
    with pytest.raises(InputError, match=r"val: expected a folder"):
        load_split(f"camvid:{tmp_path}", "val")


@pytest.fixture
def camvid_original(tmp_path: Path) -> Path:
    for stem in ("0001TP_006690", "0001TP_008550", "0016E5_07959", "0016E5_07920", "Seq05VD_f00000", "0006R0_f00930"):
        picture(tmp_path / f"701_StillsRaw_full/{stem}.png")
        rgb = np.zeros((4, 6, 3), np.uint8)
        rgb[0], rgb[1], rgb[2] = (128, 0, 192), (64, 64, 0), (192, 128, 64)  # LaneMkgsDriv, Pedestrian, Child
        mask(tmp_path / f"LabeledApproved_full/{stem}_L.png", rgb)
    return tmp_path


def test_camvid_original_form(camvid_original: Path) -> None:
    found = {s: [v.name for v in load_split(f"camvid32:{camvid_original}", s)[0]] for s in ("train", "val", "test")}
    assert found == {
        "train": ["0001TP", "0006R0", "0016E5"],
        "val": ["0016E5"],
        "test": ["0001TP", "Seq05VD"],
    }
    videos, space = load_split(f"camvid32:{camvid_original}", "train")
    labels = read_labels(videos[0], 0, space)
    assert labels is not None
    assert [space.names[i] if i != 255 else "ignore" for i in labels[:, 0]] == [
        "LaneMkgsDriv",
        "Pedestrian",
        "Child",
        "ignore",
    ]


def test_camvid_32_colours_as_11_classes(camvid_original: Path) -> None:
    videos, space = load_split(f"camvid:{camvid_original}", "test")
    labels = read_labels(videos[0], 0, space)
    assert labels is not None
    assert [space.names[i] if i != 255 else "ignore" for i in labels[:, 0]] == [
        "road",
        "pedestrian",
        "pedestrian",
        "ignore",
    ]


def test_camvid_lists_win(camvid_original: Path) -> None:
    text(camvid_original / "val.txt", "0006R0_f00930")
    found = {s: [v.name for v in load_split(f"camvid32:{camvid_original}", s)[0]] for s in ("train", "val", "all")}
    assert found["val"] == ["0006R0"]
    assert found["train"] == ["0001TP", "0016E5"], "what val has must not be trained on"
    assert found["all"] == ["0001TP", "0006R0", "0016E5", "Seq05VD"]
    text(camvid_original / "val.txt", "0006R0_f00930", "0006R0_f00931")
    with pytest.raises(InputError, match=r"val.txt: 1 of 2 names have no data .*: 0006R0_f00931; copy the data"):
        load_split(f"camvid32:{camvid_original}", "val")


def test_camvid_class_dict_form(tmp_path: Path) -> None:
    picture(tmp_path / "val/0016E5_07959.png")
    mask(tmp_path / "val_labels/0016E5_07959_L.png", np.zeros((4, 6, 3), np.uint8))
    videos, space = load_split(f"camvid32:{tmp_path}", "val")
    assert (videos[0].labelled, len(space)) == ((0,), 31)


def test_camvid_tables_agree() -> None:
    fine, coarse = space32(), space11()
    mapping = read_mapping("camvid32_to_camvid11", fine, coarse)
    assert len(fine.colors or ()) == 32
    assert sorted(mapping) == list(range(31))
    by_name = {fine.names[s]: coarse.names[t] for s, t in mapping.items()}
    assert (by_name["Wall"], by_name["Tunnel"], by_name["TrafficCone"], by_name["Animal"]) == (
        "building",
        "building",
        "pole",
        "pedestrian",
    )
    # The class that SegNet named after one of the 32 keeps its colour.
    assert coarse.palette[coarse.names.index("sky")] == fine.palette[fine.names.index("Sky")]


# -- cityscapes ------------------------------------------------------------------------------------------------------


def test_cityscapes_ids_both_ways() -> None:
    space = cityscapes_space()
    # Specification: label id -> train id.
    table = dict(
        zip([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], range(19), strict=True)
    )
    raw = np.arange(34, dtype=np.uint8)
    assert space.encode(raw).tolist() == [table.get(i, 255) for i in range(34)]
    train = np.array([*range(19), 255], np.uint8)
    assert space.decode(train).tolist() == [*table, 0]
    np.testing.assert_array_equal(space.encode(space.decode(train)), train)
    assert space.encode(np.array([-1], np.int16)).tolist() == [255]
    assert space.names[0] == "road"
    assert space.names[18] == "bicycle"


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    for city, key in (("ulm", "ulm_000001_000019"), ("bochum", "bochum_000000_000313")):
        picture(tmp_path / f"leftImg8bit/train/{city}/{key}_leftImg8bit.png")
        mask(tmp_path / f"gtFine/train/{city}/{key}_gtFine_labelIds.png", 7)
        mask(tmp_path / f"gtFine/train/{city}/{key}_gtFine_color.png", 99)
    picture(tmp_path / "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png")
    mask(tmp_path / "gtFine/test/berlin/berlin_000000_000019_gtFine_labelIds.png", 3)
    picture(tmp_path / "leftImg8bit/train_extra/erlangen/erlangen_000000_000000_leftImg8bit.png")
    mask(tmp_path / "gtCoarse/train_extra/erlangen/erlangen_000000_000000_gtCoarse_labelIds.png", 8)
    for number in range(290, 330):  # more than the snippet [294, 323]
        if number != 299:  # a frame that was not kept
            picture(tmp_path / f"leftImg8bit_sequence/train/bochum/bochum_000000_{number:06d}_leftImg8bit.png")
    for number in range(30):
        picture(tmp_path / f"leftImg8bit_sequence/train/ulm/ulm_000001_{number:06d}_leftImg8bit.png")
        picture(tmp_path / f"leftImg8bit_sequence/test/berlin/berlin_000000_{number:06d}_leftImg8bit.png")
    return tmp_path


def test_cityscapes_images(cityscapes_root: Path) -> None:
    videos, space = load_split(f"cityscapes:{cityscapes_root}", "train")
    assert [video.name for video in videos] == ["bochum_000000_000313", "ulm_000001_000019"]
    assert all(len(video.frames) == 1 and video.labelled == (0,) for video in videos)
    assert (read_labels(videos[0], 0, space) == 0).all()
    assert load_split(f"cityscapes:{cityscapes_root}", "test")[0][0].labelled == ()
    (coarse,), space = load_split(f"cityscapes:{cityscapes_root}", "train_extra")
    assert (read_labels(coarse, 0, space) == 1).all()
    assert SPLITS["cityscapes"](cityscapes_root) == ["train", "test", "train_extra"]


def test_cityscapes_sequence(cityscapes_root: Path) -> None:
    videos, _ = load_split(f"cityscapes_sequence:{cityscapes_root}", "train")
    bochum, ulm = videos
    assert (len(ulm.frames), ulm.labelled) == (30, (19,))
    # f = 313: frames 294..323, but 299 is missing, so the run starts at 300 and f is its 14th frame.
    assert [bochum.frames[0].name[-6:], bochum.frames[-1].name[-6:]] == ["000300", "000323"]
    assert bochum.labelled == (13,)
    assert bochum.frames[13].name == bochum.name == "bochum_000000_000313"
    (berlin,), _ = load_split(f"cityscapes_sequence:{cityscapes_root}", "test")
    assert (len(berlin.frames), berlin.labelled) == (30, ())


def test_cityscapes_what_is_missing(cityscapes_root: Path) -> None:
    with pytest.raises(InputError, match=r"leftImg8bit/val: expected a folder .* take --split train or test"):
        load_split(f"cityscapes:{cityscapes_root}", "val")
    picture(cityscapes_root / "leftImg8bit/val/ulm/ulm_000009_000019_leftImg8bit.png")
    with pytest.raises(InputError, match=r"gtFine/val: expected a folder .*gtFine_trainvaltest\.zip"):
        load_split(f"cityscapes:{cityscapes_root}", "val")
    picture(cityscapes_root / "leftImg8bit/train/ulm/ulm_000009_000019_leftImg8bit.png")
    with pytest.warns(DataWarning, match="a picture without a mask"):
        load_split(f"cityscapes:{cityscapes_root}", "train")


# -- images ----------------------------------------------------------------------------------------------------------


def test_images(tmp_path: Path) -> None:
    for stem in ("a/1", "a/2", "b/1"):
        picture(tmp_path / f"images/{stem}.jpg")
    mask(tmp_path / "labels/a/2.png")
    text(tmp_path / "classes.yaml", "1: thing")
    videos, _ = load_split(tmp_path, "all")
    assert [(v.name, v.labelled) for v in videos] == [("a__1", ()), ("a__2", (0,)), ("b__1", ())]
    text(tmp_path / "val.txt", "b/1")
    assert [v.name for v in load_split(tmp_path, "val")[0]] == ["b__1"]
    mask(tmp_path / "labels/c/2.png")
    with pytest.raises(InputError, match="a mask without a picture"):
        load_split(tmp_path, "val")


def test_images_in_split_folders(tmp_path: Path) -> None:
    for split, stem in (("training", "1"), ("validation", "2")):
        picture(tmp_path / f"images/{split}/{stem}.jpg")
        mask(tmp_path / f"annotations/{split}/{stem}.png")
    text(tmp_path / "classes.yaml", "1: thing")
    assert SPLITS["images"](tmp_path) == ["train", "val"]
    (video,), _ = load_split(tmp_path, "val")
    assert (video.name, video.labelled) == ("2", (0,))


def test_masks_beside_the_split_folders_are_an_error(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / f"images/{split}/1.jpg")
        mask(tmp_path / f"masks/{split}/1.png")
    text(tmp_path / "classes.yaml", "1: thing")
    load_split(tmp_path, "train")
    (tmp_path / "masks/val").rename(tmp_path / "masks/vals")
    with pytest.raises(InputError, match=r"masks/vals: a folder of masks, but no folder of pictures .*\(train, val\)"):
        load_split(tmp_path, "train")


def test_pictures_whose_results_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    for stem in ("yard/c", "yard__c", "a"):
        picture(tmp_path / f"images/{stem}.jpg")
        mask(tmp_path / f"masks/{stem}.png")
    text(tmp_path / "classes.yaml", "1: thing")
    with pytest.raises(InputError, match=r"yard__c\.jpg: a picture whose results .*yard/c\.jpg; rename one"):
        load_split(tmp_path, "all")


def test_a_split_without_a_folder_is_not_taken_from_the_folder_of_another(tmp_path: Path) -> None:
    for stem in "abcdef":
        picture(tmp_path / f"images/train/{stem}.jpg")
        mask(tmp_path / f"masks/train/{stem}.png")
    text(tmp_path / "classes.yaml", "1: thing")
    assert len(load_split(tmp_path, "train")[0]) == 6
    with pytest.raises(InputError, match=r"images/val: expected a folder .*take --split train or all, or make it"):
        load_split(tmp_path, "val")  # it would hold out pictures that train trains on
    assert len(load_split(tmp_path, "all")[0]) == 6
    assert SPLITS["images"](tmp_path) == ["train"]
    text(tmp_path / "val.txt", "train/f")  # asked for by name it is given
    assert [video.name for video in load_split(tmp_path, "val")[0]] == ["train__f"]
    assert [video.name for video in load_split(tmp_path, "train")[0]] == list("abcde")
    assert SPLITS["images"](tmp_path) == ["train", "val"]


# -- all -------------------------------------------------------------------------------------------------------------


def test_spec(tmp_path: Path) -> None:
    for spec, message in (
        (f"vpsw:{tmp_path}", "expected LAYOUT:ROOT with one of folder, images, vspw"),
        (f"vspw:{tmp_path / 'gone'}", "expected the folder of a data set after vspw:"),
        (str(tmp_path / "gone"), "came nothing there; check the path"),
        ("vspw:", "expected the folder"),
    ):
        with pytest.raises(InputError, match=message):
            parse_spec(spec)


def test_a_bare_path_is_recognised(vspw_root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert parse_spec(vspw_root) == ("vspw", vspw_root)
    assert parse_spec(tmp_path_factory.mktemp("nothing"))[0] == "folder"


def test_every_layout_has_splits() -> None:
    assert set(LAYOUTS) == set(SPLITS)


REAL = os.environ.get("EVERYFRAME_DATA")


@pytest.mark.skipif(REAL is None, reason="EVERYFRAME_DATA names no folder with the real data sets")
@pytest.mark.parametrize(
    ("folder", "split", "videos", "frames"),
    [("camvid_video", "train", 5, 367), ("camvid_video", "test", 2, 233), ("davis16_clips", "val", 4, 112)],
)
def test_real_data(folder: str, split: str, videos: int, frames: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = load_split(Path(str(REAL)) / folder, split)
    assert (len(found), sum(len(video.labelled) for video in found)) == (videos, frames)
