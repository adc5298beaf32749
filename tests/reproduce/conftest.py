"""A grid and a script that plays its commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_player import Player
from two_rows import TWO_ROWS

from everyframe.reproduce.grid import EXPERIMENTS
from everyframe.reproduce.plan import Setting


@pytest.fixture
def player(tmp_path: Path) -> Player:
    home = tmp_path / "player"
    home.mkdir()
    return Player(home)


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Setting]:
    monkeypatch.setitem(EXPERIMENTS, "two-rows", TWO_ROWS)

    def make(name: str = "two-rows", **more: object) -> Setting:
        options = {"seeds": 1, "size": (32, 48), **more}
        return Setting(name, "vspw:/videos", tmp_path / "out", **options)

    return make
