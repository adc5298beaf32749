"""A data set of one video of two labelled frames, for the tests of `everyframe ensemble`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from everyframe.labels import LabelSpace

SPACE = LabelSpace(("road", "car", "bike"), raw_to_train={0: 255, 1: 0, 2: 1, 3: 2})


def write_two_frames(folder: Path) -> None:
    """Write it in VSPW's layout: frames of 40x72 pixels in cells of 8, the classes of `SPACE`."""
    rng = np.random.default_rng(0)
    for i in range(2):
        coarse = rng.integers(0, 256, (5, 9, 3), dtype=np.uint8)
        for kind, pixels in (("origin", coarse), ("mask", coarse[..., 0] % 3 + 1)):
            path = folder / "data" / "v" / kind / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(path)
    (folder / "val.txt").write_text("v\n")
    (folder / "classes.json").write_text('{"0": "void", "1": "road", "2": "car", "3": "bike"}')
