"""Mean Teacher with every published method: runs resume bit by bit, and two processes are one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from method_runs import METHODS, build, coverage_of, fit, keep, record, weights_of
from test_resume import assert_same, checkpoint
from torch import nn

from everyframe.training.mean_teacher import MeanTeacher

SCRIPT = Path(__file__).with_name("method_runs.py")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Starts two processes that train all methods, one after the other; called, it waits for the folder of the runs."""
    out = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out)], stderr=subprocess.PIPE, text=True, env=environment
    )

    def wait() -> Path:
        _, errors = process.communicate(timeout=300) if process.returncode is None else (None, "")
        assert process.returncode == 0, errors
        return out

    return wait


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_equal_one_with_the_joint_batch(
    name: str, tmp_path: Path, two: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teachers and prototypes are one in both processes, and the gradient of the second step is the joint batch's."""
    method = METHODS[name]
    monkeypatch.setattr(MeanTeacher, "on_before_optimizer_step", record)
    monkeypatch.setattr(MeanTeacher, "on_train_end", keep)
    fit(tmp_path, method, 2, split=True, batch_size=4, unlabelled=4, optimizer="sgd")
    out = two() / name
    assert min(coverage_of(out)) > 0.9
    first, second = weights_of(out, 0), weights_of(out, 1)
    assert any(key.startswith("teacher.model.") for key in first)
    assert_same(first, second)
    start = build(method, split=True).state_dict()
    assert any(not torch.equal(first[f"teacher.model.{key}"], value) for key, value in start.items())
    gradients = torch.load(out / "gradients0.pt", weights_only=True)
    assert_same(gradients, torch.load(out / "gradients1.pt", weights_only=True))
    assert all(value is not None for key, value in gradients.items() if "prototypes" not in key)
    if method.splits:
        for key, want in torch.load(tmp_path / "gradients0.pt", weights_only=True).items():
            if want is not None:
                scale = 1e-4 * want.abs().max().item() + 1e-6  # sums that cancel have the rounding of what they are of
                torch.testing.assert_close(
                    gradients[key], want, rtol=2e-3, atol=scale, msg=lambda text, key=key: f"{key}: {text}"
                )
        for key, want in weights_of(tmp_path, 0).items():
            torch.testing.assert_close(
                first[key], want, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_two_processes_resume_bit_by_bit_the_teacher_too(two: Callable[[], Path]) -> None:
    out = two() / "resumed"
    for rank in (0, 1):
        whole, parts = (weights_of(out / kind, rank) for kind in ("whole", "parts"))
        assert any(key.startswith("teacher.model.") for key in whole)
        assert_same(whole, parts)
    middle = torch.load(out / "half.ckpt", weights_only=True)
    assert middle["global_step"] == 2
    last = weights_of(out / "whole", 0)
    moved = {key.split(".")[0] for key, value in middle["state_dict"].items() if not torch.equal(value, last[key])}
    assert moved == {"model", "teacher"}


@pytest.mark.parametrize("name", METHODS)
def test_two_steps_and_two_more_are_four(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Student, teacher, prototypes, running statistics and optimiser, bit by bit; with dropout and batch norm."""
    method, half = METHODS[name], tmp_path / "half.ckpt"

    def copy(module: MeanTeacher, *_: Any) -> None:
        if module.global_step == 2:
            shutil.copy(tmp_path / "whole" / "checkpoints" / "last.ckpt", half)

    with monkeypatch.context() as patch:
        patch.setattr(MeanTeacher, "on_train_batch_start", copy)
        fit(tmp_path / "whole", method, 4, save_every=2)
    other = build(method, split=False)
    for p in other.parameters():  # all weights come from the checkpoint
        nn.init.constant_(p, 0.1)
    fit(tmp_path / "parts", method, 4, model=other, resume=half)
    assert min(coverage_of(tmp_path / "whole")) > 0.9
    a, b = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert checkpoint(tmp_path / "whole")["global_step"] == 4
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(a[part], b[part], part)
    state, middle = a["state_dict"], torch.load(half, weights_only=True)["state_dict"]
    moved = {key.split(".")[0] for key, value in state.items() if not torch.equal(value, middle[key])}
    assert moved == {"model", "teacher"}
    if "model.temporal.prototypes.filled" in state:
        assert state["model.temporal.prototypes.filled"].any()
        slots = "temporal.prototypes.prototypes"
        assert not torch.equal(state[f"model.{slots}"], middle[f"model.{slots}"])
        assert torch.equal(state[f"model.{slots}"], state[f"teacher.model.{slots}"])
