"""Label maps for the VSPW server: <video>/<frame>.png with ids 0..K-1, as a folder or a zip that is read back to check.

The challenge scores every pixel of every frame of the test videos and knows no "ignore": an id of 255 would shift its
histogram, so it is never written. (Of the public scorers: VSPW_baseline test.py and Utils.Evaluator, DVIS_Plus
eval_miou. That the video folders stand at the top of the zip is inferred; no published page says so.)
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everyframe.data.archive import new_zip
from everyframe.data.layout import VideoRef
from everyframe.data.listing import list_masks, require_folder, subfolders
from everyframe.data.predictions import some, table_by_name
from everyframe.data.reading import target_size
from everyframe.errors import InputError, writing
from everyframe.frames import IGNORE
from everyframe.io.images import UNREADABLE, upright_size
from everyframe.io.label_png import read_label
from everyframe.labels import LabelSpace

Sizes = Mapping[str, tuple[int, int] | None]
""""<video>/<frame>.png" -> (H, W), None where any size will do."""


def write_submission(
    labels: str | Path,
    out: str | Path,
    space: LabelSpace | None = None,
    expected: tuple[Sequence[VideoRef], LabelSpace] | None = None,
) -> tuple[int, int]:
    """Write and check a submission.

    Args:
        labels: folder of label maps <video>/<frame>.png in raw ids, as `everyframe predict` writes them.
        out: a file that ends in .zip, or a folder.
        space: label space of the files; LABELS/labels.json when left out.
        expected: the split that must be complete, and its label space, whose ids are written (classes are matched by
            name). None: whatever is there, in the ids of `space`.

    Returns:
        Numbers of videos and of frames.

    Raises:
        InputError: a frame is missing, has another size or a pixel without a class, or `out` cannot be written or does
            not read back as it should.
    """
    folder, out = require_folder(Path(labels), "label maps <video>/<frame>.png"), Path(out)
    space = space or LabelSpace.load(folder / "labels.json")
    target = space if expected is None else expected[1]
    table, _ = table_by_name(space, target, str(folder))
    sizes = _there(folder) if expected is None else _expected(expected[0])
    _check_complete(folder, sizes)
    opened: AbstractContextManager[_Sink] = _zip(out) if _is_zip(out) else nullcontext(_Folder(out))
    with writing(out), opened as sink:
        for name, size in sizes.items():
            ids = table[read_label(folder / name, space, size)]
            lost = int((ids == IGNORE).sum())
            if lost:
                raise InputError(
                    f"{folder / name}: expected a class in every pixel, {lost} have none of the {len(target)} "
                    f"classes; a submission must not hold 255"
                )
            sink.write(name, _png(ids, target))
    return check_submission(out, len(target), sizes)


def check_submission(out: str | Path, classes: int, sizes: Sizes | None = None) -> tuple[int, int]:
    """Read a submission back, every file.

    Args:
        out: zip or folder.
        classes: K; ids are 0..K-1.
        sizes: the files that must be there, neither more nor less; None: any.

    Returns:
        Numbers of videos and of frames.

    Raises:
        InputError: the first thing that is wrong.
    """
    out = Path(out)
    found: set[str] = set()
    with _reader(out) as (names, read):
        for name in names:
            path = PurePosixPath(name)
            if len(path.parts) != 2 or path.suffix != ".png":
                raise InputError(f"{out}: expected <video>/<frame>.png at the top and nothing else, came {name}")
            _check_file(f"{out}: {name}", read(name), classes, None if sizes is None else sizes.get(name))
            found.add(name)
    missing = sorted(set(sizes or ()) - found)
    strange = sorted(found - set(sizes)) if sizes is not None else []
    if missing or strange or not found:
        raise InputError(
            f"{out}: expected {len(sizes) if sizes is not None else 'one or more'} label maps, came {len(found)}; "
            f"missing: {some(missing) or 'none'}; not expected: {some(strange) or 'none'}"
        )
    return len({PurePosixPath(name).parts[0] for name in found}), len(found)


def _png(ids: NDArray[np.uint8], space: LabelSpace) -> bytes:
    """Train ids as a palette PNG in the class colours."""
    picture = Image.fromarray(ids)
    picture.putpalette(bytes(value for color in space.palette for value in color))
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()


def _check_file(where: str, data: bytes, classes: int, size: tuple[int, int] | None) -> None:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            mode, ids = picture.mode, np.array(picture)
    except UNREADABLE as error:
        raise InputError(f"{where}: expected a PNG, came a damaged file ({error})") from None
    if mode not in {"P", "L"} or (size is not None and ids.shape != size):
        raise InputError(f"{where}: expected one byte per pixel and size {size}, came mode {mode}, {ids.shape}")
    if ids.max() >= classes:
        raise InputError(f"{where}: expected ids 0..{classes - 1}, came {int(ids.max())}")


def _there(folder: Path) -> Sizes:
    """All label maps of all videos; the confidence pictures beside them are none."""
    videos = [name for name in subfolders(folder) if not name.endswith(".confidence")]
    return {f"{video}/{stem}.png": None for video in videos for stem in list_masks(folder / video)}


def _expected(videos: Sequence[VideoRef]) -> Sizes:
    sizes: dict[str, tuple[int, int] | None] = {}
    for video in videos:
        for frame in video.frames:
            size = None
            if frame.image is not None:
                try:
                    with Image.open(frame.image) as picture:
                        size = upright_size(picture)
                except UNREADABLE as error:
                    raise InputError(f"{frame.image}: expected a picture, cannot read it ({error})") from None
                size = size if video.height is None else target_size(size, video.height)
            sizes[f"{video.name}/{frame.name}.png"] = size
    return sizes


def _check_complete(folder: Path, sizes: Sizes) -> None:
    missing = [name for name in sizes if not (folder / name).is_file()]
    if missing or not sizes:
        raise InputError(
            f"{folder}: expected a label map of every frame, {len(missing)} of {len(sizes)} are missing: "
            f"{some(missing) or 'there are none at all'}; predict them first"
        )


def _is_zip(out: Path) -> bool:
    return out.suffix.lower() == ".zip"


class _Sink(Protocol):
    def write(self, name: str, data: bytes) -> None: ...


class _Folder:
    """Files in a folder that must be new or empty: what an earlier submission left would be scored too."""

    def __init__(self, root: Path) -> None:
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise InputError(f"{root}: expected a new or empty folder, or a name that ends in .zip; choose another")
        self.root = root

    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive

    def write(self, name: str, data: bytes) -> None:
        self.archive.writestr(name, data)


@contextmanager
def _zip(out: Path) -> Iterator[_Sink]:
    with new_zip(out, zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        yield _Zip(archive)


@contextmanager
def _reader(out: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    if not _is_zip(out):
        files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
        yield files, lambda name: (out / name).read_bytes()
        return
    try:
        with zipfile.ZipFile(out) as archive:
            yield [name for name in archive.namelist() if not name.endswith("/")], archive.read
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{out}: expected a zip of label maps, cannot read it ({error})") from None
