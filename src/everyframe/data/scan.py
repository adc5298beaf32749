"""Looking at single files for the checker: what is inside, and whether it is whole."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from everyframe.data.layout import VideoRef
from everyframe.errors import InputError
from everyframe.io.container_size import missing_bytes
from everyframe.io.images import UNREADABLE, upright_size
from everyframe.io.video import VideoReader
from everyframe.labels import Color

MANY_COLORS = 4096
"""A colour picture with more colours than this is no mask: it was smoothed, or stored as JPEG."""
KINDS = {
    "P": "palette",
    "L": "grey",
    "1": "grey",
    "I": "grey 16 bit",
    "I;16": "grey 16 bit",
    "RGB": "RGB",
    "RGBA": "RGB",
}


@dataclass(slots=True)
class MaskScan:
    """What a mask file holds.

    Attributes:
        size: (H, W), None when the file is damaged.
        kind: "palette", "grey", "grey 16 bit", "RGB", or the mode of a picture that holds no labels.
        ids: raw id -> pixels, for all kinds but RGB.
        colors: colour -> pixels of an RGB mask; None when there are more than `MANY_COLORS`.
        palette: colour of each id that occurs in a palette picture.
        grey_rgb: all three channels of an RGB mask are equal.
        lossy: stored as JPEG or the like, which changes ids.
        error: why the file cannot be used.
    """

    size: tuple[int, int] | None = None
    kind: str = ""
    ids: dict[int, int] = field(default_factory=dict)
    colors: dict[Color, int] | None = field(default_factory=dict)
    palette: dict[int, Color] = field(default_factory=dict)
    grey_rgb: bool = False
    lossy: bool = False
    error: str = ""


@dataclass(slots=True)
class FrameScan:
    """What a frame holds: (H, W) upright, a digest of the file where it was read whole, or why it cannot be read."""

    size: tuple[int, int] | None = None
    digest: str = ""
    error: str = ""


def scan_mask(path: Path) -> MaskScan:
    """Decode a mask and count its ids or colours."""
    scan = MaskScan()
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            scan.size = picture.height, picture.width
            scan.kind = KINDS.get(picture.mode, picture.mode)
            scan.lossy = picture.format in {"JPEG", "MPO"}
            _count(picture, scan)
    except UNREADABLE as error:
        scan.size, scan.error = None, _why(path, error)
    return scan


def _count(picture: Image.Image, scan: MaskScan) -> None:
    if picture.mode in {"P", "L"}:
        scan.ids = {raw: count for raw, count in enumerate(picture.histogram()) if count}
        if picture.mode == "P":
            flat = picture.getpalette("RGB") or []
            scan.palette = {
                i: (flat[3 * i], flat[3 * i + 1], flat[3 * i + 2]) for i in scan.ids if 3 * i + 2 < len(flat)
            }
    elif picture.mode in {"I", "I;16", "1"}:
        # PIL stores black and white as 0 and 255; as ids, as `read_raw` gives them.
        values = np.array(picture.convert("L") if picture.mode == "1" else picture)
        ids, counts = np.unique(values, return_counts=True)
        scan.ids = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    elif scan.kind == "RGB":
        counted = picture.convert("RGB").getcolors(MANY_COLORS)
        # Of a picture in RGB, what PIL calls a float or a tuple is a tuple of three.
        scan.colors = None if counted is None else {color: count for count, color in counted}  # type: ignore[misc]
        scan.grey_rgb = all(r == g == b for r, g, b in scan.colors or [(0, 1, 2)])
    else:
        raise ValueError(f"a picture of mode {picture.mode}, which holds no ids")


def scan_picture(path: Path, whole: bool) -> FrameScan:
    """Look at a frame stored as a picture.

    Args:
        path: the file.
        whole: decode it and digest it; else read its header and look for the end mark, which a truncated file lacks.
    """
    scan = FrameScan()
    try:
        if whole or not _has_end(path):
            data = path.read_bytes()
            scan.digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                scan.size = upright_size(picture)
        else:
            with Image.open(path) as picture:
                scan.size = upright_size(picture)
    except UNREADABLE as error:
        scan.size, scan.error = None, _why(path, error)
    return scan


def scan_video(video: VideoRef, whole: bool = False) -> dict[int, FrameScan]:
    """Look at a video file: position of a frame -> what came.

    What is wrong with the file as a whole stands with its last frame: validation, which goes through the video in
    order, would stop there.

    Args:
        video: the video.
        whole: decode all frames; else the first, the last and the labelled ones, and compare the file's length with
            what its container says.
    """
    assert video.file is not None
    wanted = sorted({0, len(video.frames) - 1, *video.labelled}) if video.frames else []
    scans: dict[int, FrameScan] = {}
    try:
        with VideoReader(video.file) as reader:
            for index in wanted:
                scans[index] = _scan_frame(reader, index)
            if wanted and not scans[wanted[-1]].error:
                scans[wanted[-1]].error = _damage(reader, whole)
    except InputError as error:
        scans.update({index: FrameScan(error=str(error)) for index in wanted if index not in scans})
    return scans


def _damage(reader: VideoReader, whole: bool) -> str:
    """Say what keeps a video from being read to its end; "" where nothing was found."""
    if missing_bytes(reader.path):
        return "the video is cut off after it, the rest of the file is missing"
    if whole:
        try:
            for _ in reader:
                pass
        except InputError as error:
            return str(error).removeprefix(f"{reader.path}: ")
    return ""


def _scan_frame(reader: VideoReader, index: int) -> FrameScan:
    try:
        return FrameScan(size=reader.read([index])[0].size)
    except InputError as error:
        return FrameScan(error=f"frame {index} does not decode: {error}")


def _has_end(path: Path) -> bool:
    """Whether a JPEG or PNG ends as it should; False for other formats, which are then decoded."""
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-min(64, path.stat().st_size), io.SEEK_END)
        tail = file.read()
    return (head[:2] == b"\xff\xd8" and b"\xff\xd9" in tail) or (head == b"\x89PNG" and b"IEND" in tail)


def _why(path: Path, error: Exception) -> str:
    if not path.is_file():
        return "the file is missing"
    size = path.stat().st_size
    if size == 0:
        return "an empty file (0 bytes)"
    # Messages of PIL may name the file or a memory address, which would make every file its own problem.
    if isinstance(error, UnidentifiedImageError):
        return "damaged: not a picture"
    if isinstance(error, Image.DecompressionBombError):
        return "damaged: it claims more pixels than memory would hold"
    return f"damaged: {str(error).split('(')[0].strip()}"
