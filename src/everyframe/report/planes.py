"""A picture as three planes, whichever of the two forms it came in; OpenCV is fastest on planes."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = TypeVar("Picture", Tensor, NDArray[np.uint8])


def planes_of(image: Tensor | NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Return the planes R, G, B, uint8 [H, W] each, of a uint8 [3, H, W] tensor or [H, W, 3] array."""
    if isinstance(image, Tensor):
        return list(np.ascontiguousarray(image.cpu().numpy()))
    return [as_bytes(plane) for plane in cv2.split(image)]


def like(image: Picture, planes: list[NDArray[np.uint8]]) -> Picture:
    """Join planes to a picture of the kind of `image`."""
    return torch.from_numpy(np.stack(planes)) if isinstance(image, Tensor) else as_bytes(cv2.merge(planes))


def as_bytes(picture: cv2.typing.MatLike) -> NDArray[np.uint8]:
    """Return what OpenCV made of bytes as the bytes that it is, not a copy; OpenCV's own types leave the kind open."""
    return np.asarray(picture, np.uint8)
