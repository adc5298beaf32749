"""Training with the real data module: its validation shares, and exact resuming with augmentation."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.training import run
from everyframe.training.last_checkpoint import Interrupted
from everyframe.training.recipe import Config, read_recipe, resolve
from everyframe.training.run import RunFolder
from everyframe.training.start import start


@pytest.mark.parametrize(("count", "ranks"), [(1, 2), (3, 2), (4, 2), (2, 5)])
def test_every_rank_validates_equally_often(
    count: int, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, videos in (("train", 1), ("val", count)):
        write(SyntheticVideos(videos, frames=2, size=(32, 32)), tmp_path, "vspw", split)
    shares = []
    for rank in range(ranks):
        data = ClipDataModule(f"vspw:{tmp_path}")
        monkeypatch.setattr(data, "_world", lambda rank=rank: (rank, ranks))
        shares.append(list(data.val_dataloader()))
    assert len({len(share) for share in shares}) == 1
    names = [video.name for share in shares for video in share if video is not None]
    assert sorted(names) == sorted(video.name for video in data.val_videos)


class StopAfter(Callback):
    """Sends SIGTERM to this process after some steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_recipe_with_augmentation_and_dropout_resumes_exactly(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recurrent model on real files, stopped in the middle of a pass over the data."""
    write(SyntheticVideos(5, frames=3, size=(32, 48)), tmp_path / "videos", "vspw", "train")
    overrides = {
        "data.data": f"vspw:{tmp_path / 'videos'}",
        "data.val_split": "null",
        "data.crop": 24,
        "data.batch_size": 2,
        "data.workers": workers,
        "steps": 7,
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": False,
    }

    def config(name: str) -> Config:
        return resolve(read_recipe("ocr-gru-tiny"), {**overrides, "out": str(tmp_path / name)})

    whole = start(config("whole"))
    with monkeypatch.context() as patch:
        patch.setattr(run, "Throughput", lambda: StopAfter(3))
        with pytest.raises(Interrupted) as stopped:
            start(config("parts"))
    assert stopped.value.step == 3
    parts = start(config("parts"), resume="auto")
    a, b = (load_file(r.folder.model / "model.safetensors") for r in (whole, parts))
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_going_on_with_another_model_or_other_classes_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    write(SyntheticVideos(3, frames=2, size=(32, 48)), tmp_path / "videos", "vspw", "train")
    out = tmp_path / "run"
    options = {
        "data.data": f"vspw:{tmp_path / 'videos'}",
        "data.val_split": "null",
        "data.crop": 24,
        "data.batch_size": 2,
        "data.workers": 0,
        "steps": 1,
        "out": str(out),
        "trainer.enable_progress_bar": False,
    }
    start(resolve(read_recipe("fcn-tiny"), options))
    config = RunFolder(out).config.read_bytes()
    other = resolve(read_recipe("ocr-tiny"), {**options, "steps": 2})
    with pytest.raises(InputError, match=r"last\.ckpt: expected the weights of this model, .*--model\.\*"):
        start(other, resume="auto")

    space = LabelSpace.load(out / "labels.json")
    replace(space, names=(space.names[1], space.names[0], *space.names[2:])).save(out / "labels.json")
    with pytest.raises(InputError, match=r"expected the classes that the run began with \(.*choose another --out"):
        start(resolve(read_recipe("fcn-tiny"), {**options, "steps": 2}), resume="auto")
    assert RunFolder(out).config.read_bytes() == config
    assert RunFolder(out).outcome.exists()

    space.save(out / "labels.json")
    assert start(resolve(read_recipe("fcn-tiny"), {**options, "steps": 2}), resume="auto").steps == 2


def test_a_run_that_has_nothing_left_to_do_keeps_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(SyntheticVideos(2, frames=2, size=(32, 48)), tmp_path / "videos", "vspw", "train")
    options = {
        "data.data": f"vspw:{tmp_path / 'videos'}", "data.val_split": "null", "data.crop": 24, "data.batch_size": 2,
        "data.workers": 0, "steps": 1, "out": str(tmp_path / "run"), "trainer.enable_progress_bar": False,
    }  # fmt: skip
    start(resolve(read_recipe("fcn-tiny"), options))
    before = RunFolder(tmp_path / "run").config.read_bytes()
    start(resolve(read_recipe("fcn-tiny"), {**options, "data.batch_size": 3}), resume="auto")
    assert "already at step 1 of 1" in capsys.readouterr().err
    assert RunFolder(tmp_path / "run").config.read_bytes() == before
