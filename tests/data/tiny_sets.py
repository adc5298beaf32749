"""VSPW, COCO-Stuff and ADE20K on disk, a few small pictures each, for tests of joining them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (20, 30)
PERSON, CAR, TREE = 61, 49, 67
"""Raw ids of VSPW's classes."""
COCO_PERSON, COCO_SKIS, COCO_CAR = 0, 34, 2
"""Raw ids of COCO-Stuff; skis have no class in VSPW."""


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), shade % 256, np.uint8)).save(path)


def mask(path: Path, parts: dict[int, int]) -> None:
    """Write a mask that has so many of its 20 rows of each id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [raw for raw, count in parts.items() for _ in range(count)]
    assert len(rows) == SIZE[0]
    Image.fromarray(np.repeat(np.array(rows, np.uint8)[:, None], SIZE[1], 1)).save(path)


def write_vspw(root: Path, videos: int = 4, frames: int = 3) -> Path:
    """Every video has person and tree, the last one a car too."""
    for split, count in (("train", videos), ("val", 1)):
        names = [f"{split}{n}" for n in range(count)]
        (root / "data").mkdir(parents=True, exist_ok=True)
        (root / f"{split}.txt").write_text("\n".join(names))
        for n, name in enumerate(names):
            for i in range(frames):
                picture(root / "data" / name / "origin" / f"{i:08d}.jpg", 40 * n + i)
                last = n == count - 1
                parts = {PERSON: 10, TREE: 8, CAR: 2} if last else {PERSON: 10, TREE: 10}
                mask(root / "data" / name / "mask" / f"{i:08d}.png", parts)
    return root


def write_coco(root: Path) -> Path:
    """Pictures with 20, 17, 16 and 10 of 20 rows that have a class in VSPW, by skis and by unlabelled pixels."""
    masks = [
        {COCO_PERSON: 20},
        {COCO_PERSON: 10, COCO_CAR: 7, COCO_SKIS: 3},
        {COCO_PERSON: 16, 255: 4},
        {COCO_CAR: 10, COCO_SKIS: 10},
    ]
    for n, parts in enumerate(masks):
        picture(root / f"images/train2017/{n:012d}.jpg", 200 + n)
        mask(root / f"annotations/train2017/{n:012d}.png", parts)
    return root


def write_ade(root: Path) -> Path:
    """Two pictures of wall (raw id 1) and base (41), which VSPW does not have."""
    for n, parts in enumerate([{1: 20}, {1: 18, 41: 2}]):
        picture(root / f"images/validation/ADE_val_{n}.jpg", 150 + n)
        mask(root / f"annotations/validation/ADE_val_{n}.png", parts)
    return root
