"""Colour augmentation of clips: one draw per clip, all frames alike, uint8 in and out, on any device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F


def color_matrix(
    brightness: float = 0.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0, gray: bool = False
) -> Tensor:
    """Join colour changes into one affine map of RGB: float32 [3, 4], x' = M[:, :3] x + M[:, 3].

    Brightness and contrast act on each channel (x * contrast + brightness); saturation mixes with the luma; hue turns
    the colours around the grey axis, a linear stand-in for a shift in HSV (P. Haeberli, Matrix Operations for Image
    Processing, 1993), which keeps greys grey and a turn of 1/3 takes red to green, green to blue, blue to red. One
    matrix for all four costs a tenth of the way through HSV.

    Args:
        brightness: added, in 0..255 units.
        contrast: factor.
        saturation: factor; 0 is grey.
        hue: turn, in shares of the circle.
        gray: luma in all channels.
    """
    luma = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
    matrix = torch.eye(3) * contrast
    matrix = (saturation * torch.eye(3) + (1 - saturation) * luma) @ matrix
    cos, sin = math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue)
    third = (1 - cos) / 3
    up, down = third + sin / math.sqrt(3), third - sin / math.sqrt(3)
    turn = torch.tensor([[cos + third, down, up], [up, cos + third, down], [down, up, cos + third]])
    matrix = turn @ matrix
    if gray:
        matrix = luma @ matrix
    # Brightness comes before the linear steps that keep grey as it is, so it may be added after them.
    return torch.cat([matrix, torch.full((3, 1), float(brightness))], 1)


def apply_color(images: Tensor, matrix: Tensor) -> Tensor:
    """Apply a `color_matrix` to uint8 [..., 3, H, W], rounded and clipped to uint8; on the device of the images."""
    pixels = images.flatten(-2).flatten(0, -3) if images.ndim > 3 else images.flatten(-2)[None]
    n = len(pixels)
    matrix = matrix.to(pixels.device)
    out = torch.baddbmm(matrix[:, 3:].expand(n, 3, 1), matrix[:, :3].expand(n, 3, 3), pixels.float())
    return out.round_().clamp_(0, 255).to(torch.uint8).view(images.shape)


@dataclass(frozen=True, slots=True)
class Photometric:
    """The customary colour augmentation of segmentation: each change with its probability, one draw per clip.

    Attributes:
        brightness: largest shift, in 0..255 units.
        contrast: range of the factor.
        saturation: range of the factor.
        hue: largest turn, in shares of the circle (18/180 of OpenCV's hue circle).
        probability: of each of the four.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18 / 180
    probability: float = 0.5

    def draw(self, rng: np.random.Generator) -> Tensor | None:
        """Draw a `color_matrix`; None when nothing changes."""
        on = rng.random(4) < self.probability
        shift, turn = rng.uniform(-self.brightness, self.brightness), rng.uniform(-self.hue, self.hue)
        contrast, saturation = rng.uniform(*self.contrast), rng.uniform(*self.saturation)
        if not on.any():
            return None
        return color_matrix(
            shift if on[0] else 0.0, contrast if on[1] else 1.0, saturation if on[2] else 1.0, turn if on[3] else 0.0
        )

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Change the colours of uint8 [T, 3, H, W], all frames alike."""
        matrix = self.draw(rng)
        return images if matrix is None else apply_color(images, matrix)


@dataclass(frozen=True, slots=True)
class StrongPhotometric:
    """The student's colours in Mean Teacher training: jitter, grey and blur, one draw per clip.

    The strengths are those of colour jitter .5/.5/.5/.25 with p .8, grey with p .2, Gaussian blur with p .5.

    Attributes:
        jitter: largest relative change of brightness, contrast, saturation, and largest turn of hue.
        jitter_probability: of the jitter as a whole.
        gray_probability: of a grey clip.
        blur_probability: of a blurred clip.
        sigma: range of the blur's standard deviation in pixels.
    """

    jitter: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.25)
    jitter_probability: float = 0.8
    gray_probability: float = 0.2
    blur_probability: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Change uint8 [T, 3, H, W], all frames alike; on the device of the images."""
        brightness, contrast, saturation = (rng.uniform(1 - j, 1 + j) for j in self.jitter[:3])
        hue = rng.uniform(-self.jitter[3], self.jitter[3])
        jitter, gray, blur = rng.random(3) < (self.jitter_probability, self.gray_probability, self.blur_probability)
        sigma = rng.uniform(*self.sigma)
        matrix = color_matrix(gray=bool(gray))
        if jitter:
            # Contrast is relative to mid grey here, so that bright clips do not only get darker or clipped.
            offset = 127.5 * (1 - contrast) * brightness
            matrix = color_matrix(offset, brightness * contrast, saturation, hue, bool(gray))
        if jitter or gray:
            images = apply_color(images, matrix)
        if blur:
            side = 2 * math.ceil(2 * sigma) + 1
            images = F.gaussian_blur_image(images, [side, side], [sigma, sigma])
        return images
