"""Every recipe builds and trains: two steps on synthetic videos, with a tiny backbone in place of a large one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.models.checkpoint import load
from everyframe.models.zoo import BACKBONES, find_parts
from everyframe.training.recipe import Config, read_recipe, resolve
from everyframe.training.recipe_files import recipes
from everyframe.training.start import start
from everyframe.training.supervised import Supervised

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "videos"
    for split, count in (("train", 2), ("val", 1)):
        write(SyntheticVideos(count, frames=4, size=(48, 64)), root, "vspw", split)
    return root


def small(backbone: str) -> str:
    """Return the smallest backbone of the same family, which knows the same options."""
    family = re.split("v2|-", backbone)[0]
    return next((name for name in BACKBONES if re.fullmatch(rf"{family}-(.+-)?micro", name)), "tiny")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Parameters that had no gradient in some step of a run, the objective's too."""
    found: set[str] = set()

    def look(module: Supervised, *_: object) -> None:
        found.update(name for name, p in module.named_parameters() if p.requires_grad and p.grad is None)

    monkeypatch.setattr(Supervised, "on_before_optimizer_step", look)
    return found


def small_run(name: str, videos: Path, out: Path, **more: object) -> Config:
    """Return a recipe on a small backbone and the videos: two steps on a CPU."""
    recipe = read_recipe(name)
    parts = find_parts(recipe["model"]["name"])
    overrides = {
        "model.name": parts._replace(backbone=small(parts.backbone)).name,
        "model.pretrained": False,
        "data.data": f"vspw:{videos}",
        "data.crop": 32,
        "data.base": None,
        "masks.points": 256,
        "data.batch_size": 2,
        "data.workers": 0,
        "steps": 2,
        "validate_every": 2,
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "out": str(out),
        **more,
    }
    if "width" in recipe["model"].get("head", {}):
        overrides["model.head.width"] = 32  # a published head of 512 channels takes most of the time
    return resolve(recipe, overrides, name)


@pytest.mark.parametrize("name", recipes())
def test_recipe_trains(name: str, videos: Path, tmp_path: Path, untrained: set[str]) -> None:
    """Two steps, in which every parameter has a gradient: distributed training would stop at one that has none."""
    run = start(small_run(name, videos, tmp_path / "run"))
    assert run.steps == 2
    assert untrained == set()
    assert run.score is not None
    for file in (run.folder.config, run.folder.last, run.folder.model / "model.safetensors"):
        assert file.is_file()
    assert (run.folder.root / "label_budget.json").is_file()
    asked = load(run.folder.model).temporal  # training shows a model the frames that it looks at
    sampled = yaml.safe_load(run.folder.config.read_text())["data"]
    assert sampled["adjacent"] == list(asked.adjacent)
    assert sampled["reference"] == ("far_end" if asked.reference else None)
    assert asked.reference == ("ssltm" in name)


def test_fresh_class_layers_under_the_published_layer_decay_are_told_of(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the start of a run from nothing alone: not where it goes on, nor from a trained head, nor corrected."""
    name, out = "vspw2023-contrastive", tmp_path / "a"
    line = "cls_embed, mask_embed, level_embed, query_embed, query_feat start fresh, and the published layer decay"
    told = []
    for number, (more, resume) in enumerate(
        (({}, None), ({}, "auto"), ({"init": str(out)}, None), ({"optimizer.layer_decay_form": "corrected"}, None))
    ):
        folder = out if number < 2 else tmp_path / str(number)
        start(small_run(name, videos, folder, steps=1, validate_every=1, **more), resume)
        told.append([text for text in capsys.readouterr().err.splitlines() if "start fresh" in text])
    assert [len(lines) for lines in told] == [1, 0, 0, 0]
    assert told[0][0].startswith(line)
    # 4 blocks in this backbone: 0.9^5 of 2e-5
    assert "at 0.59 times the rate (1.2e-05)" in told[0][0]
    assert told[0][0].endswith("--init MODEL, or add --optimizer.layer_decay_form corrected")


NEEDED = {"data.data": "d", "out": "o"}


def weights(recipe: str | Config, **options: object) -> tuple[float, ...]:
    """Weights of classes, masks, Dice and the contrastive loss of a recipe with options."""
    config = resolve(read_recipe(recipe) if isinstance(recipe, str) else recipe, {**NEEDED, **options})
    assert "preset" not in config
    return (*(config["masks"][part] for part in ("classification", "mask", "dice")), config["objective"]["contrastive"])


def test_preset_vspw2023_is_the_papers_weights() -> None:
    assert weights("mask2former-swin-small") == (2.0, 5.0, 5.0, 0.0)
    assert weights("mask2former-swin-small", preset="vspw2023") == (2.0, 1.0, 5.0, 0.1)
    assert weights("vspw2023-contrastive") == weights("vspw2023-contrastive-tiny") == (2.0, 1.0, 5.0, 0.1)
    assert weights("vspw2023-multi-dataset") == (2.0, 1.0, 5.0, 0.0)


def test_what_is_said_wins_over_a_preset_and_a_preset_of_the_command_over_the_recipe() -> None:
    assert weights("mask2former-swin-small", **{"preset": "vspw2023", "masks.mask": "3"}) == (2.0, 3.0, 5.0, 0.1)
    recipe = {"model": {"name": "mask2former-tiny"}, "masks": {"mask": 4.0, "dice": 7.0}}
    assert weights({**recipe, "preset": "vspw2023"}) == (2.0, 4.0, 7.0, 0.1)
    assert weights(recipe, preset="vspw2023") == (2.0, 1.0, 5.0, 0.1)
    assert weights({**recipe, "preset": "vspw2023"}, **{"masks.mask": 3.0}) == (2.0, 3.0, 7.0, 0.1)
    with pytest.raises(InputError, match=r"^--preset: expected a preset of vspw2023, came 'vspw'$"):
        weights(recipe, preset="vspw")
    with pytest.raises(InputError, match=r"^recipe: 'preset': expected a preset of vspw2023, came 'x'$"):
        weights({**recipe, "preset": "x"})


def test_published_mask_recipes_count_ignored_pixels_against_every_mask() -> None:
    published = {name for name in recipes() if name.startswith("vspw2023")} | {"mask2former-beitv2-adapter-large"}
    of_masks = {name for name in recipes() if read_recipe(name)["model"]["name"].startswith("mask2former")}
    kept = {name for name in of_masks if not resolve(read_recipe(name), NEEDED)["masks"]["respect_ignore"]}
    assert kept == published


@pytest.mark.parametrize("name", recipes())
def test_recipe_is_short_and_states_only_what_differs(name: str) -> None:
    text = recipes()[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    assert text.startswith("# ")
    needed = {"out": "x", "data.data": "x"}
    given = yaml.safe_load(text)
    for section, options in given.items():
        for key, value in options.items() if isinstance(options, dict) else [(None, options)]:
            if key == "name" and section == "model":
                continue
            less = {k: dict(v) if isinstance(v, dict) else v for k, v in given.items()}
            if key is None:
                del less[section]
            else:
                del less[section][key]
            assert resolve(less, needed) != resolve(given, needed), f"{section}.{key}: {value} is the default"
