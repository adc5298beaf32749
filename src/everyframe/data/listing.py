"""Listing the files of a data set: what every layout needs, and nothing is decoded."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from everyframe.data.findings import Level, found
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.errors import InputError
from everyframe.io.names import IMAGE_ENDINGS, VIDEO_ENDINGS, natural_key

SPLITS = ("train", "val", "test")
HELD_OUT = 5
"""Where nobody wrote a val.txt, one labelled video in this many is held out for validation."""


LINK_FIX = "bring the files back (is a disk not mounted?) or remove the links"


class NoSuchSplit(InputError):
    """The data set has no such split.

    Args:
        what: what was expected and what was found.
        there: the splits that can be read.
        make: how to make the split.
    """

    def __init__(self, what: str, there: Sequence[str], make: str) -> None:
        self.what, self.there, self.make = what, tuple(there), make
        super().__init__(f"{what}; take --split {' or '.join(there)}, or {make}" if there else f"{what}; {make}")


def digest(text: str) -> int:
    """Return a number that depends on `text` only: the same on every machine and in every run (md5)."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest(), "big")


def require_folder(path: Path, holds: str) -> Path:
    """Return `path`.

    Raises:
        InputError: it is not a folder.
    """
    if not path.is_dir():
        came = "a file" if path.is_file() else "nothing there"
        raise InputError(f"{path}: expected a folder with {holds}, came {came}; check the path")
    return path


def require_split(folder: Path, holds: str, there: Sequence[str]) -> Path:
    """Return `folder`, which holds a split; `there` are the splits that can be read.

    Raises:
        NoSuchSplit: it is not a folder.
    """
    if not folder.is_dir():
        raise NoSuchSplit(f"{folder}: expected a folder with {holds}, came nothing there", there, "check the path")
    return folder


def subfolders(folder: Path) -> list[str]:
    """Names of the folders inside `folder`, dot-folders left out, in natural order."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted((e.name for e in entries if e.is_dir() and not e.name.startswith(".")), key=natural_key)


def list_frames(folder: Path, *, natural: bool = False, nested: bool = False) -> dict[str, Path]:
    """List the frames of a video stored as pictures: stem -> file, in order.

    Dot-files and files that are no pictures are skipped. An empty file (0 bytes) and a link to a file that is not there
    are reported and left out.

    Args:
        folder: holds the pictures.
        natural: order frame_2 before frame_10; else the order of the characters.
        nested: look into subfolders too; stems are then relative paths without ending.
    """
    return _list(folder, natural, nested, "these frames are left out")


def list_masks(folder: Path, *, nested: bool = False) -> dict[str, Path]:
    """List the masks of a video as `list_frames` does; a frame whose mask is left out counts as unlabelled."""
    return _list(folder, False, nested, "their frames count as unlabelled") if folder.is_dir() else {}


def _list(folder: Path, natural: bool, nested: bool, consequence: str) -> dict[str, Path]:
    good: dict[str, Path] = {}
    empty: list[Path] = []
    broken: list[Path] = []
    twice: list[Path] = []
    for stem, path, size in _pictures(folder, "", nested):
        if size == 0:
            empty.append(path)
        elif size is None:
            broken.append(path)
        elif stem in good:
            twice.append(path)
        else:
            good[stem] = path
    if empty:
        found("warning", f"an empty file (0 bytes); {consequence}", "copy the file again or remove it", sorted(empty))
    if broken:
        found("warning", f"a link to a file that is not there; {consequence}", LINK_FIX, sorted(broken))
    if twice:
        found("error", "another picture of the same name but another ending lies beside it", "remove one", twice)
    return {stem: good[stem] for stem in (sorted(good, key=natural_key) if natural else sorted(good))}


def _pictures(folder: Path, prefix: str, nested: bool) -> Iterable[tuple[str, Path, int | None]]:
    """Yield (stem, file, bytes) of the pictures; None bytes: a link to nothing."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.name.startswith("."):
                continue
            stem, ending = os.path.splitext(entry.name)
            if nested and entry.is_dir():
                if entry.is_symlink() and folder.resolve().is_relative_to(Path(entry.path).resolve()):
                    continue  # leads back to a folder that is being listed, for ever
                yield from _pictures(Path(entry.path), f"{prefix}{entry.name}/", nested)
            elif ending.lower() in IMAGE_ENDINGS and entry.is_file():
                yield prefix + stem, Path(entry.path), entry.stat().st_size
            elif ending.lower() in IMAGE_ENDINGS and entry.is_symlink() and not entry.is_dir():
                yield prefix + stem, Path(entry.path), None


def video_files(folder: Path) -> list[Path]:
    """Return the video files in a folder, and links to nothing that are called like one, sorted; no dot-files."""
    called = (p for p in folder.iterdir() if p.suffix.lower() in VIDEO_ENDINGS and not p.name.startswith("."))
    return sorted(p for p in called if not p.is_dir())


def list_videos(folder: Path) -> list[Path]:
    """List the video files in a folder; a link to a file that is not there is reported and left out."""
    files = video_files(folder)
    gone = [p for p in files if not p.exists()]
    if gone:
        found("warning", "a link to a file that is not there; this video is left out", LINK_FIX, gone)
    return [p for p in files if p not in gone]


def read_list(path: Path) -> list[str]:
    """Read a list of names, one per line; blank lines and the missing newline of the last line do not matter.

    Raises:
        InputError: there is no such file, or it is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: expected a list with one name per line, found no file; write it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text with one name per line, came {error}; save it again") from None
    names = [line.strip() for line in lines if line.strip()]
    once = list(dict.fromkeys(names))
    if len(once) < len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        found("warning", f"names listed twice, counted once: {', '.join(twice[:5])}", "remove the second line", [path])
    return once


def lists_of(root: Path) -> dict[str, list[str]]:
    """Read train.txt, val.txt and test.txt, those that exist."""
    return {split: read_list(root / f"{split}.txt") for split in SPLITS if (root / f"{split}.txt").is_file()}


def pick_split(root: Path, split: str, names: Iterable[str], labelled: Iterable[str]) -> list[str]:
    """Return the names that belong to a split.

    `SPLIT.txt` decides where it exists. Without it: `all` is everything; `train` is what no list and no held-out
    video takes; `val`, when neither train.txt nor val.txt exists, is one in five of the labelled videos (at least
    one): those with the smallest md5 of their names, so that the choice is the same everywhere.

    Raises:
        InputError: a list names what is not there.
        NoSuchSplit: the split is not defined.
    """
    names, labelled = list(names), sorted(set(labelled), key=lambda name: (digest(name), name))
    lists = lists_of(root)
    if split in lists:
        there = set(names)
        missing = [name for name in lists[split] if name not in there]
        if missing:
            found(
                "error",
                f"{len(missing)} of {len(lists[split])} names have no data under {root}: {', '.join(missing[:3])}",
                _without_ending(missing, there) or "copy the data there or remove these lines",
                [root / f"{split}.txt"],
            )
        return [name for name in lists[split] if name in there]
    if split == "all":
        return names
    taken = {name for listed in lists.values() for name in listed}
    held_out: set[str] = set()
    if holds_out(root):
        free = [name for name in labelled if name not in taken]
        held_out = set(free[: max(1, len(free) // HELD_OUT)]) if len(free) > 1 else set()
    if split == "train":
        return [name for name in names if name not in taken | held_out]
    if split == "val" and held_out:
        return [name for name in names if name in held_out]
    few = " and fewer than two labelled videos to hold one out" if split == "val" and "train" not in lists else ""
    raise NoSuchSplit(
        f"{root / f'{split}.txt'}: expected a list of the videos of split {split!r}, found no file{few}",
        [*defined_splits(root, labelled), "all"],
        "write one video name per line",
    )


def _without_ending(missing: Sequence[str], there: set[str]) -> str:
    """Return what to write where the names in a list are those of files; "" where they are not."""
    name = next((name for name in missing if os.path.splitext(name)[0] in there), None)
    return "" if name is None else f"write {os.path.splitext(name)[0]}, without the ending"


def holds_out(root: Path) -> bool:
    """Whether nobody wrote which videos are train and val, so that `pick_split` holds some out."""
    return not any((root / f"{split}.txt").is_file() for split in ("train", "val"))


def defined_splits(root: Path, labelled: Iterable[str]) -> list[str]:
    """Names of the splits that `pick_split` can give."""
    lists = {split for split in SPLITS if (root / f"{split}.txt").is_file()}
    if holds_out(root) and len(set(labelled)) > 1:
        lists.add("val")
    return [split for split in SPLITS if split in lists | {"train"}]


def join(
    frames: Mapping[str, Path],
    masks: Mapping[str, Path],
    masks_folder: Path,
    *,
    orphans: Level = "error",
    fix: str = "give each mask the file name of its frame",
) -> tuple[FrameRef, ...]:
    """Match frames and masks of equal stem; masks without a frame are reported as `orphans` says."""
    lost = [path for stem, path in masks.items() if stem not in frames]
    if lost:
        found(
            orphans, f"a mask without a frame of that name ({len(lost)} of {len(masks)} in {masks_folder})", fix, lost
        )
    return tuple(
        FrameRef(index, stem.rsplit("/", 1)[-1], image, masks.get(stem))
        for index, (stem, image) in enumerate(frames.items())
    )


def stills(pictures: Mapping[str, Path], masks: Mapping[str, Path], *, complain: bool = True) -> list[VideoRef]:
    """Match still pictures and masks of equal stem: each picture is a video of one frame.

    Args:
        pictures: stem -> file, in order.
        masks: stem -> file.
        complain: warn of pictures without a mask, which stay, and of masks without a picture, which are left out.
    """
    bare = [path for stem, path in pictures.items() if stem not in masks]
    if bare and complain:
        found("warning", "a picture without a mask", "unpack all masks", bare)
    if complain:
        report_orphans(masks, pictures, "unpack all pictures")
    return [VideoRef(stem, (FrameRef(0, stem, image, masks.get(stem)),)) for stem, image in pictures.items()]


def report_orphans(masks: Mapping[str, Path], pictures: Mapping[str, Path], fix: str) -> None:
    """Warn of masks whose picture is missing."""
    lost = [path for stem, path in masks.items() if stem not in pictures]
    if lost:
        found("warning", "a mask without its picture; left out", fix, lost)
