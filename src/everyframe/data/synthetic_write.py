"""Synthetic videos on disk, in the layouts that `everyframe.data.layouts` reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from PIL import Image

from everyframe.data.layouts.camvid import space11
from everyframe.data.layouts.cityscapes import BEFORE, label_space
from everyframe.data.synthetic import SyntheticVideo
from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.io.label_png import write_label
from everyframe.io.video import VideoWriter
from everyframe.labels import LabelSpace

Labelled = Literal["all", "one"] | Sequence[int]

CAMVID_NAMES = ("sky", "building", "tree", "road", "car", "car", "car", "car")
CITYSCAPES_NAMES = ("sky", "building", "vegetation", "road", "car", "car", "truck", "bus")
"""Classes of fixed label spaces that stand for those of `STREET_CLASSES`; pairs that differ by motion are joined."""


def write(
    videos: Sequence[SyntheticVideo],
    root: str | Path,
    layout: str = "folder",
    split: str = "train",
    labelled: Labelled = "all",
    truth: str | Path | None = None,
) -> Path:
    """Write videos as one split of a data set.

    Args:
        videos: `SyntheticVideos`, or some of them.
        root: the folder; made when missing. Other splits may be written beside.
        layout: "folder" (H.264 files), "frames" (the folder layout with frame folders), "vspw", "camvid" (frames of one
            video are numbered on), "cityscapes" (stills of the labelled frames and sequences around them) or "images"
            (the labelled frames as stills).
        split: name of the split.
        labelled: frames that get a mask: "all", "one" per video (the middle one; in cityscapes number 19, as there),
            or their positions.
        truth: write the same split with all masks there too, as ground truth to evaluate against; pictures and videos
            are hard links of those in `root` where the file system allows it.

    Returns:
        the root.

    Raises:
        InputError: no such layout, or a frame to label that the videos do not have.
    """
    if layout not in WRITERS:
        raise InputError(f"synthetic: expected layout {', '.join(WRITERS)}, came {layout!r}")
    root = Path(root)
    chosen = [_positions(video, labelled, layout) for video in videos]
    for video, positions in zip(videos, chosen, strict=True):
        WRITERS[layout](video, root, split, positions, None)
    _finish(videos, root, layout, split)
    if truth is not None:
        for video in videos:
            WRITERS[layout](video, Path(truth), split, range(len(video)), root)
        _finish(videos, Path(truth), layout, split)
    return root


def _positions(video: SyntheticVideo, labelled: Labelled, layout: str) -> Sequence[int]:
    if labelled == "all":
        return range(len(video))
    if labelled == "one":
        return [min(BEFORE, len(video) - 1) if layout == "cityscapes" else len(video) // 2]
    positions = [int(position) for position in labelled]
    if not all(0 <= position < len(video) for position in positions):
        raise InputError(f"{video.name}: expected frames in 0..{len(video) - 1} to label, came {positions}")
    return positions


# -- one writer per layout: (video, root, split, labelled positions, root with the same pictures or None) --------------


def _folder(video: SyntheticVideo, root: Path, split: str, labelled: Sequence[int], twin: Path | None) -> None:
    file = _fresh(root / "videos" / f"{video.name}.mp4")
    if twin is not None:
        _link(twin / "videos" / file.name, file)
    else:
        with VideoWriter(file, video.size, video.rate, crf=16) as out:
            for frame in video:
                out.write(frame.image)
    for position in labelled:
        _mask(video, position, root / "masks" / video.name / f"{position:06d}.png", _from_one(video.label_space))


def _frames(video: SyntheticVideo, root: Path, split: str, labelled: Sequence[int], twin: Path | None) -> None:
    for position in range(len(video)):
        _picture(video, position, root, f"videos/{video.name}/{position:06d}.jpg", twin)
    for position in labelled:
        _mask(video, position, root / "masks" / video.name / f"{position:06d}.png", _from_one(video.label_space))


def _vspw(video: SyntheticVideo, root: Path, split: str, labelled: Sequence[int], twin: Path | None) -> None:
    for position in range(len(video)):
        _picture(video, position, root, f"data/{video.name}/origin/{position:08d}.jpg", twin)
    for position in labelled:
        _mask(
            video, position, root / "data" / video.name / "mask" / f"{position:08d}.png", _from_one(video.label_space)
        )


def _camvid(video: SyntheticVideo, root: Path, split: str, labelled: Sequence[int], twin: Path | None) -> None:
    for position in range(len(video)):
        _picture(video, position, root, f"{split}/{video.name}_{position:06d}.png", twin)
    for position in labelled:
        _mask(video, position, root / f"{split}annot" / f"{video.name}_{position:06d}.png", space11(), CAMVID_NAMES)


def _cityscapes(video: SyntheticVideo, root: Path, split: str, labelled: Sequence[int], twin: Path | None) -> None:
    city = video.name.replace("_", "-")
    place = f"{split}/{city}/{city}_000000"
    for position in range(len(video)):
        _picture(video, position, root, f"leftImg8bit_sequence/{place}_{position:06d}_leftImg8bit.png", twin)
    for position in labelled:
        _picture(video, position, root, f"leftImg8bit/{place}_{position:06d}_leftImg8bit.png", None)
        _mask(
            video,
            position,
            root / "gtFine" / f"{place}_{position:06d}_gtFine_labelIds.png",
            label_space(),
            CITYSCAPES_NAMES,
        )


def _images(video: SyntheticVideo, root: Path, split: str, labelled: Sequence[int], twin: Path | None) -> None:
    for position in labelled:
        name = f"{split}/{video.name}_{position:06d}.png"
        _picture(video, position, root, f"images/{name}", None)
        _mask(video, position, root / "masks" / name, _from_one(video.label_space))


Writer = Callable[[SyntheticVideo, Path, str, Sequence[int], Path | None], None]
WRITERS: dict[str, Writer] = {
    "folder": _folder,
    "frames": _frames,
    "vspw": _vspw,
    "camvid": _camvid,
    "cityscapes": _cityscapes,
    "images": _images,
}


def _finish(videos: Sequence[SyntheticVideo], root: Path, layout: str, split: str) -> None:
    """Write the list of the split and the class table, where the layout has them."""
    space = videos[0].label_space
    if layout in ("folder", "frames", "vspw"):
        (root / f"{split}.txt").write_text("".join(f"{video.name}\n" for video in videos), encoding="utf-8")
    if layout in ("folder", "frames", "images", "vspw"):
        named = enumerate(zip(space.names, space.palette, strict=True), 1)
        table = {0: "ignore"} | {raw: {"name": name, "color": list(color)} for raw, (name, color) in named}
        text = yaml.safe_dump(table, sort_keys=False, default_flow_style=None)
        (root / "classes.yaml").write_text(text, encoding="utf-8")


def _from_one(space: LabelSpace) -> LabelSpace:
    """Return the classes with raw ids 1..K and 0 for ignored pixels, as annotation tools number them."""
    return LabelSpace(space.names, space.palette, {0: IGNORE, **{i + 1: i for i in range(len(space))}})


def _mask(
    video: SyntheticVideo, position: int, path: Path, space: LabelSpace, names: Sequence[str] | None = None
) -> None:
    """Write the mask of a frame in the raw ids of `space`; `names`: its classes that stand for the video's own."""
    labels = video.labels(position)
    if names is not None:
        labels = np.array([space.names.index(name) for name in names], np.uint8)[labels]
    write_label(_fresh(path), labels, space)


def _picture(video: SyntheticVideo, position: int, root: Path, name: str, twin: Path | None) -> None:
    file = _fresh(root / name)
    if twin is not None:
        _link(twin / name, file)
    else:
        Image.fromarray(video.image(position).permute(1, 2, 0).numpy()).save(file, quality=95, compress_level=1)


def _fresh(path: Path) -> Path:
    """Make the folder of a file, and no file: a hard link must not be written through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def _link(source: Path, file: Path) -> None:
    try:
        os.link(source, file)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, file)
