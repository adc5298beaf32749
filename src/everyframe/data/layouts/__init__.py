"""Layouts: how data sets lie on disk. Adding one costs one file and a line in the dicts below."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from everyframe.data.layout import Layout, Split, check_split
from everyframe.data.layouts import ade20k, camvid, cityscapes, coco_stuff, folder, images, mapillary, vspw
from everyframe.errors import InputError
from everyframe.labels import LabelSpace

LAYOUTS: dict[str, Layout] = {
    "folder": folder.folder,
    "images": images.images,
    "vspw": vspw.vspw,
    "vspw480": vspw.vspw480,
    "camvid": camvid.camvid,
    "camvid32": camvid.camvid32,
    "cityscapes": cityscapes.cityscapes,
    "cityscapes_sequence": cityscapes.cityscapes_sequence,
    "coco_stuff": coco_stuff.coco_stuff,
    "ade20k": ade20k.ade20k,
    "mapillary": mapillary.mapillary,
}
"""Name -> `layout(root, split) -> (videos, label space)`."""

SPLITS: dict[str, Callable[[Path], list[str]]] = {
    "folder": folder.splits,
    "images": images.splits,
    "vspw": vspw.splits,
    "vspw480": vspw.splits,
    "camvid": camvid.splits,
    "camvid32": camvid.splits,
    "cityscapes": cityscapes.splits,
    "cityscapes_sequence": cityscapes.sequence_splits,
    "coco_stuff": coco_stuff.splits,
    "ade20k": ade20k.splits,
    "mapillary": mapillary.splits,
}
"""Name -> which splits lie under a root."""

CLASSES: dict[str, Callable[[], LabelSpace]] = {
    "vspw": vspw.standard_space,
    "vspw480": vspw.standard_space,
    "camvid": camvid.space11,
    "camvid32": camvid.space32,
    "cityscapes": cityscapes.label_space,
    "cityscapes_sequence": cityscapes.label_space,
    "coco_stuff": coco_stuff.label_space,
    "ade20k": ade20k.label_space,
    "mapillary": mapillary.label_space,
}
"""Name -> the classes that the data set has as published, of layouts whose classes do not depend on the user."""


def parse_spec(spec: str | Path) -> tuple[str, Path]:
    """Split "LAYOUT:ROOT"; a bare path is looked at by `recognise`.

    Raises:
        InputError: no such layout, or nothing at the path.
    """
    name, colon, rest = str(spec).partition(":")
    drive = os.name == "nt" and len(name) == 1 and name not in LAYOUTS  # C:/data
    if not colon or drive or Path(spec).exists():
        root = Path(spec).expanduser()
        if not root.is_dir():
            came = "a file" if root.is_file() else "nothing there"
            raise InputError(f"{root}: expected the folder of a data set, came {came}; check the path")
        return recognise(root), root
    if name not in LAYOUTS:
        raise InputError(f"{spec}: expected LAYOUT:ROOT with one of {', '.join(LAYOUTS)}, came layout {name!r}")
    root = Path(rest).expanduser()
    if not rest or not root.is_dir():
        raise InputError(f"{spec}: expected the folder of a data set after {name}:, came {rest!r}; check the path")
    return name, root


def split_spec(spec: str, split: str) -> tuple[str, list[str]]:
    """Take the splits off "LAYOUT:ROOT@SPLIT" or "LAYOUT:ROOT@SPLIT+SPLIT"; `split` where none is named."""
    place, at, named = spec.rpartition("@")
    if not at or Path(spec.removeprefix(spec.partition(":")[0] + ":")).exists():  # a path may hold an @ too
        return spec, [split]
    return place, re.split(r"[+,]", named)


def recognise(root: Path) -> str:
    """Name the layout of a folder by the files that no other layout has; `folder` when there are none of those."""
    marks = {
        "cityscapes_sequence": root / "leftImg8bit_sequence",
        "cityscapes": root / "leftImg8bit",
        "camvid": root / "trainannot",
        "camvid32": root / "701_StillsRaw_full",
        "coco_stuff": root / "images" / "train2017",
        "ade20k": root / "objectInfo150.txt",
        "mapillary": root / "training" / "images",
    }
    for name, mark in marks.items():
        if mark.exists():
            return name
    if (root / "videos").is_dir():
        return "folder"
    if (root / "data").is_dir():
        return "vspw"
    masks = (root / name for name in images.MASK_FOLDERS)
    if (root / "images").is_dir() and any(path.is_dir() for path in masks):
        return "images"
    return "folder"


def load_split(spec: str | Path, split: str) -> Split:
    """Read one split of a data set.

    Args:
        spec: "LAYOUT:ROOT", for example "vspw:/data/VSPW_480p"; a bare path is the user's own folder, or another
            layout where its files show it beyond doubt (see `recognise`).
        split: "train", "val", "test"; "all" where the layout allows it.

    Raises:
        InputError: the data is not there or not in this layout.
    """
    name, root = parse_spec(spec)
    return read_split(name, root, split)


def read_split(layout: str, root: Path, split: str) -> Split:
    """Read one split of a data set in a layout of `LAYOUTS`, and check that the layout keeps its contract.

    Raises:
        InputError: the data is not there or not in this layout, or see `check_split`.
    """
    return check_split(LAYOUTS[layout](root, split), layout)


def split_names(layout: str, root: Path) -> list[str]:
    """Return the names of the splits that lie under a root.

    Raises:
        InputError: nobody wrote how to find them.
    """
    if layout not in SPLITS:
        raise InputError(
            f"layout {layout}: expected a line in everyframe.data.layouts.SPLITS that tells its splits, found none; "
            f'write SPLITS["{layout}"] = lambda root: ["train", "val"], or name the splits'
        )
    return SPLITS[layout](root)
