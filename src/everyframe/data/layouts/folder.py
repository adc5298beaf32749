"""The user's own videos, with masks beside them for any of their frames.

    ROOT/classes.yaml                    names of the ids (see everyframe/data/classes.py)
    ROOT/videos/NAME.mp4                 a video file; nothing needs to be extracted
    ROOT/videos/NAME/*.jpg               or a folder of frames
    ROOT/masks/NAME/000120.png           video file: the frame's number, counted from 0 (frame_000120.png works too)
    ROOT/masks/NAME/STEM.png             frame folder: the file name of its frame
    ROOT/train.txt, val.txt, test.txt    one NAME per line; optional, see `everyframe.data.listing.pick_split`

Masks are palette, grey or RGB PNGs. An unpacked CVAT export "Segmentation mask 1.1" can be ROOT/masks/NAME (its
SegmentationClass and labelmap.txt are found), or ROOT itself when images were exported too (JPEGImages).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from everyframe.data.classes import WRITE_IT, Classes, find_classes, labelmap_space, read_classes
from everyframe.data.findings import found
from everyframe.data.layout import FrameRef, Split, VideoRef
from everyframe.data.listing import (
    defined_splits,
    join,
    list_frames,
    list_masks,
    list_videos,
    pick_split,
    require_folder,
    subfolders,
    video_files,
)
from everyframe.data.strays import picture_files, polygons_of, tell_lost_masks, tell_polygons
from everyframe.errors import InputError
from everyframe.io.names import natural_key
from everyframe.io.video import VideoReader, frame_name
from everyframe.labels import LabelSpace
from everyframe.metrics.results_text import counted

NUMBER = re.compile(r"(\d+)$")
CVAT_MASKS, CVAT_IMAGES, LABELMAP = "SegmentationClass", "JPEGImages", "labelmap.txt"


def folder(root: Path, split: str) -> Split:
    """Read one split of the user's own data.

    Raises:
        InputError: no classes, no videos, a listed video is missing, or a mask belongs to no frame.
    """
    root = require_folder(Path(root), "videos, masks and classes.yaml")
    sources = find_videos(root)
    names = pick_split(root, split, sources, labelled_names(root, sources))
    classes, spaces = _label_spaces(root, list(sources))
    _tell_strays(root, sources)
    videos = []
    for name in names:
        _tell_masks_beside_cvat(root / "masks" / name)
        frames = _frames(sources[name], mask_folder(root, name), _is_cvat(root))
        file = sources[name] if sources[name].is_file() else None
        space = spaces.get(name)
        videos.append(VideoRef(name, frames, file, space if space != classes else None))
    return videos, classes


def splits(root: Path) -> list[str]:
    """Names of the splits that can be read."""
    return defined_splits(root, labelled_names(root, find_videos(root)))


def find_videos(root: Path) -> dict[str, Path]:
    """Return name -> video file or frame folder, in natural order.

    Raises:
        InputError: there are none, or two of one name.
    """
    if _is_cvat(root):
        return _cvat_videos(root)
    if (root / CVAT_MASKS).is_dir() and not (root / "videos").is_dir():
        raise InputError(
            f"{root / LABELMAP}: expected what the colours in {CVAT_MASKS} mean, found no file; unpack the whole "
            f"export of CVAT; of Pascal VOC, whose masks hold ids, move JPEGImages to images (single pictures; frames "
            f"of a video to videos/NAME) and {CVAT_MASKS} to masks (masks/NAME), and run `everyframe data init`"
        )
    if not (root / "videos").is_dir() and root.is_dir() and (count := len(list_frames(root))):
        raise InputError(
            f"{root}: expected the frames of each video in a folder of their own, came {counted(count, 'picture')} in "
            f"the data set's; move them to {root / 'videos' / 'NAME'}, their masks to {root / 'masks' / 'NAME'}"
            f"{polygons_of(root)}"
        )
    home = require_folder(root / "videos", "video files or frame folders (ROOT/videos/NAME.mp4 or ROOT/videos/NAME/)")
    sources = {name: home / name for name in subfolders(home)}
    for path in list_videos(home):
        if path.stem in sources:
            raise InputError(f"{path}: expected one video per name, {sources[path.stem]} has it too; rename one")
        sources[path.stem] = path
    if not sources:
        raise InputError(f"{home}: expected video files or frame folders, found none; put them there")
    return {name: sources[name] for name in sorted(sources, key=natural_key)}


def mask_folder(root: Path, name: str) -> Path:
    """Return the folder with the masks of a video (it need not exist)."""
    own = root if _is_cvat(root) else root / "masks" / name
    if not (own / CVAT_MASKS).is_dir():
        return own
    # An export of several folders of pictures keeps their names below SegmentationClass.
    nested = own / CVAT_MASKS / name
    return nested if nested.is_dir() else own / CVAT_MASKS


def labelled_names(root: Path, sources: dict[str, Path]) -> list[str]:
    """Return the names of the videos that have at least one file in their mask folder."""
    return [name for name in sources if any(picture_files(mask_folder(root, name)))]


def _is_cvat(root: Path) -> bool:
    return (root / CVAT_MASKS).is_dir() and (root / LABELMAP).is_file()


def _cvat_videos(root: Path) -> dict[str, Path]:
    images = root / CVAT_IMAGES
    if images.is_dir():
        below = {name: images / name for name in subfolders(images)}
        return below or {root.resolve().name: images}
    files = list_videos(root)
    if len(files) != 1:
        raise InputError(
            f"{root}: expected the frames of this CVAT export in {CVAT_IMAGES}, or the one video file they come from, "
            f"found {len(files)} video files; export again with 'Save images', or copy the video there"
        )
    return {files[0].stem: files[0]}


def _label_spaces(root: Path, names: list[str]) -> tuple[LabelSpace, dict[str, LabelSpace]]:
    """Return the label space of the data set, and for videos with a labelmap.txt how their masks are read."""
    path = find_classes(root)
    classes: Classes | None = read_classes(path) if path is not None else None
    shared = next((m for m in (root / "masks" / LABELMAP, root / LABELMAP) if m.is_file()), None)
    labelmaps = {}
    for name in names:
        own = root / "masks" / name / LABELMAP
        if own.is_file() or shared is not None:
            labelmaps[name] = own if own.is_file() else shared
    spaces = {name: labelmap_space(labelmap, classes) for name, labelmap in labelmaps.items() if labelmap is not None}
    if classes is not None:
        return classes.space, spaces
    if not spaces:
        raise InputError(
            f"{root / 'classes.yaml'}: expected the names of the classes, found no file; {WRITE_IT}"
            f"{_missing_labelmap(root, names)}"
        )
    first = next(iter(spaces))
    for name, space in spaces.items():
        if space.names != spaces[first].names:
            raise InputError(
                f"{labelmaps[name]}: expected the labels of {labelmaps[first]} in the same order, came "
                f"{', '.join(space.names)}; write {root / 'classes.yaml'}, which then decides"
            )
    return spaces[first], spaces


def _missing_labelmap(root: Path, names: list[str]) -> str:
    """Say that exports of CVAT lack the file that would name their classes."""
    bare = [root / "masks" / name / LABELMAP for name in names if (root / "masks" / name / CVAT_MASKS).is_dir()]
    return f"; the export of CVAT should hold it too: {bare[0]} is missing" if bare else ""


def _tell_strays(root: Path, names: Iterable[str]) -> None:
    """Report masks of no video, and polygons, which are not read."""
    home = root / (CVAT_MASKS if _is_cvat(root) else "masks")
    tell_polygons(home)
    if not _is_cvat(root):
        # A link to a video that is not there has a warning of its own.
        unread = {p.stem for p in video_files(root / "videos")}
        tell_lost_masks(home, {*names, *unread})


def _tell_masks_beside_cvat(own: Path) -> None:
    """Warn of masks in the folder of a video that an export of CVAT in the same folder hides."""
    beside = list(list_masks(own).values()) if (own / CVAT_MASKS).is_dir() else []
    if beside:
        what = f"a mask beside {CVAT_MASKS}, which is read alone; left out"
        found("warning", what, f"move it into {CVAT_MASKS} if the ids of labelmap.txt are its own, or away", beside)


def _frames(source: Path, masks_in: Path, cvat: bool) -> tuple[FrameRef, ...]:
    masks = list_masks(masks_in, nested=masks_in.name == CVAT_MASKS)
    if source.is_file():
        return _file_frames(source, masks, masks_in)
    frames = list_frames(source, natural=True, nested=cvat)
    if not frames:
        found("error", "no frames in this folder", "put pictures there or remove the folder", [source])
    if not set(masks) <= set(frames):
        # CVAT keeps folders in front of the file name; without them the names are those of the frames.
        masks = _without_folders(masks, frames)
    return join(frames, masks, masks_in)


def _without_folders(masks: dict[str, Path], frames: dict[str, Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for stem, path in masks.items():
        short = stem if stem in frames else stem.rsplit("/", 1)[-1]
        if named.setdefault(short, path) != path:
            found("error", f"a second mask of one frame, beside {named[short]}", "remove one of the two", [path])
    return named


def _file_frames(source: Path, masks: dict[str, Path], masks_in: Path) -> tuple[FrameRef, ...]:
    """Match masks to frame numbers of a video file."""
    by_number: dict[int, Path] = {}
    for stem, path in masks.items():
        match = NUMBER.search(stem)
        number = int(match[1]) if match else -1
        if match is None or number in by_number:
            what = "a mask without a frame number" if match is None else "a second mask of one frame"
            found("error", f"{what}, for {source.name}", "name it by its frame, counted from 0: 000120.png", [path])
        else:
            by_number[number] = path
    try:
        with VideoReader(source) as reader:
            count = len(reader)
    except InputError as error:
        found("error", f"the video cannot be read: {error}", "replace or remove it", [source])
        return ()
    lost = [path for number, path in by_number.items() if number >= count]
    if lost:
        what = f"a mask of a frame that {source.name} does not have: it has frames 0..{count - 1}"
        found("error", what, f"count frames from 0 and check that {masks_in} belongs to this video", lost)
    return tuple(FrameRef(index, frame_name(index), None, by_number.get(index)) for index in range(count))
