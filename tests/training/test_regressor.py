"""The transform regressor learns from label maps, and its file is what the objective reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from everyframe.data.layouts import load_split
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.losses.inverse_form import TransformRegressor, random_transforms, transform
from everyframe.models.state import read_state
from everyframe.training.inverse_form import edge_tiles, train_regressor


def test_transforms_are_learned_and_the_file_is_read_back(tmp_path: Path) -> None:
    root = write(SyntheticVideos(2, frames=3, size=(48, 64)), tmp_path / "videos", "vspw", "train")
    file = tmp_path / "made" / "regressor.safetensors"
    score = train_regressor(f"vspw:{root}", file, steps=100, batch_size=16, lr=5e-3, tile=12, hidden=64, device="cpu")
    assert score.error < 0.85 * score.nothing
    regressor = TransformRegressor.from_state(read_state(file))
    assert regressor.tile == 12

    # Tiles that agree are nearer than tiles that do not: what the loss rests on.
    generator = torch.Generator().manual_seed(5)
    tiles = edge_tiles(*load_split(f"vspw:{root}", "train"), 12, 2, generator)
    batch = torch.stack([next(tiles) for _ in range(64)])
    moved = transform(batch, random_transforms(64, generator))
    with torch.no_grad():
        same, apart = (regressor(x, batch).norm(dim=1).mean() for x in (batch, moved))
    assert same < apart


def test_label_maps_without_edges_are_refused(tmp_path: Path) -> None:
    root = write(SyntheticVideos(1, frames=2, size=(24, 32)), tmp_path / "videos", "vspw", "train")
    videos, space = load_split(f"vspw:{root}", "train")
    from everyframe.io.label_png import write_label

    for frame in videos[0].frames:
        assert frame.label is not None
        write_label(frame.label, np.zeros((24, 32), np.uint8), space)
    with pytest.raises(InputError, match="label maps with edges between classes, came 2 without one"):
        train_regressor(f"vspw:{root}", tmp_path / "r.safetensors", steps=1, tile=8, device="cpu")
    assert not (tmp_path / "r.safetensors").exists()
