"""`everyframe models`: the models by name, with parameters and cost."""

from __future__ import annotations

import fnmatch
import inspect
import json
from collections.abc import Sequence

from everyframe.cli.parser import Parser
from everyframe.errors import InputError


def main(arguments: list[str]) -> int:
    """Print a table, or JSON, of the named models (default: those that come with a recipe)."""
    from everyframe.models.cost import Cost, model_cost
    from everyframe.models.zoo import MODELS

    default = {name: p.default for name, p in inspect.signature(model_cost).parameters.items()}
    parser = Parser(
        prog="everyframe models", description="List the models with parameters and multiply-accumulates per frame."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME",
        help="models to show: names, patterns such as 'uper-*', SYSTEM-timm:NAME (default: those that have a recipe)",
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
    options = parser.parse_args(arguments)

    size = _size(options.size)
    if not 1 <= options.classes <= 255:
        raise InputError(f"--classes: expected 1 to 255, came {options.classes}")
    if options.only_names:
        print("\n".join(_named(options.names) if options.names else MODELS))
        return 0
    names = _named(options.names) if options.names else _with_recipe()
    costs: list[Cost] = []
    if not options.json:
        print(f"{'model':34s} {'params':>10s} {'GMACs':>8s}   ({options.classes} classes, {size[0]}x{size[1]} frame)")
    for name in names:
        cost = model_cost(name, options.classes, size)
        costs.append(cost)
        if not options.json:
            print(f"{name:34s} {cost.params / 1e6:8.2f} M {cost.macs / 1e9:8.2f}", flush=True)
    if options.json:
        print(json.dumps([cost.to_dict() for cost in costs], indent=1))
    return 0


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


def _with_recipe() -> list[str]:
    from everyframe.training.recipe import read_recipe, recipes

    return sorted({read_recipe(name)["model"]["name"] for name in recipes()})


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InputError(f"--size: expected HxW in pixels such as 480x853, came {text!r}")
    return int(height), int(width)
