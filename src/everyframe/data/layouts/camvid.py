"""CamVid (Brostow et al., Pattern Recognition Letters 2009): 701 labelled frames of five drives, 11 or 32 classes.

Two forms are on people's disks, and both are read:

    SegNet form, 480x360, 11 classes         original form, 960x720, 32 colours
    ROOT/train/0001TP_006690.png             ROOT/701_StillsRaw_full/0001TP_006690.png
    ROOT/trainannot/0001TP_006690.png        ROOT/LabeledApproved_full/0001TP_006690_L.png
    ROOT/val, valannot, test, testannot      (or ROOT/train, train_labels, val, val_labels, test, test_labels)

Ids in SegNet's masks: 0..10 classes, 11 void. The original is cut into train/val/test as SegNet did (367/101/233
frames) unless ROOT holds train.txt, val.txt, test.txt with frame names; frames of a list are in no other split. Of the
32 classes Void is left out, so K = 31.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median

from everyframe.data.class_tables import color_of, read_table
from everyframe.data.layout import Split, VideoRef
from everyframe.data.listing import (
    SPLITS,
    join,
    list_frames,
    list_masks,
    lists_of,
    pick_split,
    report_orphans,
    require_folder,
    require_split,
)
from everyframe.data.mapping import read_mapping
from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace

STILLS, APPROVED = "701_StillsRaw_full", "LabeledApproved_full"
NAME = re.compile(r"(?P<drive>.+)_f?(?P<number>\d+)")
TEST_FROM = {"0001TP": 8550, "Seq05VD": 0}
"""Drive -> first frame number of SegNet's test set."""
VAL = {"0016E5": range(7959, 8160)}
"""Drive -> frame numbers of SegNet's validation set."""


def camvid(root: Path, split: str) -> Split:
    """Read CamVid with 11 classes from either form; the 32 colours are merged as SegNet merged them.

    Frames of one drive are one video, cut where more than five times the usual step is missing.

    Raises:
        InputError: neither form is there, or the split is not.
    """
    root = Path(root)
    if (root / f"{split}annot").is_dir() or (root / "trainannot").is_dir():
        frames = list_frames(require_split(root / split, "the frames of this split", splits(root)))
        masks = list_masks(require_folder(root / f"{split}annot", "the masks of this split"))
        return _videos(frames, masks, root / f"{split}annot"), space11()
    videos, _ = camvid32(root, split)
    fine, coarse = space32(), space11()
    return videos, fine.mapped(coarse, read_mapping("camvid32_to_camvid11", fine, coarse))


def camvid32(root: Path, split: str) -> Split:
    """Read the original CamVid with its 32 colours as 31 classes and Void = ignore.

    Raises:
        InputError: the original form is not there, or the split is not.
    """
    root = Path(root)
    if (root / f"{split}_labels").is_dir():
        images, labels = root / split, root / f"{split}_labels"
        frames, masks = list_frames(require_folder(images, "the frames of this split")), list_masks(labels)
    else:
        holds = f"CamVid's frames ({STILLS} and {APPROVED}, or train and trainannot, or train and train_labels)"
        labels = root / APPROVED
        frames, masks = list_frames(require_folder(root / STILLS, holds)), list_masks(require_folder(labels, "masks"))
        wanted = _wanted(root, split, frames)
        if not wanted:
            raise InputError(f"{root}: expected split train, val, test or all, came {split!r}; choose one of them")
        frames = {stem: path for stem, path in frames.items() if stem in wanted}
        masks = {stem: path for stem, path in masks.items() if stem.removesuffix("_L") in wanted}
    return _videos(frames, {stem.removesuffix("_L"): path for stem, path in masks.items()}, labels), space32()


def splits(root: Path) -> list[str]:
    """Names of the splits that are there."""
    if (root / STILLS).is_dir():
        return list(SPLITS)
    return [split for split in SPLITS if (root / split).is_dir()]


def _wanted(root: Path, split: str, frames: Collection[str]) -> set[str]:
    """Return the names of the frames of a split: of its list, else SegNet's that no other list takes."""
    lists = lists_of(root)
    if split in lists or split == "all":
        return set(pick_split(root, split, frames, ()))
    return {stem for stem in frames if segnet_split(stem) == split}.difference(*lists.values())


def segnet_split(stem: str) -> str:
    """Return the split of a frame in SegNet's division."""
    drive, number = _parse(stem)
    if drive in TEST_FROM and number >= TEST_FROM[drive]:
        return "test"
    return "val" if drive in VAL and number in VAL[drive] else "train"


def space11() -> LabelSpace:
    """Return SegNet's 11 classes: ids 0..10, 11 void."""
    rows = read_table("camvid11_classes")
    names = tuple(row["name"] for row in rows)
    return LabelSpace(names, tuple(map(color_of, rows)), {**{i: i for i in range(len(names))}, len(names): IGNORE})


def space32() -> LabelSpace:
    """Return the original's 32 colours; raw ids are the lines of its label_colors.txt, Void (30) is ignored."""
    rows = read_table("camvid32_classes")
    kept = [row for row in rows if row["name"] != "Void"]
    train_ids = {row["name"]: train for train, row in enumerate(kept)}
    return LabelSpace(
        names=tuple(train_ids),
        palette=tuple(map(color_of, kept)),
        raw_to_train={int(row["id"]): train_ids.get(row["name"], IGNORE) for row in rows},
        colors={color_of(row): int(row["id"]) for row in rows},
    )


def _parse(stem: str) -> tuple[str, int]:
    match = NAME.fullmatch(stem)
    if match is None:
        raise InputError(f"{stem}: expected a CamVid frame name such as 0001TP_006690; remove this file")
    return match["drive"], int(match["number"])


def _videos(frames: Mapping[str, Path], masks: Mapping[str, Path], masks_folder: Path) -> list[VideoRef]:
    drives: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for stem in frames:
        drive, number = _parse(stem)
        drives[drive].append((number, stem))
    videos: list[VideoRef] = []
    for drive in sorted(drives):
        pieces = _cut_at_gaps(sorted(drives[drive]))
        for piece in pieces:
            stems = [stem for _, stem in piece]
            name = drive if len(pieces) == 1 else f"{drive}_{piece[0][0]:05d}"
            own = {stem: masks[stem] for stem in stems if stem in masks}
            videos.append(VideoRef(name, join({stem: frames[stem] for stem in stems}, own, masks_folder)))
    report_orphans(masks, frames, "unpack all pictures")
    return videos


def _cut_at_gaps(numbered: list[tuple[int, str]]) -> list[list[tuple[int, str]]]:
    """Cut a drive where more than five times its usual step is missing: 0016E5 has gaps of 9 s and more."""
    steps = [b[0] - a[0] for a, b in pairwise(numbered)]
    limit = 5 * median(steps) if steps else 0
    pieces = [[numbered[0]]]
    for step, frame in zip(steps, numbered[1:], strict=True):
        if step > limit:
            pieces.append([])
        pieces[-1].append(frame)
    return pieces
