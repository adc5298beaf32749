"""`everyframe models`: the models by name, with parameters and cost."""

from __future__ import annotations

import fnmatch
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from everyframe.cli.parser import Parser
from everyframe.errors import InputError


class Listed(NamedTuple):
    """One line of the list.

    Attributes:
        name: of the model.
        recipe: whose options of the model these are; None: none are needed, the name says all.
        options: of `create_model`.
    """

    name: str
    recipe: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})


def main(arguments: list[str]) -> int:
    """Print a table, or JSON, of the named models (default: those that come with a recipe)."""
    from everyframe.models.cost import model_cost
    from everyframe.models.zoo import MODELS

    default = {name: p.default for name, p in inspect.signature(model_cost).parameters.items()}
    parser = Parser(
        prog="everyframe models", description="List the models with parameters and multiply-accumulates per frame."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="models to show: names, patterns such as 'uper-*', SYSTEM-timm:NAME (default: those that have a recipe). "
        "A recipe with options of its own for the model has a line of its own",
    )  # fmt: skip
    parser.add_argument("--names", action="store_true", dest="only_names", help="print all names and count nothing")
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    parser.add_argument(
        "--classes", type=int, default=default["classes"], metavar="K", help="number of classes (default: %(default)s)"
    )
    height, width = default["size"]
    parser.add_argument(
        "--size", default=f"{height}x{width}", metavar="HxW", help="frame size for the cost (default: %(default)s)"
    )
    parser.add_argument(
        "--check", action="store_true",
        help="build each NAME with fresh weights and say which promises of a model it keeps (everyframe.testing); the "
        "exit status is 1 if it breaks one",
    )  # fmt: skip
    options = parser.parse_args(arguments)

    size = _size(options.size)
    if not 1 <= options.classes <= 255:
        raise InputError(f"--classes: expected 1 to 255, came {options.classes}")
    if options.only_names:
        print("\n".join(_named(options.names) if options.names else MODELS))
        return 0
    if options.check:
        return _check(_named(options.names), options.classes)
    listed = _asked_for(_named(options.names)) if options.names else _with_recipe()
    if options.json:
        costs = ((line, model_cost(line.name, options.classes, size, line.options)) for line in listed)
        print(json.dumps([{**cost.to_dict(), "recipe": line.recipe} for line, cost in costs], indent=1))
        return 0
    print(f"{'model':34s} {'params':>10s} {'GMACs':>8s}   ({options.classes} classes, {size[0]}x{size[1]} frame)")
    for line in listed:
        cost = model_cost(line.name, options.classes, size, line.options)
        as_in = f"   recipe {line.recipe}" if line.recipe else ""
        print(f"{line.name:34s} {cost.params / 1e6:8.2f} M {cost.macs / 1e9:8.2f}{as_in}", flush=True)
    return 0


def _check(names: Sequence[str], classes: int) -> int:
    """Print what each model keeps of what is promised of all; returns 1 if one is broken."""
    import torch

    from everyframe.labels import LabelSpace
    from everyframe.models.zoo import create_model
    from everyframe.testing import check_model, settle

    if not names:
        raise InputError("--check: expected names of models, came none; add one, such as ssltm-tiny")
    space, broken = LabelSpace(tuple(f"class {k}" for k in range(classes))), False
    for name in names:
        torch.manual_seed(0)
        print(name, flush=True)
        for found in check_model(settle(create_model(name, space))):
            print(f"  {found}")
            broken |= not found.holds
    return int(broken)


def _named(words: Sequence[str]) -> list[str]:
    """Return the names that words and patterns stand for; a mistyped one stops before any is counted."""
    from everyframe.models.zoo import MODELS, find_parts

    names: dict[str, None] = {}
    for word in words:
        fitting = fnmatch.filter(MODELS, word)
        if not fitting:
            find_parts(word)
        names |= dict.fromkeys(fitting or [word])
    return list(names)


def _with_recipe() -> list[Listed]:
    """Return what the recipes train, by name; those that train the same model share a line."""
    from everyframe.training.recipe import read_recipe
    from everyframe.training.recipe_files import recipes

    lines: list[Listed] = []
    for recipe in recipes():
        given = read_recipe(recipe)["model"]
        options = {key: value for key, value in given.items() if key not in ("name", "pretrained")}
        if all((given["name"], options) != (line.name, line.options) for line in lines):
            lines.append(Listed(given["name"], recipe if options else None, options))
    return sorted(lines, key=lambda line: (line.name, line.recipe or ""))


def _asked_for(names: Iterable[str]) -> list[Listed]:
    """Return the named models as `create_model` builds them, each before those of recipes that say more of it."""
    of_recipes = [line for line in _with_recipe() if line.recipe]
    return [line for name in names for line in (Listed(name), *(more for more in of_recipes if more.name == name))]


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InputError(f"--size: expected HxW in pixels such as 480x853, came {text!r}")
    return int(height), int(width)
