"""Frames that training resizes and prediction does not: it is said, and `--short` makes up for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everyframe.data.datamodule import ClipDataModule
from everyframe.inference.views import with_views
from everyframe.labels import LabelSpace
from everyframe.training.start import size_note


class Sizes:
    """Remembers the sizes of the frames it is shown."""

    label_space = LabelSpace(("road", "car"))

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def step(self, frame: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        self.seen.append(tuple(frame.shape[-2:]))
        return torch.zeros(1, 2, *frame.shape[-2:]), state


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Two labelled videos of one frame of 90x60 pixels."""
    for name in ("a", "b"):
        for kind, pixels in (("videos", np.zeros((60, 90, 3), np.uint8)), ("masks", np.zeros((60, 90), np.uint8))):
            (tmp_path / kind / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / kind / name / "0.png")
    (tmp_path / "classes.yaml").write_text("0: road\n1: car\n")
    return str(tmp_path)


def test_what_is_said_gives_the_short_side_of_training(data: str) -> None:
    note = size_note(ClipDataModule(data, base=96))
    assert "data.base 96" in note
    assert "(60 in the first validation video)" in note
    model = Sizes()
    seen_as = with_views(model, short=int(note.split("predict --short ")[1].split("`")[0]))
    seen_as.step(torch.zeros(1, 3, 60, 90, dtype=torch.uint8))
    assert model.seen == [(96, 160)]  # 144, up to a multiple of 32


def test_nothing_is_said_where_the_sizes_are_alike(data: str) -> None:
    assert size_note(ClipDataModule(data)) == ""
    assert size_note(ClipDataModule(data, base=60)) == ""
    assert size_note(ClipDataModule(data, base=96, val_split=None)) == ""
