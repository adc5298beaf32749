"""Folders of tiny models of transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Saved = Callable[[str], Path]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Folders of tiny models by their kind, a key of `tiny_transformers.BUILD`; each is built once."""
    from everyframe.models.transformers_files import MINIMUM

    pytest.importorskip("transformers", minversion=MINIMUM)
    from tiny_transformers import save

    home = tmp_path_factory.mktemp("hub")

    def folder(kind: str) -> Path:
        if not (home / kind).is_dir():
            save(kind, home / kind)
        return home / kind

    return folder


@pytest.fixture
def copied(saved: Saved, tmp_path: Path) -> Saved:
    """Copies of these folders that a test may damage."""
    return lambda kind: Path(shutil.copytree(saved(kind), tmp_path / kind))
