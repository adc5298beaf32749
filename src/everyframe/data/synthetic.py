"""Synthetic street videos with exact labels and exact optical flow: ground for tests, the demo, and measurements.

A scene is a stack of flat surfaces, each moved by a shift and a scale per frame (camera pan, zoom, parallax, own
motion). So where a surface point lies at any time, and what covers it, follows from arithmetic: labels and flow are
exact at sub-pixel motion, also where surfaces cover each other.

Two pairs of classes look alike in a single frame. Moving and stopped cars differ by their motion against the street
only. Vans and ambulances differ by a lit sign that shows in the first and last frames of a video only; in between one
has to remember. Frames carry noise and flickering light.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everyframe.data.synthetic_scene import DETAIL, HEIGHT, SKY, STREET_CLASSES, Surface, build_street
from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.labels import LabelSpace

RATE = Fraction(15)
SUPERSAMPLING = 2


class ExactFlow(NamedTuple):
    """Exact motion from one frame to another.

    Attributes:
        flow: float32 [2, H, W], (x, y) in pixels: the point at pixel p of the frame lies at p + flow in the other one.
        valid: bool [H, W], where that point is visible in the other frame: inside the picture and not covered.
    """

    flow: NDArray[np.float32]
    valid: NDArray[np.bool_]


class _Placement(NamedTuple):
    """A surface in one frame: output pixel = scale * scene unit + offset, in x and y (pixel centres at .5)."""

    scale: float
    x: float
    y: float


class SyntheticVideo:
    """One video; any frame can be asked for in any order.

    Args:
        name: its name.
        frames: N.
        size: (H, W).
        key: what its generator is seeded with.
        noise: standard deviation of the noise in each frame, in grey levels.
        flicker: standard deviation of the light's change from frame to frame, relative.
        pan: the camera's mean speed, in pixels per frame at 96 rows.
        zoom: largest relative change of scale.
        subpixel: False rounds all motion to whole pixels and stops the zoom.
        ambulances: the vans of this video are ambulances.
    """

    label_space: LabelSpace = STREET_CLASSES
    rate = RATE

    def __init__(
        self,
        name: str,
        frames: int,
        size: tuple[int, int],
        key: tuple[int, ...],
        noise: float = 5.0,
        flicker: float = 0.03,
        pan: float = 0.4,
        zoom: float = 0.05,
        subpixel: bool = True,
        ambulances: bool = False,
    ) -> None:
        self.name, self.frames, self.size = name, frames, size
        self.noise, self.flicker, self.subpixel = noise, flicker, subpixel
        self._key, self._ambulances = key, ambulances
        self._unit = size[0] / HEIGHT
        rng = np.random.default_rng(key)
        time = np.arange(frames)
        drift, sway, phase = rng.uniform(-pan, pan), rng.uniform(3, 7) * pan, rng.uniform(0, 2 * math.pi, 3)
        self._pan = drift * (time - frames / 2) + sway * np.sin(time / 7 + phase[0])
        self._bob = 1.5 * pan * np.sin(time / 5 + phase[1])
        self._zoom = 1 + (zoom if subpixel else 0) * np.sin(time / 11 + phase[2])
        wander = rng.normal(0, flicker, frames)
        self._gain = 1 + wander + flicker * np.sin(time / 9 + phase[1])
        self.signs = max(2, math.ceil(frames / 8))
        """Signs are lit in so many frames at the beginning and at the end."""
        self._view = HEIGHT * size[1] / size[0]
        self._rng = rng

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[Frame]:
        """Yield all frames in order."""
        for index in range(self.frames):
            yield Frame(self.image(index), index, float(index / self.rate), f"{index:06d}")

    @cached_property
    def _scene(self) -> tuple[NDArray[np.uint8], list[Surface]]:
        """The sky at the resolution of the supersampled canvas, and the surfaces."""
        texels = DETAIL * self._unit
        reach = float(abs(self._pan).max()) * 1.4 + 0.06 * max(self._view, HEIGHT) + 4
        sky, surfaces = build_street(self._rng, self._view, self.frames, reach, texels, self._ambulances)
        height, width = (SUPERSAMPLING * side for side in self.size)
        rows, columns = np.arange(height) * len(sky) // height, np.arange(width) * sky.shape[1] // width
        return sky[rows][:, columns], surfaces

    # -- what a frame shows ------------------------------------------------------------------------------------------

    def image(self, index: int) -> Tensor:
        """Return frame `index`: uint8 [3, H, W], RGB."""
        s = SUPERSAMPLING
        sky, surfaces = self._scene
        canvas = sky.copy()
        rows, columns = self._samples(s)
        lit = min(index, self.frames - 1 - index) < self.signs
        for surface in surfaces:
            cell = _covered(surface, self._place(surface, index), rows, columns)
            if cell is not None:
                box, (v, u) = cell
                texture = surface.lit if lit and surface.lit is not None else surface.texture
                np.copyto(canvas[box], texture[v][:, u], where=surface.mask[v][:, u][..., None])
        mean = canvas[0::s, 0::s].astype(np.float32)
        for row in range(s):
            for column in range(s):
                if row or column:
                    mean += canvas[row::s, column::s]
        mean *= self._gain[index] / s**2
        if self.noise:
            rng = np.random.default_rng((*self._key, 1, index))
            mean += self.noise * rng.standard_normal(mean.shape, np.float32)
        pixels = np.clip(mean + 0.5, 0, 255).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Return the label map of frame `index`: uint8 [H, W], the class at each pixel's centre."""
        _, surfaces = self._scene
        classes = np.array([SKY, *(surface.label for surface in surfaces)], np.uint8)
        return classes[self.surfaces(index)]

    def surfaces(self, index: int) -> NDArray[np.int16]:
        """Return which surface each pixel of frame `index` shows: int16 [H, W], 0 the sky; an instance map."""
        rows, columns = self._samples(1)
        shown = np.zeros(self.size, np.int16)
        for number, surface in enumerate(self._scene[1], 1):
            cell = _covered(surface, self._place(surface, index), rows, columns)
            if cell is not None:
                box, (v, u) = cell
                shown[box][surface.mask[v][:, u]] = number
        return shown

    def flow(self, index: int, other: int) -> ExactFlow:
        """Return the exact motion from frame `index` to frame `other` (before or after it), on the grid of `index`."""
        surfaces = self._scene[1]
        shown = self.surfaces(index)
        rows, columns = self._samples(1)
        flow = np.zeros((2, *self.size), np.float32)
        valid = np.zeros(self.size, np.bool_)
        for number in np.unique(shown):
            here = shown == number
            down, right = np.zeros_like(rows), np.zeros_like(columns)  # the sky stands
            if number:
                old, new = (self._place(surfaces[number - 1], t) for t in (index, other))
                growth = new.scale / old.scale - 1
                down = (rows - old.y) * growth + (new.y - old.y)
                right = (columns - old.x) * growth + (new.x - old.x)
            new_rows, new_columns = rows + down, columns + right
            # Shift and scale keep rows and columns apart, so what covers the moved grid is found as for a frame.
            seen = np.ones(self.size, np.bool_)
            for surface in surfaces[number:]:
                cell = _covered(surface, self._place(surface, other), new_rows, new_columns)
                if cell is not None:
                    box, (v, u) = cell
                    seen[box][surface.mask[v][:, u]] = False
            inside = _inside(new_rows, self.size[0])[:, None] & _inside(new_columns, self.size[1])
            valid[here] = (seen & inside)[here]
            flow[0][here] = np.broadcast_to(right, self.size)[here]
            flow[1][here] = np.broadcast_to(down[:, None], self.size)[here]
        return ExactFlow(flow, valid)

    def _samples(self, per_pixel: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return rows and columns where the picture is sampled, in pixels."""
        height, width = self.size
        return (np.arange(height * per_pixel) + 0.5) / per_pixel, (np.arange(width * per_pixel) + 0.5) / per_pixel

    def _place(self, surface: Surface, index: int) -> _Placement:
        def at(t: int) -> tuple[float, float, float]:
            zoom = self._zoom[t] if surface.depth else 1.0
            middle_x, middle_y = self._view / 2, HEIGHT / 2
            x = zoom * (surface.speed * t - surface.depth * self._pan[t] - middle_x) + middle_x
            y = zoom * (-surface.depth * self._bob[t] - middle_y) + middle_y
            return zoom * self._unit, x * self._unit, y * self._unit

        scale, x, y = at(index)
        if not self.subpixel:
            _, x0, y0 = at(0)
            x, y = x0 + round(x - x0), y0 + round(y - y0)
        return _Placement(scale, x, y)


def _covered(
    surface: Surface, place: _Placement, rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> tuple[tuple[slice, slice], tuple[NDArray[np.intp], NDArray[np.intp]]] | None:
    """Return which rows and columns of a grid the surface's rectangle meets, and its texels there."""
    height, width = surface.mask.shape
    vertical = _texels(rows, place.y, place.scale, surface.top, surface.texels, height)
    horizontal = _texels(columns, place.x, place.scale, surface.left, surface.texels, width)
    if vertical is None or horizontal is None:
        return None
    return (vertical[0], horizontal[0]), (vertical[1], horizontal[1])


def _texels(
    points: NDArray[np.float64], offset: float, scale: float, start: float, texels: float, count: int
) -> tuple[slice, NDArray[np.intp]] | None:
    """Turn rising output coordinates into texels along one axis, as far as the texture reaches."""
    texel = np.floor(((points - offset) / scale - start) * texels).astype(np.intp)
    first, last = np.searchsorted(texel, 0), np.searchsorted(texel, count)
    return None if first >= last else (slice(first, last), texel[first:last])


def _inside(points: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
    """Whether a point lies between the outermost pixel centres, where bilinear sampling is defined."""
    tiny = 1e-9
    return (points >= 0.5 - tiny) & (points <= side - 0.5 + tiny)


class SyntheticVideos(Sequence[SyntheticVideo]):
    """A set of synthetic videos; the same arguments give the same pixels. Every second one shows ambulances.

    Args:
        videos: how many.
        frames: N, frames per video.
        size: (H, W).
        seed: other seeds give other streets.
        noise: see `SyntheticVideo`, as are the next four.
        flicker: change of light.
        pan: camera speed.
        zoom: camera zoom.
        subpixel: motion by fractions of a pixel.
        prefix: names are the prefix and a number; None: "street" and the seed, so that sets can share a folder.

    Example:
        >>> videos = SyntheticVideos(videos=2, frames=8, size=(48, 64))
        >>> videos[0].image(3).shape, videos[0].labels(3).shape
        (torch.Size([3, 48, 64]), (48, 64))
    """

    label_space: LabelSpace = STREET_CLASSES

    def __init__(
        self,
        videos: int = 8,
        frames: int = 24,
        size: tuple[int, int] = (96, 128),
        seed: int = 0,
        noise: float = 5.0,
        flicker: float = 0.03,
        pan: float = 0.4,
        zoom: float = 0.05,
        subpixel: bool = True,
        prefix: str | None = None,
    ) -> None:
        if videos < 1 or frames < 1 or min(size) < 1:
            raise InputError(f"SyntheticVideos: expected videos, frames and size above 0, came {videos, frames, size}")
        prefix = f"street{seed}_" if prefix is None else prefix
        self._videos = [
            SyntheticVideo(f"{prefix}{i:03d}", frames, size, (seed, i), noise, flicker, pan, zoom, subpixel, i % 2 == 1)
            for i in range(videos)
        ]

    def __len__(self) -> int:
        return len(self._videos)

    @overload
    def __getitem__(self, index: int) -> SyntheticVideo: ...

    @overload
    def __getitem__(self, index: slice) -> list[SyntheticVideo]: ...

    def __getitem__(self, index: int | slice) -> SyntheticVideo | list[SyntheticVideo]:
        return self._videos[index]
