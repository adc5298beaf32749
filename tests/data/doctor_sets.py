"""What the tests of `everyframe data check` are written with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from everyframe.data.check_report import CheckReport

H, W = 8, 10


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def ids(value: int = 1, **rows: int) -> np.ndarray:
    """An 8x10 mask of one id; `r3=7` sets row 3 to 7."""
    mask = np.full((H, W), value, np.uint8)
    for row, other in rows.items():
        mask[int(row[1:])] = other
    return mask


def noise(seed: int, size: tuple[int, int] = (H, W)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)


def problems(report: CheckReport, level: str = "error") -> dict[str, list[str]]:
    return {f.what: [Path(file).name for file in f.files] for f in report.findings if f.level == level}
