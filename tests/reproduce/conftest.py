"""A grid and a script that plays its commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_player import Player

from everyframe.reproduce.plan import Setting


@pytest.fixture
def player(tmp_path: Path) -> Player:
    home = tmp_path / "player"
    home.mkdir()
    return Player(home)


@pytest.fixture
def setting(tmp_path: Path) -> Callable[..., Setting]:
    def make(name: str = "backbones", **more: object) -> Setting:
        options = {"seeds": 1, "size": (32, 48), **more}
        return Setting(name, "vspw:/videos", tmp_path / "out", **options)

    return make
