"""Palette PNGs: the ids that PIL reads, or None and PIL's own words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.errors import InputError
from everyframe.io.label_png import read_raw, write_label
from everyframe.io.palette_png import read_palette_ids
from everyframe.labels import LabelSpace

SPACE = LabelSpace(tuple(f"class {k}" for k in range(200)))


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (31, 17)).astype(np.uint8)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_reads_what_was_written(tmp_path: Path, ids: np.ndarray, level: int) -> None:
    write_label(tmp_path / "a.png", ids, SPACE, compress_level=level)
    got = read_palette_ids(tmp_path / "a.png")
    assert got is not None
    assert got.dtype == np.uint8
    assert got.tolist() == ids.tolist() == np.array(Image.open(tmp_path / "a.png")).tolist()
    got[0, 0] = 3  # an array of one's own


def test_a_large_map_in_many_chunks(tmp_path: Path) -> None:
    large = np.random.default_rng(1).integers(0, 200, (700, 900)).astype(np.uint8)  # over 64 KiB: several IDAT
    write_label(tmp_path / "a.png", large, SPACE)
    assert (tmp_path / "a.png").read_bytes().count(b"IDAT") > 1
    assert (read_palette_ids(tmp_path / "a.png") == large).all()


def test_one_pixel(tmp_path: Path) -> None:
    write_label(tmp_path / "a.png", np.array([[7]], np.uint8), SPACE)
    assert read_palette_ids(tmp_path / "a.png").tolist() == [[7]]


@pytest.mark.parametrize("kind", ["L", "RGB", "1", "4 bits", "interlaced", "filtered"])
def test_other_forms_are_left_to_pil(tmp_path: Path, ids: np.ndarray, kind: str) -> None:
    file, picture = tmp_path / "a.png", Image.fromarray(ids)
    if kind in {"L", "RGB", "1"}:
        picture.convert(kind).save(file)
    elif kind == "4 bits":
        picture = Image.fromarray(ids % 16)
        picture.putpalette([0] * 48)
        picture.save(file, bits=4)
    else:
        write_label(file, ids, SPACE)
        data = bytearray(file.read_bytes())
        if kind == "interlaced":
            data = rewritten(data, interlace=1)
        else:
            data = rewritten(data, first_filter=1)
        file.write_bytes(data)
    assert read_palette_ids(file) is None
    if kind == "4 bits":
        assert read_raw(file).tolist() == (ids % 16).tolist()
    elif kind == "filtered":
        assert read_raw(file)[1:].tolist() == ids[1:].tolist()
        assert read_raw(file)[0].tolist() == np.cumsum(ids[0], dtype=np.uint8).tolist()  # "Sub": differences


def rewritten(data: bytearray, interlace: int = 0, first_filter: int = 0) -> bytes:
    """The same file with another interlace flag, or another filter of the first row."""
    import zlib

    at, out = 8, bytes(data[:8])
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = bytes(data[at + 4 : at + 8]), bytes(data[at + 8 : at + 8 + length])
        if kind == b"IHDR":
            body = body[:12] + bytes([interlace])
        if kind == b"IDAT" and first_filter:
            rows = bytearray(zlib.decompress(body))
            rows[0] = first_filter
            body = zlib.compress(bytes(rows))
        out += len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        at += 12 + length
    return out


@pytest.mark.parametrize("cut", [0, 5, 20, 45, 200, -20, -12, -1])
def test_a_cut_file_is_refused(tmp_path: Path, ids: np.ndarray, cut: int) -> None:
    write_label(tmp_path / "a.png", ids, SPACE)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:cut])
    assert read_palette_ids(tmp_path / "a.png") is None


@pytest.mark.parametrize("at", [20, 60, -30])
def test_a_flipped_bit_is_noticed(tmp_path: Path, ids: np.ndarray, at: int) -> None:
    write_label(tmp_path / "a.png", ids, SPACE)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[at] ^= 4
    (tmp_path / "a.png").write_bytes(data)
    assert read_palette_ids(tmp_path / "a.png") is None


def test_errors_are_those_of_any_picture(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no file"):
        read_raw(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(InputError, match="0 bytes"):
        read_raw(tmp_path / "empty.png")
