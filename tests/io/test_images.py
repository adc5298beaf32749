from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everyframe.errors import InputError
from everyframe.io.images import read_image

PICTURE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


def test_rgb_comes_as_it_is(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "a.ppm", "a.tif"):
        Image.fromarray(PICTURE).save(tmp_path / name)
        image = read_image(tmp_path / name)
        assert image.is_contiguous()
        assert np.array_equal(image.permute(1, 2, 0).numpy(), PICTURE)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA", "CMYK"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    name = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    flat = Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode)
    flat.save(name)
    assert torch.equal(read_image(name), torch.full((3, 5, 7), 255, dtype=torch.uint8))


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[1].tolist() == [[0, 0, 1, 128, 255]]


@pytest.mark.parametrize(("values", "expected"), [([0, 200, 255], [0, 200, 255]), ([0, 256, 65535], [0, 1, 255])])
def test_32_bit_grey_may_hold_8_bits(values: list[int], expected: list[int], tmp_path: Path) -> None:
    Image.fromarray(np.array([values], np.int32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0].tolist() == [expected]


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.rot90(PICTURE, -1))


def test_one_pixel(tmp_path: Path) -> None:
    Image.fromarray(PICTURE[:1, :1]).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").flatten().tolist() == PICTURE[0, 0].tolist()


def test_bad_files_give_one_clear_line(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "whole.png")
    Image.fromarray(np.tile(PICTURE, (20, 20, 1))).save(tmp_path / "whole.jpg")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    cases = {"missing.png": "no file", "empty.png": "0 bytes", "text.png": "do not decode", "cut.jpg": "do not decode"}
    for name, expected in cases.items():
        with pytest.raises(InputError, match=expected) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot"):
        read_image(tmp_path)
