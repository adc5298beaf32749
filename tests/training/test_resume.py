"""A run that is stopped and resumed is the run that was never stopped, bit by bit."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_run import TinyData, TinyLoader, make_clip, run, tiny_model

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.training import last_checkpoint, supervised
from everyframe.training.last_checkpoint import Interrupted, StopSignals
from everyframe.training.run import train

SCRIPT = Path(__file__).with_name("tiny_run.py")


class StoppingData(TinyData):
    """Sends a signal to this process while the batch of one step is read."""

    def __init__(self, stop_at: int, number: signal.Signals = signal.SIGTERM, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.stop_at, self.number = stop_at, number

    def train_dataloader(self) -> TinyLoader:
        loader = super().train_dataloader()
        stop_at, number = self.stop_at * self.batch_size, self.number

        class Stopping(TinyLoader):
            def __iter__(self) -> Iterator[Clip]:
                for clip in super().__iter__():
                    if self.position == stop_at:
                        os.kill(os.getpid(), number)
                    yield clip

        loader.__class__ = Stopping
        return loader


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same(a: object, b: object, where: str = "") -> None:
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor)
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict)
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def columns(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("stop_at", "accumulate"),
    [(7, 1), (5, 1), (8, 2), (1, 1)],
    ids=["between validations", "at a validation", "accumulating", "at once"],
)
def test_resumed_equals_uninterrupted(tmp_path: Path, stop_at: int, accumulate: int) -> None:
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 1.0}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, 14, data=TinyData(whole / "videos"), **options)
    with pytest.raises(Interrupted) as stopped:
        run(parts, 14, data=StoppingData(stop_at, folder=parts / "videos"), **options)
    assert stopped.value.step == -(-stop_at // accumulate)
    assert checkpoint(parts)["global_step"] == stopped.value.step
    run(parts, 14, data=TinyData(parts / "videos"), resume="auto", **options)

    a, b = checkpoint(whole), checkpoint(parts)
    assert a["global_step"] == b["global_step"] == 14
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(a[part], b[part], part)
    # The data went on with the next clip: all logged losses are equal, none came twice, none is missing.
    assert columns(whole / "logs" / "train.csv") == columns(parts / "logs" / "train.csv")
    assert (whole / "model" / "model.safetensors").read_bytes() == (parts / "model" / "model.safetensors").read_bytes()


def test_dropout_is_part_of_what_is_compared(tmp_path: Path) -> None:
    """The comparison would see random numbers that differ: dropout changes the losses."""
    run(tmp_path / "a", 3, data=TinyData(), dropout=0.2)
    run(tmp_path / "b", 3, data=TinyData(), dropout=0.0)
    assert columns(tmp_path / "a" / "logs" / "train.csv") != columns(tmp_path / "b" / "logs" / "train.csv")


def test_clips_of_the_tests_differ() -> None:
    assert not torch.equal(make_clip(0).images, make_clip(1).images)


def test_best_model_survives_a_resume(tmp_path: Path) -> None:
    """The best score before the stop stays the one to beat."""
    with pytest.raises(Interrupted):
        run(tmp_path, 14, data=StoppingData(12, folder=tmp_path / "videos"))
    before = checkpoint(tmp_path)["callbacks"]
    result = run(tmp_path, 14, data=TinyData(tmp_path / "videos"), resume="auto")
    best = next(state for name, state in before.items() if name.startswith("BestModel"))
    assert result.score is not None
    assert result.score >= best["score"] > 0


@pytest.mark.parametrize(("stop_in", "save_every"), [(1, 500), (2, 1), (3, 500)], ids=["first", "second", "at the end"])
def test_signal_during_validation_resumes_before_it(
    stop_in: int, save_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation that was cut off is made up for; then the run is the uninterrupted one in all that it leaves."""
    observe, seen = supervised.observe, itertools.count(1)

    def interrupted(*args: object) -> None:
        if next(seen) == stop_in:
            os.kill(os.getpid(), signal.SIGTERM)
        observe(*args)  # type: ignore[arg-type]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options: dict[str, Any] = {"validate_every": 5, "save_every": save_every}
    a = run(whole, 12, data=TinyData(tmp_path / "videos"), **options)
    monkeypatch.setattr(supervised, "observe", interrupted)
    with pytest.raises(Interrupted):
        run(parts, 12, data=TinyData(tmp_path / "videos"), **options)
    assert checkpoint(parts)["global_step"] == (5, 10, 12)[stop_in - 1]
    assert (parts / "model" / "model.safetensors").exists()  # of this step, see below
    b = run(parts, 12, data=TinyData(tmp_path / "videos"), resume="auto", **options)
    assert (a.best_step, a.score) == (b.best_step, b.score)
    for table in ("train.csv", "val.csv", "val_classes.csv"):
        assert columns(whole / "logs" / table) == columns(parts / "logs" / table)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert_same(checkpoint(whole)[part], checkpoint(parts)[part], part)
    assert (whole / "model" / "model.safetensors").read_bytes() == (parts / "model" / "model.safetensors").read_bytes()


def test_a_run_stopped_before_any_validation_leaves_its_weights(tmp_path: Path) -> None:
    """Each stop writes them anew, the first validation replaces them, and a chosen model is left alone."""

    def stop(step: int) -> str:
        with pytest.raises(Interrupted) as stopped:
            run(tmp_path, 14, data=StoppingData(step, folder=tmp_path / "videos"), validate_every=6, resume="auto")
        return str(stopped.value)

    def same(saved: str) -> bool:
        weights = load_file(tmp_path / "model" / "model.safetensors")
        state = torch.load(tmp_path / "checkpoints" / saved, weights_only=True)["state_dict"]
        return all(torch.equal(value, state[f"model.{name}"]) for name, value in weights.items())

    for step in (2, 4):
        told = f"no validation was reached, so {tmp_path / 'model'} holds the weights of this step"
        assert told in stop(step)
        assert same("last.ckpt")
    assert "no validation" not in stop(8)
    assert same("best.ckpt")
    assert not same("last.ckpt")


def test_interrupt_key_stops_as_sigterm_does(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path, 14, data=StoppingData(3, signal.SIGINT))
    assert stopped.value.signal is signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_after_the_first_signal_ends_at_once(
    first: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(last_checkpoint, "end_now", ended.append)
    with StopSignals() as signals:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGTERM)
        assert (signals.received, ended) == (first, [])
        signal.raise_signal(signal.SIGINT)
    assert ended == [signal.SIGINT]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ignored_from_the_start_stays_ignored(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert run(tmp_path, 6, data=StoppingData(3, number)).steps == 6
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tmp_path, 2, data=TinyData())
    with pytest.raises(InputError, match="--resume auto"):
        run(tmp_path, 2, data=TinyData())
    with pytest.raises(InputError, match="found nothing"):
        run(tmp_path, 2, data=TinyData(), resume=str(tmp_path / "none.ckpt"))


def test_resume_auto_starts_where_nothing_is(tmp_path: Path) -> None:
    assert run(tmp_path, 2, data=TinyData(), resume="auto").steps == 2


def test_nothing_is_left_to_do(tmp_path: Path) -> None:
    first = run(tmp_path, 5, data=TinyData(tmp_path / "videos"))
    again = run(tmp_path, 5, data=TinyData(tmp_path / "videos"), resume="auto")
    assert (again.steps, again.score) == (5, first.score)


@pytest.mark.timeout(300)
def test_sigterm_to_a_real_process(tmp_path: Path) -> None:
    """Stop a process in the middle of a run; another one goes on."""
    options = json.dumps({"steps": 300, "seconds": 0.02})
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(tmp_path), options], stderr=subprocess.PIPE)
    log = tmp_path / "logs" / "train.csv"
    deadline = time.monotonic() + 200  # a new process imports torch and Lightning first, slowly on a busy machine
    while not (log.exists() and len(columns(log)) > 3):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=240)
    assert "Interrupted" in errors.decode()
    stopped = checkpoint(tmp_path)["global_step"]
    assert 3 < stopped < 300
    result = run(tmp_path, stopped + 3, resume="auto")
    assert result.steps == stopped + 3
    assert [int(row["step"]) for row in columns(log)] == list(range(1, stopped + 4))


def test_a_model_put_together_by_hand_is_refused_before_its_first_step(tmp_path: Path) -> None:
    model = tiny_model()
    model.config = {}
    with pytest.raises(InputError, match="expected a model made by create_model"):
        train(model, TinyData(), tmp_path / "run", steps=2)
    assert not (tmp_path / "run").exists()
