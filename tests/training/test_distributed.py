"""Two processes (gloo, CPU) train and validate like one."""

from __future__ import annotations

import csv
import json
import multiprocessing
import multiprocessing.queues
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tiny_run import run

from everyframe.training.validation import share_buffers

SCRIPT = Path(__file__).with_name("tiny_run.py")
PLAIN = {"dropout": 0.0, "dice": 0.0, "optimizer": "sgd"}  # what is the same however a batch is split


def launch(out: Path, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(out), json.dumps({"devices": 2, "strategy": "ddp", **options})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "videos",
    [pytest.param(1, id="a process without a video"), pytest.param(3, id="uneven shares", marks=pytest.mark.slow)],
)
def test_two_processes_equal_one_with_the_joint_batch(tmp_path: Path, videos: int) -> None:
    """The clips hold different numbers of labelled pixels, so averaging per-process means would not do."""
    one, two = tmp_path / "one", tmp_path / "two"
    process = launch(two, steps=6, batch_size=2, videos=videos, validate_every=3, **PLAIN)
    run(one, 6, batch_size=4, videos=videos, validate_every=3, **PLAIN)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    a = torch.load(one / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    b = torch.load(two / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-4, atol=1e-6, msg=name)
    # Validation counts every video once, whichever process labelled it.
    assert rows(one / "logs" / "val.csv") == rows(two / "logs" / "val.csv")
    assert (
        load_file(two / "model" / "model.safetensors").keys() == load_file(one / "model" / "model.safetensors").keys()
    )


def test_a_gradient_that_is_no_number_in_one_process_stops_both(tmp_path: Path) -> None:
    process = launch(tmp_path, steps=6, batch_size=1, save_every=1, broken=[4, 1])
    _, errors = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "InputError: the gradient of step 4 is not finite (cross_entropy " in errors
    assert "gloo" not in errors.lower()  # neither was left waiting for the other
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


def _statistics_of(rank: int, store: str, out: multiprocessing.queues.Queue[tuple[int, list[float]]]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean += rank + 1  # what its own clips left
    share_buffers(norm)
    out.put((rank, norm.running_mean.tolist()))
    dist.destroy_process_group()


def test_every_process_validates_the_first_ones_statistics(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    children = [context.Process(target=_statistics_of, args=(r, str(tmp_path / "store"), found)) for r in (0, 1)]
    for child in children:
        child.start()
    assert sorted(found.get(timeout=240) for _ in children) == [(0, [1.0, 1.0]), (1, [1.0, 1.0])]
    for child in children:
        child.join(timeout=60)


@pytest.mark.slow
def test_signal_to_one_process_stops_both_at_one_step(tmp_path: Path) -> None:
    process = launch(tmp_path, steps=2000, seconds=0.01, batch_size=1)
    log = tmp_path / "logs" / "train.csv"
    deadline = time.monotonic() + 100
    while not (log.exists() and len(rows(log)) > 3):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert errors.count("Interrupted: stopped by SIGTERM") >= 1
    step = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < step < 2000
    assert step % 10 == 0
