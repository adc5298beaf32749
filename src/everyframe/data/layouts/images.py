"""Still pictures and their masks: every picture is a video of one frame.

    ROOT/classes.yaml                    names of the ids (see everyframe/data/classes.py)
    ROOT/images/NAME.jpg                 subfolders are fine
    ROOT/masks/NAME.png                  same name; the folder may be called masks, labels, annotations
    ROOT/images/train, ROOT/masks/train  folders per split (train or training, val or validation, test or testing)
    ROOT/train.txt, val.txt, test.txt    or lists of names; without either see `everyframe.data.listing.pick_split`.
                                         A list takes what it names out of the folder of another split

A CVAT export "Segmentation mask 1.1" with images (JPEGImages, SegmentationClass, labelmap.txt) is read as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from everyframe.data.classes import WRITE_IT, find_classes, labelmap_space, read_classes
from everyframe.data.findings import found
from everyframe.data.layout import FrameRef, Split, VideoRef
from everyframe.data.listing import (
    SPLITS,
    NoSuchSplit,
    defined_splits,
    list_frames,
    list_masks,
    lists_of,
    pick_split,
    require_folder,
    subfolders,
)
from everyframe.data.strays import picture_files, tell_polygons
from everyframe.errors import InputError
from everyframe.labels import LabelSpace

IMAGE_FOLDERS = ("images", "JPEGImages")
MASK_FOLDERS = ("masks", "labels", "annotations", "SegmentationClass")
SPELLINGS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test", "testing")}


def images(root: Path, split: str) -> Split:
    """Read one split of still pictures.

    Raises:
        InputError: no pictures, no classes, a listed picture is missing, a mask belongs to no picture, or other splits
            have folders and this one has neither folder nor list.
    """
    root = require_folder(Path(root), "images, masks and classes.yaml")
    pictures, masks = _first(root, IMAGE_FOLDERS), _first(root, MASK_FOLDERS)
    inside = _split_folder(pictures, split)
    if inside is not None:
        beside = _split_folder(masks, split) or masks / inside.name
        frames, labels = list_frames(inside, nested=True), list_masks(beside, nested=True)
        taken = {name for other, listed in lists_of(root).items() if other != split for name in listed}
        names = [stem for stem in frames if f"{inside.name}/{stem}" not in taken]
    else:
        others = _split_folders(pictures)
        if others and split != "all" and split not in lists_of(root):
            # Holding some out of everything would take them from the folder of train, which trains on them.
            raise NoSuchSplit(
                f"{pictures / split}: expected a folder with the pictures of split {split!r} beside that of "
                f"{others[0]!r}, found none",
                [*splits(root), "all"],
                f"make it, or write {root / split}.txt with one name per line",
            )
        frames, labels = list_frames(pictures, nested=True), list_masks(masks, nested=True)
        names = pick_split(root, split, frames, labels)
    if not frames:
        raise InputError(f"{inside or pictures}: expected pictures, found none; put them there")
    lost = [path for stem, path in labels.items() if stem not in frames]
    if lost:
        found("error", "a mask without a picture of that name", "give each mask the file name of its picture", lost)
    if inside is not None:
        _tell_lost_folders(pictures, masks)
    tell_polygons(masks)
    _check_names(frames)
    return [_video(stem, frames[stem], labels.get(stem)) for stem in names], label_space(root)


def splits(root: Path) -> list[str]:
    """Names of the splits that can be read."""
    pictures = _first(root, IMAGE_FOLDERS)
    folders = _split_folders(pictures)
    if not folders:
        return defined_splits(root, list_masks(_first(root, MASK_FOLDERS), nested=True))
    return [split for split in SPLITS if split in folders or (root / f"{split}.txt").is_file()]


def has_split_folders(root: Path) -> bool:
    """Whether the pictures lie in folders of splits, images/train and so on."""
    return bool(_split_folders(_first(root, IMAGE_FOLDERS)))


def label_space(root: Path) -> LabelSpace:
    """Return the classes of ROOT/classes.yaml, read by the colours of ROOT/labelmap.txt where that is there.

    Raises:
        InputError: neither file is there.
    """
    path, labelmap = find_classes(root), root / "labelmap.txt"
    if labelmap.is_file():
        return labelmap_space(labelmap, read_classes(path) if path is not None else None)
    if path is None:
        raise InputError(f"{root / 'classes.yaml'}: expected the names of the classes, found no file; {WRITE_IT}")
    return read_classes(path).space


def _tell_lost_folders(pictures: Path, masks: Path) -> None:
    """Report folders of masks beside those of the splits that no folder of pictures belongs to."""
    read = {name for split in _split_folders(pictures) for name in SPELLINGS[split]} | set(subfolders(pictures))
    lost = [masks / name for name in subfolders(masks) if name not in read and any(picture_files(masks / name))]
    if lost:
        fix = f"name it like its folder in {pictures.name} ({', '.join(subfolders(pictures))}), or remove it"
        found("error", "a folder of masks, but no folder of pictures of that name", fix, lost)


def _check_names(frames: Mapping[str, Path]) -> None:
    """Refuse pictures whose results would lie in one folder: yard/c and yard__c."""
    first: dict[str, Path] = {}
    for stem, path in frames.items():
        other = first.setdefault(_result_name(stem), path)
        if other != path:
            found("error", f"a picture whose results would have the name of those of {other}", "rename one", [path])


def _result_name(stem: str) -> str:
    # Results are written under the name: one folder level, whatever the depth of the pictures.
    return stem.replace("/", "__")


def _video(stem: str, image: Path, label: Path | None) -> VideoRef:
    name = _result_name(stem)
    return VideoRef(name, (FrameRef(0, name, image, label),))


def _first(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root}: expected a folder {' or '.join(names)}, found none; put the files there")


def _split_folders(pictures: Path) -> list[str]:
    return [split for split in SPLITS if _split_folder(pictures, split)]


def _split_folder(folder: Path, split: str) -> Path | None:
    return next((folder / s for s in SPELLINGS.get(split, (split,)) if (folder / s).is_dir()), None)
