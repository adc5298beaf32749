"""What a user sees of a run, in a log file and on a terminal."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from tiny_run import TinyData, run

from everyframe.training import run as runs
from everyframe.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress(stream: type[io.StringIO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = stream()
    monkeypatch.setattr(runs, "Progress", lambda steps: Progress(steps, written))
    run(tmp_path, 10, data=TinyData(tmp_path / "videos"), validate_every=10)
    lines = written.getvalue().splitlines()
    assert any("] 10/10  loss " in line and "steps/s  0:00:00 left" in line for line in lines)
    assert "step 10: mIoU_in-ground-truth" in lines[-1]
    if stream is io.StringIO:
        assert len(lines) == 3  # every fifth logged step, and the scores
        assert "\r" not in written.getvalue()


def test_loss_is_that_of_the_log_when_gradients_are_accumulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(runs, "Progress", lambda steps: Progress(steps, written))
    run(tmp_path, 1, data=TinyData(), accumulate_grad_batches=2)
    (line,) = written.getvalue().splitlines()  # nothing before the first step
    shown = float(line.split("loss ")[1].split()[0])
    with (tmp_path / "logs" / "train.csv").open() as file:
        (logged,) = csv.DictReader(file)
    assert shown == pytest.approx(float(logged["loss"]), rel=0.15)  # two half batches, not a half of one


def test_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, 2, data=TinyData(), enable_progress_bar=False)
    assert capsys.readouterr().err == ""
