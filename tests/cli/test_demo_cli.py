"""`everyframe demo` ends where one of its commands was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from everyframe.cli import demo


def test_nothing_runs_after_a_training_that_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After SIGTERM a training ends with status 0, without the file that says it reached its last step."""
    verbs: list[str] = []
    monkeypatch.setattr(demo, "_run", lambda verb, *arguments: verbs.append(verb))
    monkeypatch.setattr(demo, "write_videos", lambda *arguments: None)
    assert demo.main(["--out", str(tmp_path / "demo")]) == 0
    assert verbs == ["data", "train"]
