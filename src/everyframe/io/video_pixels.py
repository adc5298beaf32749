"""From a decoded FFmpeg frame to uint8 [3, H, W] RGB: colour matrix, range, bit depth, orientation."""

from __future__ import annotations

from typing import cast

import av
import cv2
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from torch import Tensor

UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED of FFmpeg: the file does not say which YUV matrix it was made with."""
HD_HEIGHT = 720
"""Untagged video of at least this many lines is taken as BT.709, lower as BT.601, as players do."""
DEEP_ROUNDING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
"""For more than 8 bits: FFmpeg's default path is up to 2 levels off there."""


class RgbConverter:
    """Turns decoded frames into RGB tensors; keeps the scaler, which is expensive to set up, between frames.

    FFmpeg converts to packed RGB, OpenCV separates the channels: together the fastest of the ways measured. (FFmpeg's
    planar format `gbrp` would save a step, but its fast path leaves the last `width % 16` columns unwritten.) High
    dynamic range (PQ, HLG) is not tone-mapped.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Tensor:
        """Return `frame` as uint8 [3, H, W] RGB, full range, upright."""
        matrix = frame.colorspace
        if matrix == UNSPECIFIED and not frame.format.is_rgb:
            matrix = Colorspace.ITU709 if frame.height >= HD_HEIGHT else Colorspace.ITU601
        packed = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=matrix,
            dst_color_range=ColorRange.JPEG,
            interpolation=DEEP_ROUNDING if frame.format.components[0].bits > 8 else None,
        )
        plane = packed.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: packed.height]
        channels = np.empty((3, packed.height, packed.width), np.uint8)
        cv2.split(rows[:, : 3 * packed.width].reshape(packed.height, packed.width, 3), list(channels))
        return upright(torch.from_numpy(channels), display_matrix(frame))


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """Return (a, b, c, d) of the display matrix x' = a x + c y, y' = b x + d y; None where the frame has none."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(cast(bytes, data)), np.int32)[:5].tolist()
    return a, b, c, d


def upright(image: Tensor, matrix: tuple[int, int, int, int] | None) -> Tensor:
    """Turn and mirror [3, H, W] as the display matrix of its frame asks; angles go to the nearest multiple of 90°."""
    if matrix is None:
        return image
    a, b, c, d = matrix
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    if turned:
        image = image.transpose(1, 2)
    across, down = (c, b) if turned else (a, d)
    mirrored = [dim for dim, factor in ((2, across), (1, down)) if factor < 0]
    return image.flip(mirrored).contiguous() if mirrored else image.contiguous()
