"""Cityscapes (Cordts et al., CVPR 2016): 19 classes; as images, or as the 30-frame snippets around each labelled frame.

    ROOT/leftImg8bit/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png             SPLIT train, val, test, train_extra
    ROOT/gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png              gtCoarse for train_extra
    ROOT/leftImg8bit_sequence/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png    for `cityscapes_sequence`

Masks hold label ids; `LabelSpace.encode` turns them into the 19 train ids and `decode` turns predictions back into
label ids, which is what the test server wants.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from everyframe.data.class_tables import color_of, read_table
from everyframe.data.layout import FrameRef, Split, VideoRef
from everyframe.data.listing import (
    list_frames,
    list_masks,
    report_orphans,
    require_folder,
    require_split,
    stills,
    subfolders,
)
from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace

IMAGES, SEQUENCE = "leftImg8bit", "leftImg8bit_sequence"
ALL_SPLITS = ("train", "val", "test", "train_extra")
BEFORE, AFTER = 19, 10
"""A snippet is the labelled frame, the 19 frames before it and the 10 after it."""


def cityscapes(root: Path, split: str) -> Split:
    """Read the labelled pictures as videos of one frame. The test split has no labels (its masks are dummies).

    Raises:
        InputError: pictures or masks of the split are missing.
    """
    root = Path(root)
    holds = f"one folder per city ({IMAGES}_trainvaltest.zip)"
    folder = require_split(root / IMAGES / split, holds, splits(root))
    masks = _masks(root, split)
    frames = _pictures(folder)
    return stills(frames, masks, complain=_is_labelled(split)), label_space()


def cityscapes_sequence(root: Path, split: str) -> Split:
    """Read a video of up to 30 frames around each labelled frame f: frames f-19 .. f+10 as far as they lie on disk.

    The labelled frame is often number 000019 of its snippet but not in all cities, so f is taken from the name of the
    mask. Whoever kept only some frames around each label (the full set has 324 GB) gets the unbroken run around f. A
    labelled frame that is missing in the sequence folder is taken from leftImg8bit.

    Raises:
        InputError: frames or masks of the split are missing.
    """
    root = Path(root)
    holds = f"one folder per city ({SEQUENCE}_trainvaltest.zip)"
    folder = require_split(root / SEQUENCE / split, holds, sequence_splits(root))
    frames = _pictures(folder)
    masks = _masks(root, split)
    middles = _pictures(root / IMAGES / split) if (root / IMAGES / split).is_dir() else {}
    anchors = sorted(masks or middles)
    if not anchors:
        raise InputError(
            f"{root / IMAGES / split}: expected the pictures of split {split!r}, which tell the middle of each "
            f"snippet, found none; unpack {IMAGES}_trainvaltest.zip"
        )
    videos = []
    for anchor in anchors:
        snippet = _snippet(anchor, frames, middles)
        if snippet:
            refs = tuple(FrameRef(i, key, path, masks.get(key)) for i, (key, path) in enumerate(snippet))
            videos.append(VideoRef(anchor, tuple(ref if ref.name == anchor else _bare(ref) for ref in refs)))
    report_orphans(masks, frames | middles, f"unpack all of {IMAGES}")
    return videos, label_space()


def splits(root: Path) -> list[str]:
    """Names of the splits of `cityscapes` that are there."""
    return [split for split in ALL_SPLITS if (root / IMAGES / split).is_dir()]


def sequence_splits(root: Path) -> list[str]:
    """Names of the splits of `cityscapes_sequence` that are there."""
    return [split for split in ALL_SPLITS if (root / SEQUENCE / split).is_dir()]


def label_space() -> LabelSpace:
    """Return the 19 evaluated classes; label ids -1..33 are raw ids, those not evaluated are ignored."""
    rows = read_table("cityscapes_labels")
    kept = sorted((row for row in rows if row["train_id"]), key=lambda row: int(row["train_id"]))
    return LabelSpace(
        names=tuple(row["name"] for row in kept),
        palette=tuple(map(color_of, kept)),
        raw_to_train={int(row["label_id"]): int(row["train_id"] or IGNORE) for row in rows},
    )


def _is_labelled(split: str) -> bool:
    return split != "test"


def _annotation(split: str) -> str:
    return "gtCoarse" if split == "train_extra" else "gtFine"


def _masks(root: Path, split: str) -> dict[str, Path]:
    """Return "CITY_SEQ_FRAME" -> mask file; none for the test split."""
    if not _is_labelled(split):
        return {}
    kind = _annotation(split)
    folder = require_folder(root / kind / split, f"one folder per city ({kind}_trainvaltest.zip or {kind}.zip)")
    masks = _by_key(folder, f"_{kind}_labelIds", list_masks)
    if not masks:
        raise InputError(
            f"{folder}: expected masks named *_{kind}_labelIds.png, found none; unpack {kind} again (trainIds and "
            f"colour masks are not needed)"
        )
    return masks


def _pictures(folder: Path) -> dict[str, Path]:
    return _by_key(folder, f"_{IMAGES}", list_frames)


def _by_key(folder: Path, ending: str, list_folder: Callable[[Path], dict[str, Path]]) -> dict[str, Path]:
    files = {stem: path for city in subfolders(folder) for stem, path in list_folder(folder / city).items()}
    return {stem.removesuffix(ending): path for stem, path in files.items() if stem.endswith(ending)}


def _bare(ref: FrameRef) -> FrameRef:
    return FrameRef(ref.index, ref.name, ref.image)


def _snippet(anchor: str, frames: dict[str, Path], middles: dict[str, Path]) -> list[tuple[str, Path]]:
    """Return the unbroken run of frames around the labelled one, at most [f-19, f+10]."""
    start, _, number = anchor.rpartition("_")
    middle = frames.get(anchor) or middles.get(anchor)
    if middle is None or not number.isdecimal():
        return []

    def run(numbers: range) -> list[tuple[str, Path]]:
        keys: list[tuple[str, Path]] = []
        for n in numbers:
            key = f"{start}_{n:0{len(number)}d}"
            if key not in frames:
                break
            keys.append((key, frames[key]))
        return keys

    f = int(number)
    return [*reversed(run(range(f - 1, f - BEFORE - 1, -1))), (anchor, middle), *run(range(f + 1, f + AFTER + 1))]
