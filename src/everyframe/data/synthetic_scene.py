"""The pieces of a synthetic street: drawn once per video as flat surfaces that only shift and scale afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from everyframe.labels import LabelSpace

STREET_CLASSES = LabelSpace(
    names=("sky", "building", "tree", "street", "moving car", "stopped car", "van", "ambulance"),
    palette=(
        (95, 165, 225), (125, 118, 135), (75, 155, 55), (150, 105, 150),
        (255, 150, 20), (35, 70, 200), (250, 235, 95), (225, 30, 60),
    ),
)  # fmt: skip
SKY, BUILDING, TREE, STREET, MOVING_CAR, STOPPED_CAR, VAN, AMBULANCE = range(8)

HEIGHT = 96.0
"""Rows of the drawing in scene units; a video of 96 rows shows one unit per pixel."""
CURB = 52.0
"""Row where the street begins."""
LANES = ((66.0, 0.95), (79.0, 1.1), (93.5, 1.28))
"""Row of the wheels and size of the vehicles of each lane, far to near."""
BACKGROUND_DEPTH, STREET_DEPTH, FRONT_DEPTH = 0.6, 1.0, 1.35
"""How fast things pass when the camera pans."""
CAR_COLORS = ((196, 48, 40), (44, 92, 170), (58, 128, 84), (222, 178, 60), (96, 96, 106), (150, 84, 150))
DETAIL = 3.0
"""Texels per output pixel."""


@dataclass(frozen=True, slots=True)
class Surface:
    """A flat thing in the scene.

    Attributes:
        texture: uint8 [h, w, 3].
        mask: bool [h, w], where the surface is.
        left: scene column of the texture's left edge at frame 0.
        top: scene row of its upper edge.
        texels: texels per scene unit.
        label: train id.
        depth: 0 for the sky, 1 for the street: share of the camera's pan by which it passes.
        speed: own motion to the right, in scene units per frame.
        lit: texture of the frames in which its sign is lit; None for things without a sign.
    """

    texture: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    left: float
    top: float
    texels: float
    label: int
    depth: float
    speed: float = 0.0
    lit: NDArray[np.uint8] | None = None


class _Pen:
    """Draws in scene units on a transparent picture."""

    def __init__(self, width: float, height: float, texels: float) -> None:
        self.texels = texels
        self.picture = Image.new("RGBA", (max(1, round(width * texels)), max(1, round(height * texels))))
        self.draw = ImageDraw.Draw(self.picture)

    def __call__(
        self, shape: str, points: Sequence[float], color: Sequence[int] | NDArray[Any], **options: float
    ) -> None:
        """Call a method of `ImageDraw` with scene coordinates: "rectangle", "ellipse", "polygon", ..."""
        scaled = [p * self.texels for p in points]
        if shape != "polygon":  # PIL paints the last row and column too
            scaled[2:] = [max(p - 1, s) for p, s in zip(scaled[2:], scaled[:2], strict=True)]
        options = {key: value * self.texels for key, value in options.items()}
        getattr(self.draw, shape)(scaled, fill=tuple(int(c) for c in color), **options)

    def surface(self, rng: np.random.Generator, grain: float = 0.06) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return texture and mask, with a fixed grain that moves with the surface."""
        pixels = np.asarray(self.picture)
        return _grainy(pixels[..., :3], rng, grain, self.texels), pixels[..., 3] >= 128


def _grainy(texture: NDArray[np.uint8], rng: np.random.Generator, grain: float, texels: float) -> NDArray[np.uint8]:
    """Make a texture lighter and darker in patches of about one scene unit."""
    h, w = texture.shape[:2]
    patch = max(1, round(texels))
    coarse = rng.normal(1, grain, (h // patch + 1, w // patch + 1))
    fine = coarse.repeat(patch, 0)[:h].repeat(patch, 1)[:, :w]
    return np.clip(texture * fine[..., None], 0, 255).astype(np.uint8)


def build_street(
    rng: np.random.Generator, width: float, frames: int, reach: float, texels: float, ambulances: bool
) -> tuple[NDArray[np.uint8], list[Surface]]:
    """Draw one street.

    Args:
        rng: decides everything.
        width: columns of the view in scene units (it is `HEIGHT` rows high).
        frames: N, how long vehicles have to keep coming.
        reach: how far the camera looks beyond the view at most, to each side and up and down, in scene units.
        texels: texels per scene unit.
        ambulances: the vans are ambulances.

    Returns:
        the sky, uint8 [h, w, 3] over the whole view, and the surfaces, far to near.
    """
    far = _skyline(rng, width, reach, texels)
    trees = [_tree(rng, rng.uniform(-reach, width + reach), texels) for _ in range(round(width / 26))]
    surfaces = [far, *sorted(trees, key=lambda s: s.top), _ground(rng, width, reach, texels)]
    surfaces += _traffic(rng, width, frames, reach, texels, AMBULANCE if ambulances else VAN)
    if rng.random() < 0.7:
        surfaces.append(_front_tree(rng, rng.uniform(0.15, 0.85) * width, texels))
    return _sky(rng, width, texels), surfaces


# -- what stands still -----------------------------------------------------------------------------------------------


def _sky(rng: np.random.Generator, width: float, texels: float) -> NDArray[np.uint8]:
    pen = _Pen(width, HEIGHT, texels)
    high, low = np.array([86, 140, 205]) + rng.integers(-14, 15, 3), np.array([205, 222, 236])
    for row in range(round(HEIGHT)):
        pen("rectangle", (0, row, width, row + 1.5), high + (low - high) * min(1, row / 48))
    for _ in range(rng.integers(2, 5)):
        x, y, size = rng.uniform(0, width), rng.uniform(3, 22), rng.uniform(4, 9)
        for _ in range(6):
            dx, dy, r = rng.uniform(-1.6, 1.6) * size, rng.uniform(-0.25, 0.25) * size, rng.uniform(0.35, 0.6) * size
            pen("ellipse", (x + dx - r * 1.5, y + dy - r * 0.7, x + dx + r * 1.5, y + dy + r * 0.7), (240, 243, 247))
    return pen.surface(rng, 0.01)[0]


def _skyline(rng: np.random.Generator, width: float, reach: float, texels: float) -> Surface:
    top, bottom, left = -reach, CURB + 3, -reach
    pen = _Pen(width + 2 * reach, bottom - top, texels)
    x = 0.0
    while x < width + 2 * reach:
        wide, roof = rng.uniform(14, 30), reach + rng.uniform(8, 34)
        wall = np.array([150, 128, 112]) + rng.integers(-40, 41) + rng.integers(-16, 17, 3)
        pen("rectangle", (x, roof, x + wide, bottom - top), wall)
        pen("rectangle", (x, roof, x + wide, roof + 1.2), wall * 0.7)
        pane_w, pane_h, step = rng.uniform(1.8, 2.8), rng.uniform(2.4, 3.6), rng.uniform(5, 6.5)
        for row in np.arange(roof + 3.2, bottom - top - 6, step + 0.8):
            for column in np.arange(x + 2.2, x + wide - pane_w - 1, step):
                glass = (236, 214, 140) if rng.random() < 0.18 else wall * 0.42 + (6, 12, 26)
                pen("rectangle", (column, row, column + pane_w, row + pane_h), glass)
        x += wide + (rng.uniform(2, 9) if rng.random() < 0.3 else 0)
    texture, mask = pen.surface(rng, 0.04)
    return Surface(texture, mask, left, top, texels, BUILDING, BACKGROUND_DEPTH)


def _tree(rng: np.random.Generator, x: float, texels: float) -> Surface:
    height, wide = rng.uniform(20, 31), rng.uniform(12, 19)
    pen = _Pen(wide, height, texels)
    pen("rectangle", (wide / 2 - 1.1, height * 0.55, wide / 2 + 1.1, height), (92, 66, 44))
    _crown(pen, rng, wide / 2, height * 0.38, wide * 0.3, height * 0.24, 14)
    texture, mask = pen.surface(rng, 0.12)
    return Surface(texture, mask, x - wide / 2, CURB + 2 - height, texels, TREE, 0.9)


def _front_tree(rng: np.random.Generator, x: float, texels: float) -> Surface:
    wide, height, over = 46.0, 120.0, 16.0
    pen = _Pen(wide, height, texels)
    trunk = (74, 54, 38)
    pen("polygon", (wide / 2 - 2.2, 10, wide / 2 + 2.2, 10, wide / 2 + 3.2, height, wide / 2 - 3.2, height), trunk)
    _crown(pen, rng, wide / 2, 14, wide * 0.3, 9, 22)
    texture, mask = pen.surface(rng, 0.12)
    return Surface(texture, mask, x - wide / 2, -over, texels, TREE, FRONT_DEPTH)


def _crown(pen: _Pen, rng: np.random.Generator, x: float, y: float, dx: float, dy: float, leaves: int) -> None:
    green = np.array([62, 112, 48]) + rng.integers(-14, 15, 3)
    for i in range(leaves):
        cx, cy, r = x + rng.uniform(-1, 1) * dx, y + rng.uniform(-1, 1) * dy, rng.uniform(0.45, 0.7) * min(dx, dy * 1.4)
        shade = green * (0.72 + 0.5 * i / leaves)
        pen("ellipse", (cx - r, cy - r, cx + r, cy + r), shade)


def _ground(rng: np.random.Generator, width: float, reach: float, texels: float) -> Surface:
    top, left = CURB, -reach
    wide, height = width + 2 * reach, HEIGHT + reach - CURB
    pen = _Pen(wide, height, texels)
    asphalt = np.array([88, 88, 94]) + rng.integers(-8, 9)
    pen("rectangle", (0, 0, wide, height), asphalt)
    pen("rectangle", (0, 0, wide, 5), (172, 166, 156))
    for x in np.arange(rng.uniform(0, 6), wide, 6):
        pen("rectangle", (x, 0, x + 0.5, 5), (142, 136, 128))
    pen("rectangle", (0, 5, wide, 6), (205, 202, 196))
    for row, (_, size) in zip((LANES[0][0] + 1.6, LANES[1][0] + 1.8), LANES, strict=False):
        for x in np.arange(rng.uniform(0, 16), wide, 16):
            pen("rectangle", (x, row - top, x + 7, row - top + 0.9 * size), (226, 224, 214))
    texture, mask = pen.surface(rng, 0.07)
    return Surface(texture, mask, left, top, texels, STREET, STREET_DEPTH)


# -- what drives -----------------------------------------------------------------------------------------------------


def _traffic(
    rng: np.random.Generator, width: float, frames: int, reach: float, texels: float, van_label: int
) -> list[Surface]:
    """Draw three lanes of vehicles. Lanes move or stand as a whole, so nobody drives through anybody.

    Which lanes stand is drawn anew for each video, and both kinds of cars are painted by the same brush: only motion
    tells them apart. The vans of one video are all ambulances or all not: only the lit sign tells.
    """
    moving = rng.permutation([True, False, bool(rng.random() < 0.5)])
    van_lane = int(rng.integers(len(LANES)))
    surfaces = []
    for lane, (row, size) in enumerate(LANES):
        right = bool(rng.random() < 0.5)
        speed = (rng.uniform(1.3, 2.6) * (1 if right else -1)) if moving[lane] else 0.0
        travel = abs(speed) * frames
        x = -reach - (travel if speed > 0 else 0) + rng.uniform(0, 20)
        end = width + reach + (travel if speed < 0 else 0)
        # The lane that must show a van has one in the middle of the view at half time.
        center = width * rng.uniform(0.3, 0.7) - speed * frames / 2
        placed = [(center, True)] if lane == van_lane else []
        while x < end:
            is_van = bool(rng.random() < 0.2)
            if all(abs(x - other) > 44 * size for other, _ in placed):
                placed.append((x, is_van))
            x += rng.uniform(36, 62) * size
        for at, is_van in sorted(placed):
            label = van_label if is_van else MOVING_CAR if moving[lane] else STOPPED_CAR
            surfaces.append(_vehicle(rng, at, row, size, right, label, speed, texels))
    return surfaces


def _vehicle(
    rng: np.random.Generator, x: float, row: float, size: float, right: bool, label: int, speed: float, texels: float
) -> Surface:
    detail = texels * size
    lit = None
    if label in (VAN, AMBULANCE):
        tint, grain = int(rng.integers(-12, 13)), int(rng.integers(1 << 31))
        shapes = [_van(tint, detail, sign).surface(np.random.default_rng(grain), 0.02) for sign in (False, True)]
        (texture, mask), lit = shapes[0], shapes[label == AMBULANCE][0]
    else:
        texture, mask = _car(np.array(CAR_COLORS[rng.integers(len(CAR_COLORS))]), detail).surface(rng, 0.03)
    height, wide = mask.shape[0] / texels, mask.shape[1] / texels
    found = Surface(texture, mask, x - wide / 2, row - height, texels, label, STREET_DEPTH, speed, lit)
    if right:
        return found
    return replace(
        found,
        texture=found.texture[:, ::-1],
        mask=found.mask[:, ::-1],
        lit=None if lit is None else lit[:, ::-1],
    )


def _car(color: NDArray[np.integer], texels: float) -> _Pen:
    pen = _Pen(26, 11.5, texels)
    pen("polygon", (4.5, 5.5, 8.5, 0.6, 17, 0.6, 21.5, 5.5), color * 0.82)
    pen("polygon", (6.4, 5.2, 9.1, 1.6, 12.3, 1.6, 12.3, 5.2), (46, 60, 78))
    pen("polygon", (13.2, 5.2, 13.2, 1.6, 16.5, 1.6, 19.6, 5.2), (46, 60, 78))
    pen("rounded_rectangle", (0, 4.9, 26, 9.9), color, radius=1.8)
    pen("rectangle", (0.6, 8, 25.4, 8.7), color * 0.68)
    pen("rectangle", (12.6, 5.2, 13, 8), color * 0.6)
    pen("rectangle", (24.4, 5.9, 26, 7.2), (250, 240, 190))
    pen("rectangle", (0, 5.9, 1.2, 7.2), (150, 24, 24))
    _wheels(pen, (5.6, 20.2), 9.1)
    return pen


def _van(tint: int, texels: float, sign: bool) -> _Pen:
    pen = _Pen(31, 17.5, texels)
    body = np.array([222, 222, 218]) + tint
    pen("rounded_rectangle", (0, 1.4, 25, 15.4), body, radius=1.2)
    pen("polygon", (22, 3, 26.5, 3, 30.6, 8.6, 30.6, 15.4, 22, 15.4), body)
    pen("polygon", (23.6, 4.2, 26.1, 4.2, 29.2, 8.6, 23.6, 8.6), (46, 60, 78))
    pen("rectangle", (0.4, 11.4, 30.4, 12.6), (210, 120, 50))
    pen("rectangle", (29.4, 10.2, 30.6, 11.4), (250, 240, 190))
    pen("rectangle", (15.5, 0, 20.5, 1.6), (60, 130, 255) if sign else (74, 76, 84))
    pen("rectangle", (5, 3, 16, 10.6), (250, 250, 250) if sign else (74, 76, 84))
    if sign:
        pen("rectangle", (9.2, 3.5, 11.8, 10.1), (225, 20, 40))
        pen("rectangle", (7.2, 5.5, 13.8, 8.1), (225, 20, 40))
    _wheels(pen, (6.2, 24.2), 15.1)
    return pen


def _wheels(pen: _Pen, columns: Sequence[float], row: float) -> None:
    for x in columns:
        pen("ellipse", (x - 2.4, row - 2.4, x + 2.4, row + 2.4), (28, 28, 32))
        pen("ellipse", (x - 1.1, row - 1.1, x + 1.1, row + 1.1), (168, 168, 172))
