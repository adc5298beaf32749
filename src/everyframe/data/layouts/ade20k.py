"""ADE20K as the scene parsing benchmark has it (Zhou et al., CVPR 2017): 150 classes on still pictures.

    ROOT/images/training/ADE_train_00000001.jpg         ROOT is ADEChallengeData2016; also validation, testing
    ROOT/annotations/training/ADE_train_00000001.png    ids: 0 other, 1..150 classes

Pictures and masks lie in parallel folders; the files of the whole ADE20K (`*_seg.png`) are another data set.
"""

from __future__ import annotations

from pathlib import Path

from everyframe.data.class_tables import read_table
from everyframe.data.layout import Split
from everyframe.data.listing import list_frames, list_masks, require_folder, stills
from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace

FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
OTHER = 0
"""Raw id of pixels of any other class, which are ignored."""


def ade20k(root: Path, split: str) -> Split:
    """Read one split as videos of one frame; test has no masks.

    Raises:
        InputError: no such split, or its pictures or masks are missing.
    """
    root = Path(root)
    if split not in FOLDERS:
        raise InputError(f"{root}: expected split {', '.join(FOLDERS)}, came {split!r}; choose one of them")
    folder, holds = FOLDERS[split], "of ADEChallengeData2016.zip"
    pictures = list_frames(require_folder(root / "images" / folder, f"the pictures {holds}"))
    if split == "test":
        return stills(pictures, {}, complain=False), label_space()
    masks = list_masks(require_folder(root / "annotations" / folder, f"the masks {holds}"))
    return stills(pictures, masks), label_space()


def splits(root: Path) -> list[str]:
    """Names of the splits whose pictures are there."""
    return [split for split, folder in FOLDERS.items() if (root / "images" / folder).is_dir()]


def label_space() -> LabelSpace:
    """Return the 150 classes; raw ids are one more than train ids."""
    names = tuple(row["name"] for row in read_table("ade20k_classes"))
    return LabelSpace(names, raw_to_train={OTHER: IGNORE, **{train + 1: train for train in range(len(names))}})
