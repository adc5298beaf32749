"""The code of docs/own-loop.md runs as it stands there, and what the page says of it is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from everyframe import load
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.frames import IGNORE, Clip, Role
from everyframe.losses import pixel
from everyframe.training.objectives_temporal import video_objective

PAGE = (Path(__file__).parents[1] / "docs" / "own-loop.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What both blocks leave behind, in the folder of `my_videos`, where the tests stay."""
    home, space = tmp_path_factory.mktemp("own_loop"), {"__name__": "own_loop"}
    for split, count in (("train", 4), ("val", 1)):
        videos = SyntheticVideos(count, frames=5, size=(48, 64), prefix=f"{split}_")
        write(videos, home / "my_videos", "folder", split, labelled="one" if split == "train" else "all")
    with pytest.MonkeyPatch.context() as context:
        context.chdir(home)
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
            exec(compile(block, "docs/own-loop.md", "exec"), space)
        yield space


def test_it_trains_and_saves(names: dict[str, Any]) -> None:
    model, results = names["model"], names["results"]
    assert model.training, "evaluate gives the mode back"
    assert 0 <= results.score("mIoU").value <= 1
    saved = load("runs/mine")
    assert all(torch.equal(a, b.cpu()) for a, b in zip(saved.parameters(), model.parameters(), strict=True))


def test_clips_hold_what_the_model_looks_at(names: dict[str, Any]) -> None:
    clip, temporal = next(iter(names["loader"])), names["model"].temporal
    assert clip.roles.count(Role.ADJACENT) == len(temporal.adjacent) > 0
    assert clip.roles.count(Role.REFERENCE) == int(temporal.reference) == 1
    assert names["data"].sampling == names["sampling"]


def test_each_pass_is_another_draw_and_a_plain_loader_repeats_one(names: dict[str, Any]) -> None:
    def pixels(loader: Any) -> list[int]:
        return sorted(int(clip.images.long().sum()) for clip in loader)

    assert pixels(names["loader"]) != pixels(names["loader"])
    plain = DataLoader(names["dataset"], batch_size=1, shuffle=True, collate_fn=Clip.stack)
    assert pixels(plain) == pixels(plain)
    with pytest.raises(TypeError, match="Clip"):
        next(iter(DataLoader(names["dataset"], batch_size=1)))


def test_a_batch_without_labels_costs_nothing(names: dict[str, Any]) -> None:
    logits, labels = torch.zeros(1, 2, 3, 3, requires_grad=True), torch.full((1, 6, 6), IGNORE, dtype=torch.uint8)
    assert pixel.cross_entropy(logits, labels).item() == 0


def test_the_losses_of_a_recipe_are_one_module(names: dict[str, Any]) -> None:
    clip, model = next(iter(names["loader"])).to(names["device"]), names["model"]
    losses = video_objective(model)(model(clip.images, clip.roles), clip)
    assert losses["loss"].requires_grad
    assert losses["loss"].item() == pytest.approx(losses["cross_entropy"].item() + 0.4 * losses["auxiliary"].item())
