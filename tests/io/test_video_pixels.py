"""Colours against the formulas of the standards, written out here once more."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch

from everyframe.io.video_pixels import RgbConverter, upright

# kr, kb of ITU-R BT.601 §2.5.1, BT.709 §3.2, BT.2020 table 4; FFmpeg's numbers (AVColorSpace) of each
MATRICES = {
    "709": (1, 0.2126, 0.0722),
    "601": (6, 0.299, 0.114),
    "601-625": (5, 0.299, 0.114),
    "2020": (9, 0.2627, 0.0593),
}
UNSPECIFIED = 2
LIMITED, FULL = 1, 2


def expected_rgb(yuv: tuple[int, int, int], kr: float, kb: float, full: bool) -> np.ndarray:
    y, u, v = yuv
    if full:
        y, u, v = y / 255, (u - 128) / 255, (v - 128) / 255
    else:
        y, u, v = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.array([red, green, blue]) * 255, 0, 255)


def make_frame(yuv: tuple[int, int, int], pix_fmt: str, size: tuple[int, int] = (48, 64)) -> av.VideoFrame:
    frame = av.VideoFrame(size[1], size[0], pix_fmt)
    for plane, value in zip(frame.planes, yuv, strict=True):
        deep = "10" in pix_fmt
        values = np.full(plane.buffer_size // (1 + deep), value * 4 if deep else value, np.uint16 if deep else np.uint8)
        plane.update(values.tobytes())
    return frame


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
def test_matrix_range_and_depth(matrix: str, pix_fmt: str, color_range: int) -> None:
    number, kr, kb = MATRICES[matrix]
    for yuv in [(120, 90, 180), (16, 128, 128), (235, 128, 128), (60, 160, 110)]:
        frame = make_frame(yuv, pix_fmt)
        frame.colorspace, frame.color_range = number, color_range
        image = RgbConverter()(frame).numpy()
        want = expected_rgb(yuv, kr, kb, color_range == FULL)
        assert np.abs(image - want[:, None, None]).max() <= 2.6, (yuv, image[:, 0, 0], want)


@pytest.mark.parametrize(("height", "matrix"), [(480, "601"), (576, "601"), (720, "709"), (1080, "709")])
def test_untagged_video_follows_the_players(height: int, matrix: str) -> None:
    frame = make_frame((120, 90, 180), "yuv420p", (height, 64))
    frame.colorspace = UNSPECIFIED
    want = expected_rgb((120, 90, 180), *MATRICES[matrix][1:], full=False)
    assert np.abs(RgbConverter()(frame).numpy() - want[:, None, None]).max() <= 2.6


@pytest.mark.parametrize("width", range(1, 40))
def test_every_column_is_written(width: int) -> None:
    """FFmpeg's fast path to planar RGB forgets the last width % 16 columns; ours must not."""
    frame = make_frame((235, 128, 128), "yuv420p", (5, width))
    frame.color_range = LIMITED
    assert (RgbConverter()(frame) >= 252).all()  # FFmpeg's fast path rounds white down to 253


def test_rgb_and_grey_pass_through() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    image = RgbConverter()(av.VideoFrame.from_ndarray(picture, format="rgb24"))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), picture)
    image = RgbConverter()(av.VideoFrame.from_ndarray(picture[..., ::-1].copy(), format="bgr24"))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), picture)
    image = RgbConverter()(av.VideoFrame.from_ndarray(picture[..., 0].copy(), format="gray"))
    assert np.abs(image.numpy().astype(int) - picture[..., 0]).max() <= 1


def test_upright_by_hand() -> None:
    """x' = a x + c y, y' = b x + d y on the picture [[0, 1, 2], [3, 4, 5]]."""
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    assert upright(image, (0, 1, -1, 0))[0].tolist() == [[3, 0], [4, 1], [5, 2]]  # a quarter turn clockwise
    assert upright(image, (0, -1, 1, 0))[0].tolist() == [[2, 5], [1, 4], [0, 3]]
    assert upright(image, (-1, 0, 0, 1))[0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert upright(image, (0, 1, 1, 0))[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert upright(image, None) is image
