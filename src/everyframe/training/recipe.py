"""Recipes: what differs from the defaults of the constructors, as YAML.

The signatures of `train`, `create_model`, `ClipDataModule`, `Optimization`, `video_objective`, `MaskOptions`,
`Teaching` and Lightning's `Trainer` are the schema; a recipe adds none of its own. Every key is checked before anything
is built.
"""

from __future__ import annotations

import difflib
import os
import re
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.focus import expand_focus
from everyframe.errors import InputError
from everyframe.losses.class_weights import Formula
from everyframe.models.zoo import create_model
from everyframe.semi.pseudo import Teaching
from everyframe.training.objectives_mask import MaskOptions
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.optim import Optimization
from everyframe.training.presets import PRESET_HELP, Preset, with_preset
from everyframe.training.recipe_files import recipes
from everyframe.training.run import TRAINER_OWNED, RunFolder, check_lengths, train

Config = dict[str, Any]
"""Nested options: {"steps": 1000, "model": {"name": ...}, "data": {...}, ...}."""

INIT_HELP = "saved model (folder or hub id) to start from: weights of equal names, class layers by names of classes"

SECTIONS = ("model", "data", "optimizer", "objective", "masks", "teacher", "trainer")

ELSEWHERE = {
    "device": "--trainer.accelerator gpu (or cpu)",
    "devices": "--trainer.devices N",
    "dtype": "--trainer.precision bf16-mixed (or 32-true)",
    "precision": "--trainer.precision bf16-mixed (or 32-true)",
    "epochs": "--steps N",
}
"""What other verbs and programs call something that has another name here."""

CHOSEN_BY_MODEL = ("adjacent", "reference")
"""Options of the data that follow the temporal module unless given: frames it does not look at would cost time."""

ClassWeights = Formula | list[float] | None
"""What a recipe may say where a loss takes a list of weights."""

CLASS_WEIGHTS_HELP = """Factor per class in the cross entropies, or the formula that works it out from the labels."""

FREE = ("model.backbone", "model.head", "model.temporal", "objective.terms")
"""Options that hold others, whose names the schema does not know."""

LISTS = ("data.unlabeled", "data.also", "data.focus")
"""Options that take several values, for which one text is one value."""

SHORT = {"data": "data.data", "model": "model.name", "unlabeled": "data.unlabeled", "teacher": "teacher.weight"}
"""What a text in the place of a section means: `data: folder:my_videos`, `--model ocr-tiny`, `--unlabeled DIR`."""


def read_recipe(name: str | Path) -> Config:
    """Read a recipe.

    Args:
        name: a name of `recipes()`, a YAML file, or the folder of a run, whose configuration is read (and whose `out`
            is that folder, wherever it lies now).

    Raises:
        InputError: no such recipe, or no YAML of options.
    """
    path = recipes().get(str(name)) or Path(name)
    if path.is_dir() and RunFolder(path).last.exists() and not RunFolder(path).config.exists():
        raise InputError(
            f"{path}: expected a run of `everyframe train`, which has a {RunFolder(path).config.name}, came one that "
            f"everyframe.training.run.train made; go on there with train(..., resume='auto')"
        )
    if path.is_dir():
        return {**read_recipe(RunFolder(path).config), "out": str(path)}
    if not path.is_file():
        near = difflib.get_close_matches(str(name), recipes(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"no recipe {str(name)!r}: {hint}`everyframe train --list` lists them; or give a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected YAML, came {reason}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected options such as `steps: 1000`, came {type(content).__name__}")
    return content


def resolve(recipe: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, source: str = "recipe") -> Config:
    """Check a recipe and overrides against the schema, and fill in the defaults.

    Args:
        recipe: nested options.
        overrides: dotted options, {"data.batch_size": 4}; texts are read as on the command line.
        source: how messages name the recipe.

    Returns:
        All options, plain values that YAML can hold.

    Raises:
        InputError: an option that does not exist, of the wrong type, or missing.
    """
    given = with_preset(dict(dotted(recipe)), f"{source}: 'preset'")
    for key in given:
        _check_key(key, f"{source}: {key!r}")
    changes = with_preset({SHORT.get(name, name): value for name, value in (overrides or {}).items()}, "--preset")
    for key, value in changes.items():
        _check_key(key, f"--{key}")
        given = {k: v for k, v in given.items() if not k.startswith(f"{key}.")}  # replaced as a whole
        given[key] = value
    for key in LISTS:
        if isinstance(given.get(key), str) and not given[key].startswith("["):
            given[key] = [given[key]]
    _choose_teacher(given, changes)
    given.setdefault("data.seed", given.get("seed", 0))
    given.setdefault("data.workers", min(4, os.cpu_count() or 1))
    missing = [key for key in ("model.name", "data.data", "out") if given.get(key) is None]
    if missing:
        hints = {"data.data": "--data LAYOUT:ROOT", "out": "--out FOLDER", "model.name": "--model.name NAME"}
        raise InputError(f"{source}: these options are needed: {', '.join(hints[key] for key in missing)}")
    try:
        config = schema().parse_object(_nested(given)).as_dict()
    except (ArgumentError, ValueError, TypeError) as error:
        raise InputError(f"{source}: {_one_line(error)}") from None
    del config["preset"]  # its options stand there now
    config["data"]["focus"] = expand_focus(config["data"]["focus"])  # a report may be another one when the run goes on
    check_lengths(config["steps"], config["validate_every"], config["save_every"])
    if not Teaching(**config["teacher"]).weight:
        config["data"]["unlabeled_batch_size"] = 0  # nobody would look at these clips
    elif not config["data"]["unlabeled_batch_size"]:
        config["data"]["unlabeled_batch_size"] = config["data"]["batch_size"]
    if config["data"]["unlabeled_batch_size"] == 1 and config["teacher"]["cutmix"]:
        raise InputError(
            f"{source}: teacher.cutmix pastes a box of another clip: expected two unlabelled clips or more per step "
            "and process, came 1; set --data.unlabeled_batch_size 2, or --teacher.cutmix 0"
        )
    for key in CHOSEN_BY_MODEL:
        if f"data.{key}" not in given:
            del config["data"][key]
    return config


@cache
def schema() -> ArgumentParser:
    """Return the parser of all options."""
    parser = ArgumentParser(exit_on_error=False)
    skip: set[str | int] = {"model", "data", "objective", "optimization", "teacher", "trainer", "resume"}
    parser.add_function_arguments(train, skip=skip, fail_untyped=False)
    parser.add_argument("--init", type=str | None, default=None, help=INIT_HELP)
    parser.add_argument("--preset", type=Preset | None, default=None, help=PRESET_HELP)
    parser.add_function_arguments(create_model, "model", skip={"label_space"}, fail_untyped=False)
    parser.add_class_arguments(ClipDataModule, "data")
    parser.add_class_arguments(Optimization, "optimizer")
    parser.add_function_arguments(video_objective, "objective", skip={"model", "masks", "class_weights"})
    parser.add_class_arguments(MaskOptions, "masks", skip={"class_weights"})
    for section in ("objective", "masks"):
        parser.add_argument(f"--{section}.class_weights", type=ClassWeights, default=None, help=CLASS_WEIGHTS_HELP)
    parser.add_class_arguments(Teaching, "teacher")
    parser.add_class_arguments(Trainer, "trainer", skip=set(TRAINER_OWNED), fail_untyped=False)
    return parser


@cache
def keys() -> tuple[str, ...]:
    """Return the dotted names of all options."""
    return tuple(defaults())


@cache
def defaults() -> Mapping[str, Any]:
    """Return the defaults of all options, see `flat`."""
    return flat(schema().get_defaults().as_dict())


def flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by their dotted names, with values as YAML gives them back, so that two can be compared."""
    return dict(dotted(yaml.safe_load(dump(options))))


def _choose_teacher(given: Config, changes: Config) -> None:
    """Give the teacher its weight where unlabelled clips are asked for and nobody said that there shall be none."""

    def asks(options: Config) -> bool:
        return any(_value(options.get(key)) for key in ("data.unlabeled", "data.unlabeled_batch_size"))

    weight = _value(given.get("teacher.weight"))
    if not weight and "teacher.weight" not in changes and (asks(changes) or (weight is None and asks(given))):
        given["teacher.weight"] = 1.0


# -- keys and values -------------------------------------------------------------------------------------------------


def _check_key(key: str, named: str) -> None:
    if key in keys() or any(key.startswith(f"{free}.") for free in FREE):
        return
    last = key.rpartition(".")[2]
    near = [k for k in keys() if k.rpartition(".")[2] == last]
    near += [k for k in difflib.get_close_matches(key, keys(), n=3, cutoff=0.6) if k not in near]
    if key in ELSEWHERE:
        near = [ELSEWHERE[key]]
    hint = f"did you mean {' or '.join(near)}?" if near else "`everyframe train --help` lists all options"
    raise InputError(f"{named} is no option; {hint}")


def dotted(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as dotted ones. Sections are opened, mappings inside them (model.head) too unless empty."""
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{key}.")
        elif prefix or key not in SECTIONS:
            yield f"{prefix}{key}", value
        elif isinstance(value, str):
            yield SHORT.get(key, key), value


def _nested(given: Mapping[str, Any]) -> Config:
    options: Config = {}
    for key, value in given.items():
        *parents, last = key.split(".")
        place = options
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = _value(value)
    return options


def _value(value: Any) -> Any:
    """Read a text of the command line as YAML would; 1e-4, which YAML 1.1 takes for a text, as a number."""
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"[+-]?\d+(\.\d*)?e[+-]?\d+", value, re.IGNORECASE):
        return float(value)
    try:
        return yaml.safe_load(value) if value else value
    except yaml.YAMLError:
        return value


def _one_line(error: Exception) -> str:
    """Shorten jsonargparse's report on one option."""
    text = " ".join(str(error).split())
    union = re.search(
        r'Parser key "([^"]+)": .*? Subtypes: \[(.+)\] Errors: (.+) Given value type: .*?value: (.+)', text
    )
    if union is not None:
        key, kinds, errors, value = union.groups()
        kinds = re.sub(r"<class '(?:\w+\.)*(\w+)'>|typing\.(?=Literal)", lambda m: m[1] or "", kinds)
        inside = re.search(r"Option '\w+' is not accepted|the following arguments are required: [\w, ]+\w", errors)
        pair = "; write two numbers as '[96, 128]'" if "tuple" in kinds and re.fullmatch(r"\d+[ ,x]+\d+", value) else ""
        return f"{key}: expected one of {kinds}, came {value}{f' ({inside[0]})' if inside else ''}{pair}"
    found = re.search(r'Parser key "([^"]+)": .*?Expected an? (.+?)\. Got value: (.*)', text)
    if found is None:
        return text
    key, kind, value = found.groups()
    kind = re.sub(r"<class '(\w+)'>|typing\.(\w+)", lambda m: m[1] or m[2], kind)
    choices = re.fullmatch(r"Literal\[(.*)\]", kind)
    return f"{key}: expected {f'one of {choices[1]}' if choices else kind}, came {value}"


def dump(config: Mapping[str, Any]) -> str:
    """Return options as YAML."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
