"""Mean Teacher as recipes ask for it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from test_resume import assert_same, checkpoint, columns
from tiny_run import TinyData, run

from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.training import run as run_module
from everyframe.training.last_checkpoint import Interrupted
from everyframe.training.recipe import Config, read_recipe, resolve
from everyframe.training.start import start


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "videos"
    for split, count in (("train", 3), ("val", 1)):
        write(SyntheticVideos(count, frames=5, size=(32, 48)), root, "vspw", split)
    return root


def config(videos: Path, out: Path, recipe: str = "ocr-gru-tiny", **overrides: Any) -> Config:
    quick = {
        "data.data": f"vspw:{videos}", "data.crop": 24, "data.batch_size": 2, "data.workers": 0, "data.budget": 1,
        "steps": 5, "validate_every": 5, "trainer.accelerator": "cpu", "trainer.precision": "32-true",
        "trainer.log_every_n_steps": 1, "trainer.enable_progress_bar": False, "out": str(out),
    }  # fmt: skip
    return resolve(read_recipe(recipe), {**quick, **overrides})


class StopAfter(run_module.Throughput):
    """Sends SIGTERM to this process after two steps."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        import os
        import signal

        super().on_train_batch_end(trainer, *args)
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_any_recipe_takes_a_teacher_and_resumes_exactly(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recurrent model on real files: clips of unlabelled videos bring their context frames too."""
    extra = write(SyntheticVideos(2, frames=4, size=(32, 48), seed=9), tmp_path / "extra", "vspw", "train")
    options = {"unlabeled": [str(extra)], "data.unlabeled_batch_size": 3, "teacher.threshold": 0.1}
    whole = start(config(videos, tmp_path / "whole", **options))
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "Throughput", StopAfter)
        with pytest.raises(Interrupted):
            start(config(videos, tmp_path / "parts", **options))
    parts = start(config(videos, tmp_path / "parts", **options), resume="auto")
    a, b = (checkpoint(r.folder.root)["state_dict"] for r in (whole, parts))
    assert_same(a, b)
    rows = columns(whole.folder.logs / "train.csv")
    assert all(float(row["coverage"]) > 0.99 for row in rows)
    assert all(0 <= float(row["precision_hidden"]) <= 1 or row["precision_hidden"] == "nan" for row in rows)
    assert any(row["precision_hidden"] != "nan" for row in rows)
    with (whole.folder.root / "label_budget.json").open() as file:
        assert '"labels": 3' in file.read()


@pytest.mark.parametrize(
    ("overrides", "weight", "clips"),
    [
        ({}, 0.0, 0),
        ({"teacher.weight": 0.5}, 0.5, 2),
        ({"teacher": 2}, 2.0, 2),
        ({"data.unlabeled_batch_size": "3"}, 1.0, 3),
        ({"unlabeled": "somewhere"}, 1.0, 2),
        ({"unlabeled": ["a", "b"], "teacher.weight": 0.25}, 0.25, 2),
        ({"unlabeled": ["a"], "teacher.weight": 0}, 0.0, 0),
        ({"teacher.weight": 0, "data.unlabeled_batch_size": 3}, 0.0, 0),
    ],
)
def test_unlabelled_clips_and_teacher_ask_for_each_other(
    overrides: Config, weight: float, clips: int, tmp_path: Path
) -> None:
    resolved = config(tmp_path, tmp_path / "run", **overrides)
    assert resolved["teacher"]["weight"] == weight
    assert resolved["data"]["unlabeled_batch_size"] == clips
    again = resolve(resolved, {})
    assert again == resolved
    more = resolve(resolved, {"unlabeled": ["more"]})
    assert more["teacher"]["weight"] == (weight or 1.0)
    assert list(more["data"]["unlabeled"]) == ["more"]


def test_options_of_the_teacher_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean teacher\.threshold"):
        config(tmp_path, tmp_path / "run", **{"teacher.treshold": 0.5})
    with pytest.raises(InputError, match=r"teacher\.threshold: expected a number in 0\.\.1"):
        config(tmp_path, tmp_path / "run", **{"teacher.weight": 1, "teacher.threshold": 2})
    alone = {"teacher.weight": 1, "teacher.cutmix": 0.5, "data.unlabeled_batch_size": 1}
    with pytest.raises(InputError, match=r"expected two unlabelled clips or more .* came 1; set --data\.unlabeled"):
        config(tmp_path, tmp_path / "run", **alone)
    assert config(tmp_path, tmp_path / "run", **{**alone, "teacher.cutmix": 0})["teacher"]["cutmix"] == 0


def test_outcome_says_that_a_run_is_over(tmp_path: Path) -> None:
    import json

    result = run(tmp_path, 2, data=TinyData())
    assert json.loads(result.folder.outcome.read_text()) == {"steps": 2, "score": None, "best_step": -1}
    with (tmp_path / "logs" / "train.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
