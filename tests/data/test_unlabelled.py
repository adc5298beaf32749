"""Videos without labels from wherever they lie, pseudo-labels from a folder, and what unlabelled clips carry beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sets import mask, picture, write_coco

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.dataset import ClipDataset
from everyframe.data.findings import DataWarning
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.layouts import load_split
from everyframe.data.pseudo_labels import with_pseudo_labels
from everyframe.data.reading import read_labels
from everyframe.data.sampling import ClipSampling
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.data.transforms import Geometry
from everyframe.data.unlabelled import unlabelled_videos
from everyframe.errors import InputError
from everyframe.io.label_png import write_label
from everyframe.io.video import VideoWriter
from everyframe.labels import LabelSpace

SPACE = LabelSpace(("road", "car"), raw_to_train={0: 255, 1: 0, 2: 1})


def pictures(folder: Path, count: int = 3, size: tuple[int, int] = (8, 12)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(np.full((*size, 3), 10 * i, np.uint8)).save(folder / f"{i:03d}.png")
    return folder


# -- where unlabelled videos may lie ---------------------------------------------------------------------------------


def test_a_folder_of_video_files_and_picture_folders_needs_nothing_else(tmp_path: Path) -> None:
    pictures(tmp_path / "drive10"), pictures(tmp_path / "drive9", 2)
    with VideoWriter(tmp_path / "yard.mp4", (16, 16), 5) as writer:
        for _ in range(4):
            writer.write(torch.zeros(3, 16, 16, dtype=torch.uint8), None)
    (tmp_path / "notes.txt").write_text("not a video")
    found = unlabelled_videos([str(tmp_path), str(tmp_path / "drive9"), str(tmp_path / "yard.mp4")], "train")
    assert [(v.name, len(v.frames), v.labelled) for v in found] == [
        ("unlabeled0/drive9", 2, ()), ("unlabeled0/drive10", 3, ()), ("unlabeled0/yard", 4, ()),
        ("unlabeled1/drive9", 2, ()), ("unlabeled2/yard", 4, ()),
    ]  # fmt: skip
    assert found[2].file == tmp_path / "yard.mp4"


def test_folders_called_like_video_files_and_links_to_nothing(tmp_path: Path) -> None:
    pictures(tmp_path / "yard.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with pytest.warns(DataWarning, match=r"gone\.mp4: a link to a file that is not there; this video is left out"):
        found = unlabelled_videos([str(tmp_path)], "train")
    assert [(v.name, len(v.frames)) for v in found] == [("unlabeled0/yard.mp4", 3)]


def test_a_data_set_is_read_by_its_layout_and_split(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(SyntheticVideos(2, 3, (24, 32), seed=len(split)), tmp_path, "frames", split)
    train = load_split(f"folder:{tmp_path}", "train")[0]
    found = unlabelled_videos([str(tmp_path)], "train")  # it has a classes file: only the training videos
    assert [v.name for v in found] == [f"unlabeled0/{v.name}" for v in train]
    assert not any(v.labelled for v in found)


def published(root: Path, layout: str) -> Path:
    """Write a data set of which nothing but the layout's own files tells what it is."""
    if layout == "coco_stuff":
        return write_coco(root)
    if layout == "ade20k":
        picture(root / "images/training/ADE_train_00000001.jpg", 10)
        (root / "objectInfo150.txt").touch()
        mask(root / "annotations/training/ADE_train_00000001.png", {1: 20})
        return root
    if layout == "mapillary":
        picture(root / "training/images/a.jpg", 10)
        mask(root / "training/v1.2/labels/a.png", {13: 20})
        return root
    return write(SyntheticVideos(2, 20, (24, 32)), root, layout, "train")


@pytest.mark.parametrize(
    "layout",
    ["frames", "vspw", "camvid", "cityscapes", "cityscapes_sequence", "images", "coco_stuff", "ade20k", "mapillary"],
)
def test_a_data_set_in_any_layout_gives_its_frames(layout: str, tmp_path: Path) -> None:
    name = {"frames": "folder"}.get(layout, layout)
    root = published(tmp_path / "data", "cityscapes" if "cityscapes" in layout else layout)
    known = load_split(f"{name}:{root}", "train")[0]
    found = unlabelled_videos([f"{name}:{root}@train"], "val")
    assert known
    assert [(v.name, len(v.frames)) for v in found] == [(f"unlabeled0/{v.name}", len(v.frames)) for v in known]
    assert all(not video.labelled and video.space is None for video in found)
    if layout != "cityscapes":  # where its sequences lie beside, a bare folder means these
        assert unlabelled_videos([str(root)], "train") == found


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: p / "nothing", "expected the folder of a data set"),
        (lambda p: (p / "empty").mkdir() or p / "empty", "expected video files or folders of pictures, found none"),
    ],
)
def test_a_place_without_videos_is_one_clear_line(make: object, expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        unlabelled_videos([str(make(tmp_path))], "train")  # type: ignore[operator]


def test_two_videos_of_one_name_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "a")
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="one video per name"):
        unlabelled_videos([str(tmp_path)], "train")


# -- pseudo-labels from a folder -------------------------------------------------------------------------------------


def drive(folder: Path) -> VideoRef:
    """Three frames, the first one labelled by hand: all `car`, in ids of its own (7 = road, 9 = car)."""
    own = LabelSpace(SPACE.names, raw_to_train={7: 0, 9: 1})
    pictures(folder / "frames")
    write_label(folder / "hand.png", np.ones((8, 12), np.uint8), own)
    frames = tuple(FrameRef(i, f"{i:03d}", folder / "frames" / f"{i:03d}.png") for i in range(3))
    labelled = FrameRef(0, "000", frames[0].image, folder / "hand.png")
    return VideoRef("drive", (labelled, *frames[1:]), space=own)


def test_frames_without_label_take_theirs_from_the_folder(tmp_path: Path) -> None:
    """Two tables of ids meet in one video: each file is read by its own."""
    video, home = drive(tmp_path), tmp_path / "pseudo"
    (home / "drive").mkdir(parents=True)
    SPACE.save(home / "labels.json")
    labels = np.zeros((8, 12), np.uint8)
    labels[:4] = 255
    for name in ("000", "002"):
        write_label(home / "drive" / f"{name}.png", labels, SPACE)
    given = with_pseudo_labels([video], home, SPACE)[0]
    assert given.labelled == (0, 2)
    assert (read_labels(given, 0, SPACE) == 1).all()  # the label made by hand stays
    assert (read_labels(given, 2, SPACE) == labels).all()


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    video, home = drive(tmp_path), tmp_path / "pseudo"
    with pytest.raises(InputError, match="found none"):
        with_pseudo_labels([video], home, SPACE)
    home.mkdir()
    with pytest.raises(InputError, match=r"one could be .*drive/000\.png"):
        with_pseudo_labels([video], home, SPACE)
    LabelSpace(("car", "road")).save(home / "labels.json")
    with pytest.raises(InputError, match="2 classes of the data in their order"):
        with_pseudo_labels([video], home, SPACE)


def test_pseudo_labels_train_like_labels(tmp_path: Path) -> None:
    root = write(SyntheticVideos(2, 3, (24, 32)), tmp_path / "data", "frames", "train")
    write(SyntheticVideos(1, 2, (24, 32), seed=1), root, "frames", "val")
    data = ClipDataModule(f"folder:{root}", budget=1, workers=0, crop=16, per="frame")
    home = tmp_path / "pseudo"
    for video in data.train_videos:
        for frame in video.frames[:2]:
            (home / video.name).mkdir(parents=True, exist_ok=True)
            write_label(home / video.name / f"{frame.name}.png", np.zeros((24, 32), np.uint8), data.label_space)
    more = ClipDataModule(
        f"folder:{root}", budget=1, workers=0, crop=16, per="frame", batch_size=1, pseudo_labels=str(home)
    )
    assert [len(video.labelled) for video in more.train_videos] == [1, 1]  # what the budget leaves
    counts = [len(video.labelled) for video in more.labelled_videos]
    assert all(2 <= count <= 3 for count in counts)
    assert len(more.train_dataloader().dataset) == sum(counts)


# -- what unlabelled clips carry -------------------------------------------------------------------------------------


def test_unlabelled_clips_know_their_padding_and_the_hidden_label(tmp_path: Path) -> None:
    root = write(SyntheticVideos(1, 4, (24, 32)), tmp_path, "frames", "train")
    videos, space = load_split(f"folder:{root}", "all")
    seen = [video.keep_labels({0}) for video in videos]
    geometry = Geometry((40, 40), scale=(1.0, 1.0), flip=0.0)
    data = ClipDataset(seen, space, ClipSampling((-1,), None), geometry, which="unlabelled", hidden=videos)
    clip = data[0]
    assert clip.inside is not None
    assert clip.inside[:24, :32].all()
    assert int(clip.inside.sum()) == 24 * 32  # the rest is padding
    query = int(clip.indices[clip.roles.index("query")])
    truth = read_labels(videos[0], query, space)
    assert query != 0
    assert clip.hidden is not None
    assert (clip.hidden[0, :24, :32].numpy() == truth).all()
    assert (clip.hidden[0][~clip.inside] == 255).all()
    assert (clip.query_labels == 255).all()  # training does not see it
    # Without a geometry nothing is padded; without `hidden` nothing is read.
    whole = ClipDataset(seen, space, ClipSampling((), None), which="unlabelled")[0]
    assert whole.hidden is None
    assert whole.inside is not None
    assert whole.inside.all()


def test_module_measures_only_what_the_budget_hides(tmp_path: Path) -> None:
    root = write(SyntheticVideos(2, 3, (24, 32)), tmp_path, "frames", "train")
    write(SyntheticVideos(1, 2, (24, 32), seed=1), root, "frames", "val")

    def batch(**options: object) -> dict:
        settings = {"budget": 1, "batch_size": 1, "unlabeled_batch_size": 2, "crop": 16, "workers": 0, **options}
        return next(iter(ClipDataModule(f"folder:{root}", **settings).train_dataloader()))[0]

    clips = batch()
    assert clips["labelled"].hidden is clips["labelled"].inside is None
    assert clips["unlabelled"].hidden.shape == (2, 1, 16, 16)
    assert clips["unlabelled"].inside.shape == (2, 16, 16)
    assert batch(hidden_labels=False)["unlabelled"].hidden is None
    with pytest.raises(InputError, match="at least one unlabelled frame"):
        batch(budget="all")
    extra = pictures(tmp_path / "more" / "b", size=(24, 32)).parent
    assert batch(budget="all", unlabeled=[str(extra)])["unlabelled"].hidden is None
