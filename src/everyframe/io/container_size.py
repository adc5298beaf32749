"""How many bytes a video file should have by its own header: the way to tell a cut-off file from a whole one.

A decoder cannot tell: most formats simply end. The three container families that hold nearly all videos state their
size in the first bytes or in a chain of sized boxes, so that a file cut off by a full disk or a broken download is
found without decoding. Sources: ISO/IEC 14496-12 §4.2 (MP4 and MOV boxes), RFC 8794 and RFC 9559 (EBML, Matroska,
WebM), the RIFF header of AVI.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"
FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"}


def missing_bytes(path: str | Path) -> int:
    """Return how many bytes the file is shorter than its container says; 0 where it is whole or says nothing.

    A file that was written without going back to fill in its size (a recording that was interrupted, a live stream
    saved to disk) states no size and is never called short.
    """
    path = Path(path)
    actual = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and len(head) == 12:
            # A writer that was interrupted leaves 0 here; OpenDML files state the size of their first part only.
            stated = struct.unpack("<I", head[4:8])[0]
            return max(0, stated + 8 - actual) if stated else 0
        if head[:4] == EBML:
            return max(0, _matroska_size(file, actual) - actual)
        if head[4:8] in FIRST_BOXES:
            return max(0, _mp4_size(file, actual) - actual)
    return 0


def _mp4_size(file: BinaryIO, actual: int) -> int:
    """Follow the top-level boxes; return where the last one ends."""
    position = 0
    while position + 8 <= actual:
        file.seek(position)
        header = file.read(16)
        size = struct.unpack(">I", header[:4])[0]
        if size == 1 and len(header) == 16:  # 64-bit size follows
            size = struct.unpack(">Q", header[8:16])[0]
        if size < 8:  # 0 = to the end of the file; 1..7 cannot be
            return actual
        position += size
    return position


def _matroska_size(file: BinaryIO, actual: int) -> int:
    """Return where the segment, which holds all frames, ends."""
    file.seek(4)
    length = _ebml_number(file)
    if length is None:
        return actual
    file.seek(length, 1)
    if file.read(4) != SEGMENT:
        return actual
    length = _ebml_number(file)
    return actual if length is None else file.tell() + length


def _ebml_number(file: BinaryIO) -> int | None:
    """Read one variable-length number; None where it is missing or says 'unknown' (all bits set)."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - width)) - 1)]) + rest, "big")
    return None if len(rest) < width - 1 or value == (1 << (7 * width)) - 1 else value
