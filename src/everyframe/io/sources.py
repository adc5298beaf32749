"""What can be gone through: one grammar for video files, folders and globs of pictures, cameras, streams, arrays."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from everyframe.errors import InputError
from everyframe.io.names import IMAGE_ENDINGS, VIDEO_ENDINGS, natural_key
from everyframe.io.source_kinds import PICTURE_RATE, ArraySource, CameraSource, PictureSource, Source, VideoSource
from everyframe.io.video_open import STDIN, is_url

__all__ = [
    "PICTURE_RATE",
    "ArraySource",
    "CameraSource",
    "PictureSource",
    "Source",
    "VideoSource",
    "expand_sources",
    "open_source",
]

GRAMMAR = "a video file, a folder or glob of pictures or videos, a camera number, a URL, or - (standard input)"
DATA_SET_FOLDERS = ("videos", "images", "data")
"""Where the layouts of data sets keep their videos or pictures, below the folder that `predict` may be given."""


def open_source(what: Any, *, rate: Fraction | float | None = None) -> Source:
    """Open one source.

    Args:
        what: a `Source` (returned as it is); a video file; a picture; a folder of pictures (one video, natural order,
            names kept) or one with a single video in it; a glob such as `shots/*.jpg` (the pictures of a folder are
            one video); a camera number (`0` or "0"); a URL (rtsp://, http://, ...); "-" for standard input; or an
            iterable of `Frame`, uint8 arrays [H, W, 3] in RGB order or uint8 tensors [3, H, W].
        rate: frames per second of pictures and arrays, 15 when left out; videos have their own.

    Raises:
        InputError: nothing there, more than one video, or a video that cannot be opened.
    """
    if isinstance(what, Source):
        return what
    if isinstance(what, bool) or not isinstance(what, str | Path | int):
        if not isinstance(what, Iterable):
            raise InputError(f"expected {GRAMMAR}, or an iterable of frames, came {type(what).__name__}")
        return ArraySource(what, rate=_rate(rate))
    found = expand_sources([str(what)], rate=rate)
    if len(found) > 1:
        raise InputError(
            f"{what}: expected one video, came {len(found)} ({found[0].name}, {found[1].name}, ...); name one of them"
        )
    if isinstance(found[0], VideoSource):
        _ = found[0].info  # a file that cannot be opened is reported here
    return found[0]


def expand_sources(whats: Iterable[str | Path | int], *, rate: Fraction | float | None = None) -> list[Source]:
    """Turn a command line's sources into videos, in the order given, each with a name of its own.

    Takes what `open_source` takes by name; a folder or glob of videos, or of folders of pictures, gives several. No
    video is opened here, so that one broken file does not stop the others: it raises when it is read. What is named
    twice comes once.

    Raises:
        InputError: something names nothing.
    """
    found = _once(source for what in whats for source in _expand(str(what), _rate(rate)))
    if not found:
        raise InputError(f"expected {GRAMMAR}, came nothing")
    _name_apart(found)
    return found


def _expand(what: str, rate: Fraction) -> list[Source]:
    path = Path(what).expanduser()
    if what.isdecimal() and not path.exists():
        return [CameraSource(int(what))]
    if is_url(what):
        return [VideoSource(_url_name(what), what)]
    if what == STDIN:
        return [VideoSource("stdin", what)]
    if path.is_dir():
        return _expand_folder(path, rate)
    if path.exists():
        return _files([path], str(path), rate)
    if glob.has_magic(what):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        matches.sort(key=lambda match: natural_key(str(match)))
        found = _files([m for m in matches if _is_media(m)], what, rate)
        found += [source for m in matches if m.is_dir() and "**" not in what for source in _expand_folder(m, rate)]
        if not found:
            raise InputError(f"{what}: expected pictures or videos, the pattern matches none; check it and quote it")
        return found
    raise InputError(f"{what}: expected {GRAMMAR}, found nothing of that name; check the path")


def _expand_folder(folder: Path, rate: Fraction) -> list[Source]:
    """Pictures in the folder are one video; else its videos and its folders of pictures are one each."""
    entries = sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name))
    media = [entry for entry in entries if _is_media(entry)]
    found = _files(media, str(folder), rate)
    if any(isinstance(source, PictureSource) for source in found):
        return found  # its folders hold something else: masks, results
    for inner in [folder / "origin"] if (folder / "origin").is_dir() else entries:  # VSPW: VIDEO/origin, VIDEO/mask
        if inner.is_dir() and not inner.name.startswith("."):
            inner = inner / "origin" if (inner / "origin").is_dir() else inner
            pictures = [file for file in inner.iterdir() if _is_media(file) and file.suffix.lower() in IMAGE_ENDINGS]
            found += _files(sorted(pictures, key=lambda file: natural_key(file.name)), str(inner), rate)
    if not found:
        raise InputError(_nothing_in(folder, len(entries)))
    return found


def _nothing_in(folder: Path, entries: int) -> str:
    expected = f"{folder}: expected pictures, videos, or folders of pictures, found none among {entries} "
    expected += "entry" if entries == 1 else "entries"
    inner = next((folder / name for name in DATA_SET_FOLDERS if (folder / name).is_dir()), None)
    if inner is not None:
        return f"{expected}; of a data set give the folder of its {inner.name}: {inner}"
    return (
        f"{expected}; known endings of pictures are {' '.join(sorted(IMAGE_ENDINGS))}, of videos "
        f"{' '.join(sorted(VIDEO_ENDINGS))}"
    )


def _files(files: Sequence[Path], origin: str, rate: Fraction) -> list[Source]:
    """Each video is a source; the pictures of each folder together are one."""
    found: list[Source] = []
    folders: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in IMAGE_ENDINGS:
            folders.setdefault(file.parent, []).append(file)
        else:
            found.append(VideoSource(file.stem, str(file)))
    for folder, pictures in folders.items():
        alone = len(files) == 1 and str(pictures[0]) == origin
        whole = folder.resolve().parent if folder.name == "origin" else folder.resolve()
        name = pictures[0].stem if alone else (whole.name or "pictures")
        found.append(PictureSource(name, origin if len(folders) == 1 else str(folder), pictures, rate))
    return found


def _is_media(path: Path) -> bool:
    # Names with a leading dot are what operating systems leave beside the real files (._clip.mp4).
    known = path.suffix.lower() in IMAGE_ENDINGS | VIDEO_ENDINGS
    return known and not path.name.startswith(".") and path.is_file()


def _url_name(url: str) -> str:
    name = re.sub(r"^\w+://(?:[^/@]*@)?", "", url).split("?")[0]  # no password in a folder's name
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "stream"


def _name_apart(sources: Sequence[Source]) -> None:
    """Give sources of equal name longer ones: with the folder, the ending, two folders, folder and ending, a number."""
    longer: list[Callable[[str, Path], str]] = [
        lambda stem, p: f"{p.parent.name}_{stem}",
        lambda _, p: p.name,
        lambda stem, p: f"{p.parent.parent.name}_{p.parent.name}_{stem}",
        lambda _, p: f"{p.parent.name}_{p.name}",
    ]
    stems = {id(source): source.name for source in sources}
    for rename in longer:
        for source in _alike(sources):
            source.name = rename(stems[id(source)], _place(source))
    for number, source in enumerate(_alike(sources), 1):
        source.name = f"{source.name}_{number}"


def _place(source: Source) -> Path:
    """Where a source lies: its file, or the folder of its pictures (of VSPW's VIDEO/origin that of the video)."""
    path = Path(source.origin).resolve()
    if isinstance(source, PictureSource) and not path.is_file():
        path = source.files[0].resolve().parent
    return path.parent if path.name == "origin" else path


def _once(sources: Iterable[Source]) -> list[Source]:
    """Leave out what came before."""
    first: dict[tuple[str, ...], Source] = {}
    for source in sources:
        files = source.files if isinstance(source, PictureSource) else ()
        first.setdefault((source.origin,) if is_url(source.origin) else _paths(files or [source.origin]), source)
    return list(first.values())


def _paths(files: Iterable[str | Path]) -> tuple[str, ...]:
    return tuple(os.path.abspath(file) for file in files)


def _alike(sources: Sequence[Source]) -> list[Source]:
    # Names that differ in capitals alone are one folder on Windows and macOS.
    count = Counter(source.name.casefold() for source in sources)
    return [source for source in sources if count[source.name.casefold()] > 1]


def _rate(rate: Fraction | float | None) -> Fraction:
    fraction = PICTURE_RATE if rate is None else Fraction(rate).limit_denominator(1_001_000)
    if fraction <= 0:
        raise InputError(f"rate: expected frames per second above 0, came {rate}")
    return fraction
