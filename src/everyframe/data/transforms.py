"""Geometric augmentation of clips: one draw per clip, all frames and label maps alike, pictures stay uint8.

Geometry (here) and colour (`everyframe.data.photometric`) are separate steps. Each is a small class that draws and a
function that applies, so that a teacher and a student can share the geometry and differ in colour:

    frames, labels = geometry(images, labels, query, rng)
    weak, strong = photometric(frames, rng), strong_photometric(frames, rng)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from everyframe.errors import InputError
from everyframe.frames import IGNORE


class Window(NamedTuple):
    """What a draw of `Geometry` cuts: a box of the source frames, in whole pixels, and what becomes of it.

    Attributes:
        top: first row of the box.
        left: first column of the box.
        height: rows of the box.
        width: columns of the box.
        size: (H, W) that the box is resized to, before padding.
        flip: mirror left and right.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]
    flip: bool


@dataclass(frozen=True, slots=True)
class Geometry:
    """Random resize, crop and horizontal flip: the same for all frames and label maps of a clip.

    The source box of the crop is cut first and only this box is resized, which equals resizing the whole frame and
    cropping up to the rounding of the box to whole pixels, and costs a fraction of it. What the resized frame lacks
    of the crop is padded at the right and the bottom: 0 in pictures, 255 in label maps.

    Attributes:
        crop: side of the square crop, or (H, W).
        scale: range of the random resize, drawn uniformly; relative to the frame's own size, or to `base`.
        base: short side in pixels that scale 1 gives; None: the frame's own.
        cat_max_ratio: draw the crop again, up to 10 times, while one class covers this share or more of the labelled
            pixels of the query frame (ignored ones do not count) or no pixel is labelled; 1 turns the rule off.
        flip: probability of the horizontal flip.
    """

    crop: int | tuple[int, int] = 480
    scale: tuple[float, float] = (0.5, 2.0)
    base: int | None = None
    cat_max_ratio: float = 0.75
    flip: float = 0.5

    def __post_init__(self) -> None:
        if min(self.crop_size) < 1:
            raise InputError(f"crop: expected at least 1 pixel, came {self.crop}")
        low, high = self.scale
        if not 0 < low <= high:
            raise InputError(f"scale: expected two factors 0 < low <= high, came {self.scale}")
        if self.base is not None and self.base < 1:
            raise InputError(f"base: expected the short side in pixels, or none, came {self.base}")
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip: expected a probability in 0..1, came {self.flip}")
        if not 0 < self.cat_max_ratio <= 1:
            raise InputError(f"cat_max_ratio: expected a share in (0, 1], came {self.cat_max_ratio}")

    @property
    def crop_size(self) -> tuple[int, int]:
        """(H, W) of every clip that comes out."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else (self.crop[0], self.crop[1])

    def draw(self, size: tuple[int, int], labels: Tensor | None, rng: np.random.Generator) -> Window:
        """Draw a window.

        Args:
            size: (H, W) of the frames.
            labels: uint8 [H, W] of the query frame for the cat_max_ratio rule; None where it is not labelled.
            rng: the generator of this clip.
        """
        height, width = size
        factor = rng.uniform(*self.scale) * (1.0 if self.base is None else self.base / min(size))
        full = max(1, round(height * factor)), max(1, round(width * factor))
        cut = tuple(min(crop, whole) for crop, whole in zip(self.crop_size, full, strict=True))
        # The share of the frame that the crop shows, in source pixels.
        box_h = min(height, max(1, round(height * cut[0] / full[0])))
        box_w = min(width, max(1, round(width * cut[1] / full[1])))
        for _ in range(10):
            top, left = int(rng.integers(height - box_h + 1)), int(rng.integers(width - box_w + 1))
            if labels is None or _mixed(labels[top : top + box_h, left : left + box_w], self.cat_max_ratio):
                break
        return Window(top, left, box_h, box_w, (cut[0], cut[1]), bool(rng.random() < self.flip))

    def __call__(
        self, images: Tensor, labels: Tensor, query: int, rng: np.random.Generator, labelled: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw once and apply to all frames.

        Args:
            images: uint8 [T, 3, H, W].
            labels: uint8 [T, H, W].
            query: which of the T frames the cat_max_ratio rule looks at.
            rng: the generator of this clip.
            labelled: bool [T]; unlabelled frames need no resized label map. None: all are labelled.

        Returns:
            images uint8 [T, 3, h, w] and labels uint8 [T, h, w] of the crop's size.
        """
        known = labelled is None or bool(labelled[query])
        window = self.draw((images.shape[-2], images.shape[-1]), labels[query] if known else None, rng)
        return cut_images(images, window, self.crop_size), cut_labels(labels, window, self.crop_size, labelled)


def cut_images(images: Tensor, window: Window, crop: tuple[int, int]) -> Tensor:
    """Apply a window to frames, uint8 [T, 3, H, W] -> uint8 [T, 3, *crop], bilinear with antialias, padded with 0."""
    video = F.crop(tv_tensors.Video(images), window.top, window.left, window.height, window.width)
    video = F.resize(video, list(window.size), interpolation=F.InterpolationMode.BILINEAR, antialias=True)
    return _flip_and_pad(video, window, crop, fill=0)


def cut_labels(labels: Tensor, window: Window, crop: tuple[int, int], labelled: Tensor | None = None) -> Tensor:
    """Apply a window to label maps, uint8 [T, H, W] -> uint8 [T, *crop], nearest, padded with 255."""
    out = labels.new_full((labels.shape[0], *crop), IGNORE)
    which = torch.arange(len(labels)) if labelled is None else labelled.nonzero().flatten()
    if len(which) == 0:
        return out
    mask = F.crop(tv_tensors.Mask(labels[which]), window.top, window.left, window.height, window.width)
    # Not `F.resize` of a Mask: its "nearest" takes the upper left corner of each pixel and shifts label maps by up to
    # half a pixel against the bilinear picture; "nearest-exact" takes the centre.
    exact = F.resize_image(
        mask.as_subclass(Tensor)[:, None], list(window.size), interpolation=F.InterpolationMode.NEAREST_EXACT
    )[:, 0]
    out[which] = _flip_and_pad(tv_tensors.Mask(exact), window, crop, fill=IGNORE)
    return out


def _flip_and_pad(cut: Tensor, window: Window, crop: tuple[int, int], fill: int) -> Tensor:
    if window.flip:
        cut = F.horizontal_flip(cut)
    below, right = crop[0] - window.size[0], crop[1] - window.size[1]
    if below or right:
        cut = F.pad(cut, [0, 0, right, below], fill=fill)
    return cut.as_subclass(Tensor).contiguous()


def _mixed(labels: Tensor, ratio: float) -> bool:
    if ratio >= 1:
        return True
    counts = torch.bincount(labels.flatten(), minlength=256)[:IGNORE]
    total = int(counts.sum())
    return total > 0 and int(counts.max()) < ratio * total
