from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from everyframe.io.container_size import missing_bytes


@pytest.mark.parametrize(
    ("name", "codec", "muxer"),
    [
        ("a.mp4", "mpeg4", {}),
        ("a.mp4", "mpeg4", {"movflags": "faststart"}),
        ("a.mp4", "mpeg4", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mkv", "mpeg4", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.avi", "mpeg4", {}),
        ("a.ts", "mpeg2video", {}),
    ],
)
def test_whole_files_miss_nothing_and_cut_ones_what_was_cut(
    name: str, codec: str, muxer: dict[str, str], make_video: Callable[..., Path]
) -> None:
    path = make_video(name, 12, codec, muxer=muxer)
    assert missing_bytes(path) == 0
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    says_its_size = not name.endswith(".ts")
    assert missing_bytes(path) == (100 if says_its_size else 0)


def test_large_boxes_and_unknown_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    large = struct.pack(">I4sI4s", 16, b"ftyp", 0, b"isom") + struct.pack(">I4sQ", 1, b"mdat", 1000) + bytes(84)
    path.write_bytes(large)
    assert missing_bytes(path) == 900  # 64-bit size: 1000 bytes of which 100 are there
    path.write_bytes(struct.pack(">I4sI4s", 16, b"ftyp", 0, b"isom") + struct.pack(">I4s", 0, b"mdat") + bytes(50))
    assert missing_bytes(path) == 0  # 0: to the end of the file
    ebml = b"\x1a\x45\xdf\xa3\x80" + b"\x18\x53\x80\x67"
    path.write_bytes(ebml + b"\x01\xff\xff\xff\xff\xff\xff\xff" + bytes(20))
    assert missing_bytes(path) == 0  # all ones: unknown
    path.write_bytes(ebml + b"\x40\x64" + bytes(20))
    assert missing_bytes(path) == 80  # two-byte number 100
    for odd in (b"", b"RIFF", b"RIFF\x00\x00\x00\x00AVI ", b"\x1a\x45\xdf\xa3", b"plain text of no use at all"):
        path.write_bytes(odd)
        assert missing_bytes(path) == 0
