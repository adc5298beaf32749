"""What `train` says at the start about options that change nothing, and about frames that are scored and trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model
from everyframe.training.recipe import read_recipe, resolve
from everyframe.training.recipe_files import recipes
from everyframe.training.start import start
from everyframe.training.without_effect import without_effect

SPACE = LabelSpace(("a", "b", "c"))


def told(recipe: str, **options: Any) -> str:
    given = {key.replace("__", "."): value for key, value in options.items()}
    config = resolve(read_recipe(recipe), {"data.data": "x", "out": "y", **given})
    return without_effect(config, create_model(label_space=SPACE, **config["model"]))


def test_recipes_as_they_are_say_nothing() -> None:
    tiny = [name for name in recipes() if "tiny" in name]
    assert {name: said for name in tiny if (said := told(name))} == {}


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("ocr-tiny", {"masks__mask": 2.0}, "masks.mask (the model predicts no masks)"),
        ("ocr-tiny", {"masks__class_weights": "inverse-sqrt"}, "masks.class_weights (the model predicts no masks)"),
        ("mask2former-tiny", {"masks__weigh_masks": True}, "masks.weigh_masks (masks.class_weights are not set)"),
        ("ocr-tiny", {"objective__prototypes": 0.5}, "objective.prototypes (the model has no class prototypes)"),
        (
            "ssltm-tiny",
            {"model__temporal__prototypes": 0, "model__temporal__update": "ema"},
            "model.temporal.update (the model has no class prototypes)",
        ),
        ("ocr-tiny", {"objective__scales": 0.05}, "objective.scales (the head has one scale)"),
        (
            "ocr-tiny",
            {"objective__distillation": 2.0, "objective__pair_distillation": 1.0},
            "objective.distillation, objective.pair_distillation (objective.distill_from is not set)",
        ),
        (
            "ocr-tiny",
            {"teacher__threshold": 0.7, "objective__contrastive_warmup": 10},
            "teacher.threshold (teacher.weight is 0); objective.contrastive_warmup (objective.contrastive is 0)",
        ),
        (
            "ocr-tiny",
            {
                "teacher__weight": 1.0,
                "teacher__threshold": 0.0,
                "teacher__class_thresholds": True,
                "data__unlabeled_batch_size": 4,
            },
            "teacher.class_thresholds (teacher.threshold is 0)",
        ),
    ],
)
def test_what_changes_nothing_is_named(recipe: str, options: dict[str, Any], said: str) -> None:
    assert told(recipe, **options) == f"without effect: {said}"


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("mask2former-tiny", {"masks__mask": 2.0}),
        ("ssltm-tiny", {"objective__prototypes": 0.5, "model__temporal__update": "ema"}),
        ("hmsa-ocr-tiny", {"objective__scales": 0.1}),
        ("ocr-tiny", {"teacher__threshold": 0.7, "teacher__weight": 1.0, "data__unlabeled_batch_size": 4}),
    ],
)
def test_what_changes_something_is_not(recipe: str, options: dict[str, Any]) -> None:
    assert told(recipe, **options) == ""


def test_at_the_start_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(SyntheticVideos(2, frames=3, size=(32, 48)), tmp_path / "videos", "vspw", "train")
    data = f"vspw:{tmp_path / 'videos'}"
    options = {
        "data.data": data, "data.val_split": "train", "data.crop": 24, "data.batch_size": 2, "data.workers": 0,
        "data.budget": 1, "steps": 1, "out": str(tmp_path / "run"), "teacher.threshold": 0.5,
        "trainer.enable_progress_bar": False,
    }  # fmt: skip
    start(resolve(read_recipe("fcn-tiny"), options))
    said = capsys.readouterr().err
    assert "without effect: teacher.threshold (teacher.weight is 0)" in said
    assert "2 of the 6 label maps that validation scores are trained on as well" in said
    with pytest.raises(InputError, match=r"clips of two frames or more, came data\.queries 1 .* add --data\.queries 2"):
        start(resolve(read_recipe("fcn-tiny"), {**options, "out": str(tmp_path / "b"), "objective.contrastive": 0.1}))
    assert not (tmp_path / "b").exists()
