"""`everyframe models`: the models by name, with parameters and cost."""

from __future__ import annotations

import argparse
import inspect
import json

from everyframe.errors import InputError


def main(arguments: list[str]) -> int:
    """Print a table, or JSON, of the named models (default: all)."""
    from everyframe.models.cost import Cost, model_cost
    from everyframe.models.zoo import MODELS, find_parts

    default = {name: p.default for name, p in inspect.signature(model_cost).parameters.items()}
    parser = argparse.ArgumentParser(
        prog="everyframe models", description="List the models with parameters and multiply-accumulates per frame."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to show (default: all); also HEAD-timm:NAME")
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
    names = options.names or list(MODELS)
    for name in names:
        find_parts(name)  # a mistyped name stops before the others are counted
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


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise InputError(f"--size: expected HxW in pixels such as 480x853, came {text!r}")
    return int(height), int(width)
