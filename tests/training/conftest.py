"""One thread, on which tiny models are fastest, above all on a machine that is busy; and a small data set."""

from __future__ import annotations

from pathlib import Path

import pytest

from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """All tests here."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VSPW's layout: three training videos and one to validate on, four frames of 32x48, all labelled."""
    root = tmp_path_factory.mktemp("data") / "videos"
    for split, count in (("train", 3), ("val", 1)):
        write(SyntheticVideos(count, frames=4, size=(32, 48)), root, "vspw", split)
    return root
