"""COCO-Stuff 164k (Caesar et al., CVPR 2018): 171 classes on COCO's still pictures, in both forms of its masks.

    ROOT/images/train2017/000000000009.jpg                      also val2017, test2017, unlabeled2017
    ROOT/annotations/train2017/000000000009.png                 ids as published: 0..181 and 255
    ROOT/annotations/train2017/000000000009_labelTrainIds.png   or without the 11 unused ids: 0..170 and 255

Pictures may lie in ROOT/train2017 too, masks in ROOT/stuffthingmaps/train2017. Where both forms lie side by side the
published one is read. Train ids are the same 0..170 for both.
"""

from __future__ import annotations

from pathlib import Path

from everyframe.data.class_tables import read_table
from everyframe.data.layout import Split
from everyframe.data.listing import list_frames, list_masks, require_folder, stills
from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace

FOLDERS = {"train": "train2017", "val": "val2017", "test": "test2017", "unlabeled": "unlabeled2017"}
LABELLED = ("train", "val")
IMAGES = ("images", ".")
MASKS = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017")
REDUCED = "_labelTrainIds"
"""Ending of masks whose ids were brought to 0..170."""


def coco_stuff(root: Path, split: str) -> Split:
    """Read one split as videos of one frame; test and unlabeled have no masks.

    Raises:
        InputError: no such split, or its pictures or masks are missing.
    """
    root = Path(root)
    if split not in FOLDERS:
        raise InputError(f"{root}: expected split {', '.join(FOLDERS)}, came {split!r}; choose one of them")
    folder = FOLDERS[split]
    pictures = list_frames(_folder(root, IMAGES, folder, "COCO's pictures"))
    if split not in LABELLED:
        return stills(pictures, {}, complain=False), label_space()
    place = _folder(root, MASKS, folder, "COCO-Stuff's masks (stuffthingmaps_trainval2017.zip)")
    masks = list_masks(place)
    published = {stem: path for stem, path in masks.items() if not stem.endswith(REDUCED)}
    reduced = {stem.removesuffix(REDUCED): path for stem, path in masks.items() if stem.endswith(REDUCED)}
    if not masks:
        raise InputError(f"{place}: expected masks, found none; unpack stuffthingmaps_trainval2017.zip there")
    return stills(pictures, published or reduced), label_space(reduced=not published)


def splits(root: Path) -> list[str]:
    """Names of the splits whose pictures are there."""
    return [split for split, folder in FOLDERS.items() if any((root / place / folder).is_dir() for place in IMAGES)]


def label_space(reduced: bool = False) -> LabelSpace:
    """Return the 171 classes.

    Args:
        reduced: raw ids are 0..170, as in masks named *_labelTrainIds.png; else 0..181, of which 11 are never used.
    """
    rows = read_table("coco_stuff_labels")
    names = tuple(row["name"] for row in rows if row["train_id"])
    published = {int(row["raw_id"]): int(row["train_id"] or IGNORE) for row in rows}
    table = {train: train for train in range(len(names))} if reduced else published
    return LabelSpace(names, raw_to_train={**table, IGNORE: IGNORE})


def _folder(root: Path, places: tuple[str, ...], folder: str, holds: str) -> Path:
    there = [root / place / folder for place in places if (root / place / folder).is_dir()]
    return there[0] if there else require_folder(root / places[0] / folder, holds)
