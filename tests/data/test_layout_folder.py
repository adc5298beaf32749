"""The layout of one's own videos: folders of pictures, video files, masks from CVAT."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from layout_files import mask, picture, text
from PIL import Image

from everyframe.data.findings import DataWarning
from everyframe.data.layouts import SPLITS, load_split
from everyframe.data.reading import read_labels
from everyframe.data.starter import write_starter
from everyframe.errors import InputError

# -- folder ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for name in ("b", "a", "c"):
        for i in (1, 2, 10):
            picture(tmp_path / f"videos/{name}/frame_{i}.jpg")
    mask(tmp_path / "masks/a/frame_10.png")
    mask(tmp_path / "masks/b/frame_1.png")
    text(tmp_path / "classes.yaml", "0: ignore", "1: road", "2: {name: car, color: [0, 0, 142]}", "7: car")
    return tmp_path


def test_folder(own: Path) -> None:
    videos, space = load_split(own, "all")
    assert [video.name for video in videos] == ["a", "b", "c"]
    assert [frame.name for frame in videos[0].frames] == ["frame_1", "frame_2", "frame_10"]
    assert [video.labelled for video in videos] == [(2,), (0,), ()]
    assert space.names == ("road", "car")
    assert space.palette[1] == (0, 0, 142)
    assert space.encode(np.array([0, 1, 2, 7], np.uint8)).tolist() == [255, 0, 1, 1]


def test_folder_without_lists_holds_one_labelled_video_out(own: Path) -> None:
    # md5("b") = 92eb5f... > md5("a") = 0cc175...: `a` is held out.
    assert [v.name for v in load_split(own, "val")[0]] == ["a"]
    assert [v.name for v in load_split(own, "train")[0]] == ["b", "c"]
    assert SPLITS["folder"](own) == ["train", "val"]
    with pytest.raises(InputError, match=r"test\.txt"):
        load_split(own, "test")


def test_folder_held_out_share(own: Path) -> None:
    for i in range(12):
        picture(own / f"videos/v{i}/0.jpg")
        mask(own / f"masks/v{i}/0.png")
    train, val = ({v.name for v in load_split(own, split)[0]} for split in ("train", "val"))
    assert (len(train), len(val)) == (13, 2)  # 14 labelled videos: two held out; `c` is unlabelled
    assert not train & val


def test_folder_with_lists(own: Path) -> None:
    text(own / "val.txt", "b")
    assert [v.name for v in load_split(own, "train")[0]] == ["a", "c"]
    text(own / "train.txt", "c", "a")
    assert [v.name for v in load_split(own, "train")[0]] == ["c", "a"]
    text(own / "train.txt", "c", "nobody")
    with pytest.raises(InputError, match=r"train\.txt: 1 of 2 names have no data .*nobody; copy the data there"):
        load_split(own, "train")
    text(own / "train.txt", "c", "a.mp4")
    with pytest.raises(InputError, match=r"a\.mp4; write a, without the ending$"):
        load_split(own, "train")


def test_folder_one_labelled_video_cannot_be_held_out(own: Path) -> None:
    (own / "masks/a/frame_10.png").unlink()
    assert [v.name for v in load_split(own, "train")[0]] == ["a", "b", "c"]
    with pytest.raises(InputError, match="fewer than two labelled videos"):
        load_split(own, "val")


def test_folder_mask_without_frame(own: Path) -> None:
    mask(own / "masks/a/frame_3.png")
    with pytest.raises(InputError, match=r"frame_3\.png: a mask without a frame of that name"):
        load_split(own, "all")


def test_folder_without_classes_or_videos(own: Path) -> None:
    (own / "classes.yaml").unlink()
    with pytest.raises(InputError, match=r"classes\.yaml: expected the names of the classes, found no file; write it"):
        load_split(own, "all")
    with pytest.raises(InputError, match=r"videos: expected a folder with video files or frame folders"):
        load_split(f"folder:{own / 'videos'}", "all")


def test_folder_two_videos_of_one_name(own: Path) -> None:
    (own / "videos/a.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match=r"a\.mp4: expected one video per name"):
        load_split(own, "all")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0: ignore"], "at least one class"),
        (["1: road", "1: car"], "2: expected YAML, came an error: 1 stands there twice, first in line 1"),
        (["1: no"], "expected a class name, came False; write it in quotes"),
        (["one: road"], "whole numbers before the colons"),
        (["1.5: road"], "whole numbers before the colons, came 1.5"),
        (["1: road", "7: {name: dirt, ignore: 1}"], "id 7: expected ignore: true or ignore: false, came 1"),
        (["1: {name: road, colour: [1, 2]}"], "red, green, blue"),
        (["1: {nam: road}"], "expected name, color or ignore, came nam"),
        (["1: {name: a, color: [1, 1, 1]}", "2: {name: b, color: [1, 1, 1]}"], "another colour for each id"),
        (["just text"], "one line per class id"),
        (["# nothing yet"], "one line per class id, came an empty file"),
        (["1: road", "2: [a"], "2: expected YAML, came an error: while parsing a flow sequence, expected ','"),
        (["1: road", "[2, 3]: car"], r"2: expected YAML, came an error: \[2, 3\] before a colon; for example"),
        (["1: road\x00"], "expected YAML, .* not allowed, character 8; save it again"),
    ],
)
def test_classes_file_errors(own: Path, lines: Iterable[str], message: str) -> None:
    text(own / "classes.yaml", *lines)
    with pytest.raises(InputError, match=rf"classes\.yaml:.*{message}"):
        load_split(own, "all")


def test_classes_as_a_list_and_hex_colours(own: Path) -> None:
    text(own / "classes.yaml", "- road", "- car")
    assert load_split(own, "all")[1].encode(np.array([0, 1], np.uint8)).tolist() == [0, 1]
    text(own / "classes.yaml", "1: {name: road, color: '#0a0B0c'}")
    assert load_split(own, "all")[1].colors == {(10, 11, 12): 1}


# -- video files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def with_file(own: Path, make_video: Callable[[Path, int], None]) -> Path:
    make_video(own / "videos/film.mp4", 7)
    return own


@pytest.fixture
def make_video() -> Callable[[Path, int], None]:
    from fractions import Fraction

    from everyframe.io.video import VideoWriter

    def make(path: Path, frames: int) -> None:
        with VideoWriter(path, size=(32, 48), rate=Fraction(25)) as writer:
            for i in range(frames):
                writer.write(np.full((32, 48, 3), 20 * i, np.uint8), i / 25)

    return make


def test_folder_with_a_video_file(with_file: Path) -> None:
    mask(with_file / "masks/film/000002.png", size=(32, 48))
    mask(with_file / "masks/film/frame_6.png", size=(32, 48))
    film = next(v for v in load_split(with_file, "all")[0] if v.name == "film")
    assert (len(film.frames), film.labelled, film.file) == (7, (2, 6), with_file / "videos/film.mp4")


def test_folder_mask_numbers_that_do_not_fit(with_file: Path) -> None:
    mask(with_file / "masks/film/7.png", size=(32, 48))
    with pytest.raises(
        InputError, match=r"7\.png: .*film\.mp4 does not have: it has frames 0\.\.6; count frames from 0"
    ):
        load_split(with_file, "all")
    (with_file / "masks/film/7.png").rename(with_file / "masks/film/last.png")
    with pytest.raises(InputError, match="a mask without a frame number"):
        load_split(with_file, "all")


def test_folder_damaged_video(with_file: Path) -> None:
    (with_file / "videos/film.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"film\.mp4: the video cannot be read"):
        load_split(with_file, "all")


# -- CVAT ------------------------------------------------------------------------------------------------------------

LABELMAP = ("# label:color_rgb:parts:actions", "background:0,0,0::", "car:10,20,30::", "road:1,2,3::")


def cvat_masks(path: Path) -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[0], rgb[1] = (10, 20, 30), (1, 2, 3)
    mask(path, rgb)


def test_cvat_export_beside_one_video(own: Path) -> None:
    cvat_masks(own / "masks/c/SegmentationClass/frame_2.png")
    cvat_masks(own / "masks/c/SegmentationObject/frame_2.png")
    text(own / "masks/c/labelmap.txt", *LABELMAP)
    with pytest.raises(InputError, match=r"labelmap\.txt: .*background too; add a line `<id>: \{name: background\}`"):
        load_split(own, "all")
    text(own / "classes.yaml", "0: {name: background, ignore: true}", "1: road", "2: car")
    videos, space = load_split(own, "all")
    c = videos[2]
    assert c.labelled == (1,)
    assert read_labels(c, 1, space)[:, 0].tolist() == [1, 0, 255, 255]  # type: ignore[index]
    assert (read_labels(videos[0], 2, space) == 0).all()  # video `a` is still read by the ids of classes.yaml


def test_masks_beside_a_cvat_export_are_told(own: Path) -> None:
    cvat_masks(own / "masks/c/SegmentationClass/frame_2.png")
    text(own / "masks/c/labelmap.txt", *LABELMAP)
    text(own / "classes.yaml", "0: {name: background, ignore: true}", "1: road", "2: car")
    load_split(own, "all")
    mask(own / "masks/c/frame_1.png", 2)
    with pytest.warns(DataWarning, match=r"masks/c/frame_1\.png: a mask beside SegmentationClass, which is read alone"):
        videos, _ = load_split(own, "all")
    assert videos[2].labelled == (1,)


def test_two_masks_of_one_frame_in_different_folders_are_refused(own: Path) -> None:
    text(own / "masks/c/labelmap.txt", "road:1,2,3::")
    for folder in ("day1", "day2"):
        cvat_masks(own / f"masks/c/SegmentationClass/{folder}/frame_2.png")
    with pytest.raises(InputError, match=r"day2/frame_2\.png: a second mask of one frame, beside .*day1/frame_2\.png"):
        load_split(own, "all")


def test_cvat_export_as_root(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"JPEGImages/frame_{i:06d}.jpg")
    cvat_masks(tmp_path / "SegmentationClass/frame_000001.png")
    mask(tmp_path / "SegmentationClass/frame_000002.png", 2)  # grey: the number of the line, from 0
    text(tmp_path / "labelmap.txt", *LABELMAP)
    (video,), space = load_split(tmp_path, "all")
    assert (video.name, len(video.frames), video.labelled) == (tmp_path.name, 3, (1, 2))
    assert space.names == ("background", "car", "road")
    assert read_labels(video, 1, space)[:, 0].tolist() == [1, 2, 0, 0]  # type: ignore[index]
    assert (read_labels(video, 2, space) == 2).all()
    assert len(load_split(f"images:{tmp_path}", "all")[0]) == 3


def test_cvat_export_of_a_video_without_images(tmp_path: Path, make_video: Callable[[Path, int], None]) -> None:
    cvat_masks(tmp_path / "SegmentationClass/frame_000001.png")
    text(tmp_path / "labelmap.txt", *LABELMAP)
    with pytest.raises(InputError, match="export again with 'Save images', or copy the video there"):
        load_split(tmp_path, "all")
    make_video(tmp_path / "drive.mp4", 3)
    (video,), _ = load_split(tmp_path, "all")
    assert (video.name, video.labelled) == ("drive", (1,))


def test_cvat_export_without_its_labelmap(tmp_path: Path, own: Path) -> None:
    (own / "classes.yaml").unlink()
    cvat_masks(own / "masks/c/SegmentationClass/frame_2.png")
    with pytest.raises(InputError, match=r"should hold it too: .*masks/c/labelmap\.txt is missing$"):
        load_split(own, "all")
    cvat_masks(tmp_path / "export/SegmentationClass/1.png")
    with pytest.raises(InputError, match=r"export/labelmap\.txt: expected what the colours .*unpack the whole export"):
        load_split(tmp_path / "export", "all")


def test_what_other_tools_leave_is_answered_with_where_it_goes(tmp_path: Path) -> None:
    """labelme's polygons beside the pictures; Pascal VOC's palette masks, which no labelmap.txt explains."""
    for i in range(2):
        Image.new("RGB", (6, 4)).save(tmp_path / f"{i}.jpg")
        text(tmp_path / f"{i}.json", '{"shapes": [{"label": "car"}]}')
    with pytest.raises(
        InputError, match=r"came 2 pictures in the data set's; move them to .*videos/NAME.*0\.json"
    ) as e:
        load_split(f"folder:{tmp_path}", "train")
    assert "polygons are not read" in str(e.value)
    with pytest.raises(InputError, match=r"0\.json \(and 1 more\): polygons are not read"):
        write_starter(tmp_path)
    mask(tmp_path / "voc/SegmentationClass/1.png")
    with pytest.raises(InputError, match=r"of Pascal VOC, .* move JPEGImages to images .* masks \(masks/NAME\)"):
        load_split(f"folder:{tmp_path / 'voc'}", "train")


def test_cvat_damaged_labelmap(own: Path) -> None:
    mask(own / "masks/c/SegmentationClass/frame_2.png")
    text(own / "masks/c/labelmap.txt", "background;0,0,0")
    with pytest.raises(InputError, match=r"labelmap\.txt:1: expected `name:red,green,blue::`"):
        load_split(own, "all")


# -- what would be lost ----------------------------------------------------------------------------------------------


def test_masks_of_a_frame_folder_that_is_called_like_a_video_file(own: Path) -> None:
    (own / "videos/b").rename(own / "videos/b.mp4")
    with pytest.raises(InputError, match=r"masks/b: a folder of masks, but no video of that name"):
        load_split(own, "all")
    (own / "masks/b").rename(own / "masks/b.mp4")
    assert [(video.name, video.labelled) for video in load_split(own, "all")[0]][1] == ("b.mp4", (0,))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bs", "did you mean b"),
        ("B", r"did you mean b\?"),
        ("b.mp4", r"did you mean b\? a folder of masks is named like its video, without the ending"),
        ("other", "a folder of masks is named like"),
        ("SegmentationClass", "unpack the export of CVAT into the folder of its video"),
    ],
)
def test_masks_of_no_video_are_an_error(own: Path, name: str, hint: str) -> None:
    text(own / "masks/notes/readme.txt", "no masks in here")
    load_split(own, "all")
    (own / "masks/b").rename(own / "masks" / name)
    with pytest.raises(InputError, match=rf"masks/{name}: a folder of masks, but no video of that name; .*{hint}"):
        load_split(own, "all")


def test_masks_in_no_folder_are_an_error(own: Path) -> None:
    mask(own / "masks/frame_2.png")
    with pytest.raises(InputError, match=r"masks/frame_2\.png: a mask that lies in the folder of no video; move it"):
        load_split(own, "train")


def test_masks_of_a_video_whose_link_is_broken_are_no_second_problem(own: Path) -> None:
    (own / "videos/film.mp4").symlink_to(own / "nowhere.mp4")
    mask(own / "masks/film/0.png")
    with pytest.warns(DataWarning, match="a link to a file that is not there"):
        assert len(load_split(own, "all")[0]) == 3


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a/frame_10.json", '{"version": "5.5.0", "flags": {}, "shapes": [{"label": "road"}]}'),
        ("instances_default.json", '{"licenses": [], "categories": []}'),
        ("c/annotations/instances_default.json", '{"images": []}'),
        ("c/annotations.xml", '<?xml version="1.0"?>\n<annotations>\n</annotations>'),
    ],
)
def test_polygons_among_the_masks_are_told(own: Path, file: str, content: str) -> None:
    text(own / "masks/labels.json", '{"names": ["road"], "palette": [[1, 2, 3]], "colors": null}')
    load_split(own, "all")
    text(own / "masks" / file, content)
    with pytest.warns(DataWarning, match=rf"{file}: a file of polygons among the masks.*Segmentation mask 1\.1"):
        load_split(own, "all")
