"""Videos that come without labels: a data set in any layout, or just a folder of video files or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from everyframe.data.classes import find_classes
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.layouts import load_split, recognise, split_spec
from everyframe.data.listing import list_frames, list_videos, subfolders
from everyframe.errors import InputError
from everyframe.io.names import natural_key
from everyframe.io.video import VideoReader, frame_name

LABELMAPS = ("labelmap.txt", "masks/labelmap.txt", "masks/*/labelmap.txt")
"""Files that show, where no classes file does, that a folder is a data set of the layout `folder`."""


def unlabelled_videos(specs: Sequence[str], split: str) -> list[VideoRef]:
    """Return the videos of some places, with whatever labels lie there left out.

    Args:
        specs: "LAYOUT:ROOT" or "LAYOUT:ROOT@SPLIT" (a data set), a folder of video files and folders of pictures, a
            folder of pictures (one video), or a video file. A folder in a known layout is read by it.
        split: of data sets for which none is named.

    Returns:
        Videos whose names start with the position in `specs`, to stay unique.

    Raises:
        InputError: nothing there, or nothing that is a video.
    """
    found = []
    for number, spec in enumerate(specs):
        place, splits = split_spec(spec, split)
        bare = _bare_place(place)
        videos = [v for s in splits for v in load_split(place, s)[0]] if bare is None else bare_videos(bare)
        found += [replace(v.keep_labels(set()), name=f"unlabeled{number}/{v.name}", space=None) for v in videos]
    return found


def _bare_place(spec: str) -> Path | None:
    """Return the path of videos that are in no layout, or None."""
    path = Path(spec).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        return None  # LAYOUT:ROOT, or a mistake that `load_split` explains
    described = find_classes(path) is not None or any(next(path.glob(name), None) for name in LABELMAPS)
    return None if described or recognise(path) != "folder" else path


def bare_videos(place: str | Path) -> list[VideoRef]:
    """Return the videos of a folder (or of its folder `videos`), in natural order: nothing but videos need be there.

    Args:
        place: a video file, a folder of pictures, or a folder of both kinds of videos.

    Raises:
        InputError: none found, two of one name, or a file that cannot be read.
    """
    place = Path(place)
    if place.is_file():
        return [_file(place)]
    home = place / "videos" if (place / "videos").is_dir() else place
    files = list_videos(home)
    sources = {path.stem: path for path in files}
    folders = {name: home / name for name in subfolders(home)}
    if len(sources) < len(files) or set(sources) & set(folders):
        raise InputError(f"{home}: expected one video per name, came two of one name; rename one")
    videos = [_file(path) for path in sources.values()]
    videos += [video for name, folder in folders.items() if (video := _pictures(name, folder)) is not None]
    if not videos and (whole := _pictures(home.resolve().name, home)) is not None:
        videos = [whole]
    if not videos:
        raise InputError(f"{place}: expected video files or folders of pictures, found none; check the path")
    return sorted(videos, key=lambda video: natural_key(video.name))


def _file(path: Path) -> VideoRef:
    with VideoReader(path) as reader:
        count = len(reader)
    return VideoRef(path.stem, tuple(FrameRef(index, frame_name(index)) for index in range(count)), path)


def _pictures(name: str, folder: Path) -> VideoRef | None:
    frames = list_frames(folder, natural=True)
    if not frames:
        return None
    return VideoRef(name, tuple(FrameRef(index, stem, path) for index, (stem, path) in enumerate(frames.items())))
