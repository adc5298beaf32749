"""VSPW (Miao et al., CVPR 2021): 3,536 videos, 124 classes, 15 frames per second.

    ROOT/train.txt, val.txt, test.txt          one video per line
    ROOT/data/VIDEO/origin/00000000.jpg        frames, in the order of their names
    ROOT/data/VIDEO/mask/00000000.png          ids: 0 "others" and 255 void, 1..124 classes
    ROOT/label_num_dic_final.json              {"wall": "1", ...}, read when there
    ROOT/classes.json                          {"0": "void", "1": "sky", ...}: other classes in the same layout

Any data set of this layout is read; `classes.json` (or classes.yaml) names its classes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from glob import escape
from pathlib import Path

from everyframe.data.class_tables import read_table
from everyframe.data.classes import find_classes, read_classes
from everyframe.data.findings import found
from everyframe.data.layout import Split, VideoRef
from everyframe.data.listing import (
    SPLITS,
    NoSuchSplit,
    join,
    list_frames,
    list_masks,
    read_list,
    require_folder,
    subfolders,
)
from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace

VOID = (0, IGNORE)
"""Raw ids that the authors leave out of training and evaluation: "others" and void."""
IGNORED_NAMES = {"others", "other", "void", "ignore"}


def vspw(root: Path, split: str) -> Split:
    """Read one split of VSPW, or of any data set in its layout.

    Masks are optional, per video and per frame (the test masks are not public). A frame of 0 bytes (such as some of
    video 988_f_Xvy_DCPt8) is left out, a mask of 0 bytes makes its frame unlabelled; both are told in a warning.

    Raises:
        InputError: the data folder or a listed video is missing.
        NoSuchSplit: there is no list of that name.
    """
    root = Path(root)
    data = require_folder(root / "data", "one folder per video (VSPW layout: ROOT/data/VIDEO/origin and mask)")
    listed = root / f"{split}.txt"
    if split != "all" and not listed.is_file():
        what = f"{listed}: expected a list of the videos of split {split!r}, found no file"
        raise NoSuchSplit(what, [*splits(root), "all"], "write one video name per line")
    names = subfolders(data) if split == "all" else read_list(listed)
    missing = [name for name in names if not (data / name / "origin").is_dir()]
    if missing:
        found(
            "error",
            f"expected a folder of frames for each video of {split!r}, {len(missing)} of {len(names)} are missing",
            f"copy them there or remove them from {split}.txt",
            [data / name / "origin" for name in missing],
        )
    gone = set(missing)
    return [_video(data / name) for name in names if name not in gone], label_space(root)


def vspw480(root: Path, split: str) -> Split:
    """Read full-size VSPW at 480 rows, by the authors' rule (`reading.target_size`), without a second copy on disk.

    Frames are resized bilinearly and masks by nearest neighbour. Portrait videos come out narrower than the usual crop
    of 479 columns.
    """
    videos, space = vspw(root, split)
    return [replace(video, height=480) for video in videos], space


def splits(root: Path) -> list[str]:
    """Names of the splits that have a list."""
    return [split for split in SPLITS if (root / f"{split}.txt").is_file()]


def label_space(root: Path) -> LabelSpace:
    """Return the classes: `classes.json` or `classes.yaml` beside the data wins over VSPW's own 124.

    0 and 255 are void unless the file says otherwise.
    """
    own = find_classes(root)
    if own is not None:
        space = read_classes(own).space
        return replace(space, raw_to_train={**dict.fromkeys(VOID, IGNORE), **space.raw_to_train})
    ids = root / "label_num_dic_final.json"
    return _space(_numbered(ids)) if ids.is_file() else standard_space()


def standard_space() -> LabelSpace:
    """Return VSPW's own 124 classes; raw ids are one more than train ids."""
    return _space([row["name"] for row in read_table("vspw_classes")])


def _space(names: list[str]) -> LabelSpace:
    table = {raw + 1: raw for raw in range(len(names))} | dict.fromkeys(VOID, IGNORE)
    return LabelSpace(tuple(names), raw_to_train=table)


def _numbered(path: Path) -> list[str]:
    """Read label_num_dic_final.json: names by raw id 1..K."""
    try:
        by_id = {int(raw): str(name) for name, raw in json.loads(path.read_text(encoding="utf-8")).items()}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f'{path}: expected {{"class name": "id"}}, came {error!r}; copy the file again') from None
    names = {raw: name for raw, name in by_id.items() if raw not in VOID and name.lower() not in IGNORED_NAMES}
    if sorted(names) != list(range(1, len(names) + 1)) or not names:
        raise InputError(f"{path}: expected ids 1..K without a gap, came {sorted(names)[:8]}...; copy the file again")
    return [names[raw] for raw in sorted(names)]


def _video(folder: Path) -> VideoRef:
    frames = list_frames(folder / "origin", natural=True)
    if not frames:
        found(
            "error", "no frames in this folder", "copy the video again or remove it from the list", [folder / "origin"]
        )
    masks = list_masks(folder / "mask")
    # The mask of a frame that was left out for its 0 bytes has no frame; that is no fault of the mask.
    masks = {stem: path for stem, path in masks.items() if stem in frames or not _left_out(folder / "origin", stem)}
    return VideoRef(folder.name, join(frames, masks, folder / "mask", orphans="warning"))


def _left_out(origin: Path, stem: str) -> bool:
    """Whether there is a frame of that name, if only an empty file or a link to nothing."""
    return any(not path.exists() or path.stat().st_size == 0 for path in origin.glob(f"{escape(stem)}.*"))
