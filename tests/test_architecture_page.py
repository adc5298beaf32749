"""The examples of docs/architecture.md run, one after the other, and the layout among them reads a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from everyframe.training.objective import TERMS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 6
    space: dict[str, Any] = {"__name__": "architecture"}
    for block in blocks:
        exec(compile(block, "docs/architecture.md", "exec"), space)
    assert TERMS.pop("squared") is space["squared"]  # what the page registers is not for other tests
    return space


def test_example_layout_reads_partly_labelled_drives(names: dict[str, Any], tmp_path: Path) -> None:
    for path in ("val/b/0.jpg", "val/a/0.jpg", "val/a/1.jpg", "val/a/labels/1.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(tmp_path / path)
    videos, space = names["drives"](tmp_path, "val")
    assert [(video.name, len(video.frames), video.labelled) for video in videos] == [("a", 2, (1,)), ("b", 1, ())]
    assert len(space) == 2


def test_paths_and_names_on_the_page_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:models|training|metrics|data|cli|inference|report|losses)/[a-z_/]+\.py)`", page):
        assert (ROOT / "src" / "everyframe" / path).is_file(), path
    for path in re.findall(r"`(tests/[a-z_/]+\.py)`", page):
        assert (ROOT / path).is_file(), path
