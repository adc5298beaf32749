"""Data sets that several test files begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from doctor_sets import ids, noise, save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Videos a, b, c of three frames; one mask in a and one in b; nothing wrong but the class `boat`."""
    for v, name in enumerate("abc"):
        for i in range(3):
            save(tmp_path / f"videos/{name}/{i}.jpg", noise(10 * v + i))
    save(tmp_path / "masks/a/1.png", ids(1, r0=0, r1=2))
    save(tmp_path / "masks/b/0.png", ids(1))
    (tmp_path / "classes.yaml").write_text("0: ignore\n1: road\n2: car\n3: boat\n")
    (tmp_path / "train.txt").write_text("a\nc\n")
    (tmp_path / "val.txt").write_text("b\n")
    return tmp_path
