"""The VSPW 2023 winner's experiments at full scale stand on its recipes, and every command of theirs can be typed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from everyframe.cli import bench_stream, ensemble
from everyframe.cli.evaluate import _parser
from everyframe.cli.train import split_options
from everyframe.evaluate import evaluate
from everyframe.inference.member_text import read_member
from everyframe.inference.views import with_views
from everyframe.labels import LabelSpace
from everyframe.models.cost import count_parameters
from everyframe.models.zoo import create_model
from everyframe.reproduce.experiment import Row
from everyframe.reproduce.grid import find
from everyframe.reproduce.plan import Setting, overrides_of, plan
from everyframe.reproduce.steps import Step, as_member, look_words
from everyframe.reproduce.vspw2023_full import NOT_TRAINED
from everyframe.reproduce.vspw2023_grids import VSPW2023_EXPERIMENTS
from everyframe.training.recipe import Config, read_recipe, resolve
from everyframe.training.recipe_files import recipes

PAPER = ("backbones", "multi-dataset", "crop-size", "ensemble", "contrastive", "dropout")
ALSO = {"data.also": '[{"data": "coco_stuff:/coco", "mapping": "names"}]'}
NEEDED = {"data.data": "d", "out": "o"}


def full(name: str) -> Setting:
    return Setting(name, "vspw:/videos", Path("out"), "full", seeds=1, extra=ALSO)


@cache
def config_of(recipe: str, *overrides: tuple[str, object]) -> Config:
    return resolve(read_recipe(recipe), {**dict(overrides), **NEEDED})


def trained(name: str) -> list[Row]:
    return [row for row in full(name).rows if not row.members]


def test_every_recipe_of_the_family_is_trained_or_has_a_reason() -> None:
    family = {name for name in recipes() if name.startswith("vspw2023")}
    used = {row.recipe for name in VSPW2023_EXPERIMENTS for row in trained(name)}
    assert used.isdisjoint(NOT_TRAINED)
    assert family == (used & family) | set(NOT_TRAINED)


@pytest.mark.parametrize("name", PAPER)
def test_heads_of_masks_train_by_the_papers_recipes_and_losses(name: str) -> None:
    """The weights are those of the recipes; a row changes the contrastive one alone, which is what it compares."""
    masks = [row for row in trained(name) if not row.recipe.startswith("uper")]
    assert masks
    for row in masks:
        assert row.recipe.startswith("vspw2023")
        recipe, mine = config_of(row.recipe), config_of(row.recipe, *row.overrides.items())
        assert mine["masks"] == recipe["masks"]
        assert mine["optimizer"] == recipe["optimizer"]
        changed = {key for key, value in mine["objective"].items() if value != recipe["objective"][key]}
        assert changed <= {"contrastive"}
        assert mine["objective"]["contrastive"] in (0.0, loss_of_the_paper())
        assert row.look["window"] == mine["data"]["crop"]


@pytest.mark.parametrize("name", PAPER)
def test_fresh_heads_train_at_their_full_rate_and_trained_ones_as_published(name: str) -> None:
    for extra, form in ((ALSO, "corrected"), ({**ALSO, "init": "m"}, "published")):
        setting = replace(full(name), extra=extra)
        for row in trained(name):
            optimizer = config_of(row.recipe, *overrides_of(setting, row).items())["optimizer"]
            expected = form if row.recipe.startswith("vspw2023") else "corrected"
            assert (row.label, optimizer["layer_decay_form"]) == (row.label, expected)


def loss_of_the_paper() -> float:
    return float(read_recipe("vspw2023-contrastive")["objective"]["contrastive"])


def test_the_family_has_one_set_of_weights_which_is_not_the_default() -> None:
    family = [config_of(name) for name in recipes() if name.startswith("vspw2023")]
    published = config_of("mask2former-beitv2-adapter-large")
    weights = [[config["masks"][part] for part in ("classification", "mask", "dice")] for config in family]
    assert all(row == weights[0] for row in weights)
    assert weights[0] != [published["masks"][part] for part in ("classification", "mask", "dice")]


@pytest.mark.parametrize("name", VSPW2023_EXPERIMENTS)
def test_every_command_can_be_typed(name: str) -> None:
    for cell in plan(full(name)):
        for step in cell.steps:
            parse(step)


def parse(step: Step) -> None:
    """Read a command as its verb does; the parsers exit on what they do not know."""
    verb, *words = step.words
    if verb == "train":
        recipe, options = split_options(words)
        options.pop("resume")
        seeds = options.pop("seed"), options.pop("data.seed")
        assert seeds == ("0", "0")
        _typed(recipe, **{key: value for key, value in options.items() if key not in ("data", "out")})
    elif verb == "evaluate":
        _parser(evaluate).parse_args(words)
    elif verb == "ensemble":
        options = ensemble.parser().parse_args(words)
        for member in options.members:
            assert read_member(member)[0].endswith("/run/model")
    elif verb == "bench":
        bench_stream.parser().parse_args(words[1:])
    else:
        assert (verb, words[0]) == ("data", "check")


@cache
def _typed(recipe: str, **options: str) -> None:
    resolve(read_recipe(recipe), {**options, **NEEDED}, recipe)


OF_UPERNET = {"UperNet, FocalNet-B": 125.7, "UperNet, Swin-L": 233.8, "UperNet, InternImage-XL": 367.7}
"""Row -> millions of parameters of the published model, of 150 classes."""


@pytest.mark.parametrize("label", OF_UPERNET)
def test_backbones_train_under_the_head_that_they_were_published_with(label: str) -> None:
    row = next(row for row in trained("backbones") if row.label == label)
    config = config_of(row.recipe, *row.overrides.items())
    given = {key: value for key, value in config["model"].items() if key in ("name", "backbone", "head")}
    with torch.device("meta"):
        model = create_model(**given, label_space=LabelSpace(tuple(map(str, range(150)))))
    assert round(count_parameters(model) / 1e6, 1) == OF_UPERNET[label]
    assert config["optimizer"]["head_lr_factor"] == 1.0
    assert config["data"]["crop"] == config["data"]["base"] == (640 if "Intern" in label else 512)
    assert config["data"]["budget"] == "all"


def options_by_model() -> dict[str, Config]:
    """Model -> all options that rows give it, together: an option that its parts do not have would stop it."""
    found: dict[str, Config] = {}
    for row in (row for name in PAPER for row in trained(name)):
        options = config_of(row.recipe, *row.overrides.items())["model"]
        mine = found.setdefault(options["name"], {"backbone": {}, "head": {}})
        for part in mine:
            mine[part] |= options[part] or {}
    return found


@pytest.mark.parametrize(("name", "options"), options_by_model().items())
def test_every_model_can_be_built(name: str, options: Config) -> None:
    with torch.device("meta"):
        model = create_model(name, LabelSpace(("a", "b")), **options)
    assert sum(weight.numel() for weight in model.parameters()) > 80e6


@pytest.mark.parametrize("name", PAPER)
def test_speed_is_that_of_frames_looked_at_as_for_the_scores(name: str) -> None:
    for cell in plan(full(name)):
        steps = {step.name: step for step in cell.steps}
        if "cost" in steps:
            options = bench_stream.parser().parse_args(steps["cost"].words[2:])
            scored = _parser(evaluate).parse_args(steps["evaluate"].words[1:])
            for part in ("short", "window", "stride"):
                assert getattr(options, part) == getattr(scored, part, None) == cell.row.look.get(part)


def test_models_are_looked_at_alike_alone_and_joined() -> None:
    look = {"short": 896, "window": (896, 640), "stride": 512}
    assert look_words(look) == ("--short", "896", "--window", "896", "640", "--stride", "512")
    assert as_member(Path("m"), look) == "m@short=896,window=896x640,stride=512"
    assert read_member(as_member(Path("m"), look)) == ("m", look)
    assert as_member(Path("m"), {}) == "m"
    options = _parser(evaluate).parse_args(["--model", "m", "--data", "d", *look_words(look)])
    assert {name: getattr(options, name) for name in look} == look
    cells = {cell.row.label: cell for cell in plan(full("ensemble"))}
    members = cells["soft sum of 2"].steps[0].words[2:4]
    for label, member in zip(cells["soft sum of 2"].row.members, members, strict=True):
        where, views = read_member(member)
        words = cells[label].steps[1].words
        assert where == words[words.index("--model") + 1]
        assert views == dict(cells[label].row.look)
        assert look_words(views) == words[-6:]
    assert {read_member(member)[1]["short"] for member in members} == {480, 896}  # other sizes in one ensemble
    frame = torch.zeros(1, 3, 48, 85, dtype=torch.uint8)
    small = {name: value // 10 for name, value in cells["many data sets"].row.look.items()}
    boxes: list[tuple[int, ...]] = []

    class Seen:
        label_space = LabelSpace(("a", "b"))

        def step(self, frame: torch.Tensor, state: object = None) -> tuple[torch.Tensor, object]:
            boxes.append(tuple(frame.shape[-2:]))
            return frame[:, :2].float(), state

    with_views(Seen(), **small).step(frame)  # type: ignore[arg-type]
    assert set(boxes) == {(89, 89)}


def test_only_rows_of_many_data_sets_need_and_take_them() -> None:
    for name, labels in (
        ("ensemble", {"many data sets"}),
        ("multi-dataset", {"one label, joined", "all labels, joined"}),
    ):
        assert {row.label for row in trained(name) if row.needs} == labels
        cells = {cell.row.label: cell for cell in plan(full(name))}
        assert {row.label for row in trained(name) if "--data.also" in cells[row.label].steps[0].words} == labels


def test_rows_that_are_one_model_are_one_cell() -> None:
    """The plain model of 480 crops and NCE2 are trained once and taken over by `--reuse`."""

    def command(name: str, label: str) -> list[str]:
        bare = Setting(name, "vspw:/videos", Path("out"), "full", seeds=1)
        words = next(cell for cell in plan(bare) if cell.row.label == label).steps[0].words
        return [word for word in words if not word.startswith("out/")]

    assert command("contrastive", "1 frame") == command("ensemble", "1 frame")
    assert command("contrastive", "1 frame") == command("backbones", "Mask2Former, BEiTv2-L adapter")
    assert command("contrastive", "2 frames, NCE2") == command("ensemble", "contrastive, 2 frames")
    assert find("contrastive").title.startswith("the spatial-temporal contrastive loss")
