"""The example of docs/training.md runs: training by hand, a term of one's own, and going on by the same call."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.models.checkpoint import load
from everyframe.training.recipe import read_recipe

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def test_training_by_hand(tmp_path: Path) -> None:
    (code,) = [b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S) if "def make" in b]
    space: dict[str, Any] = {"__name__": "training"}
    exec(compile(code, str(PAGE), "exec"), space)
    for split, seed in (("train", 0), ("val", 1)):
        write(SyntheticVideos(2, frames=4, size=(64, 80), seed=seed), tmp_path / "data", "vspw", split)
    seen = []

    def term(outcome: Any) -> Any:
        seen.append(outcome.clip.roles)
        return outcome.logits.square().mean()

    arguments = (f"vspw:{tmp_path / 'data'}", "ssltm-tiny", tmp_path / "run")
    assert space["make"](*arguments, 1, term).steps == 1
    assert len(seen) == 1
    assert len(seen[0]) == 4, "two adjacent frames, the reference and the query"
    assert space["make"](*arguments, 2, term).steps == 2
    assert len(seen) == 2
    assert load(tmp_path / "run" / "model").config["name"] == "ssltm-tiny"
    with pytest.raises(InputError, match="go on there with train"):
        read_recipe(tmp_path / "run")
