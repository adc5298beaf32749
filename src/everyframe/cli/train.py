"""`everyframe train RECIPE [--option value ...]`: recipe and overrides -> one call of `training.start.start`."""

from __future__ import annotations

import shlex
import signal
import sys
from typing import Any

from everyframe.errors import InputError

USAGE = """usage: everyframe train RECIPE [--option value ...]

  RECIPE             a name of `everyframe train --list`, a YAML file, or the folder of an earlier run
  --data SPEC        LAYOUT:ROOT, for example vspw:/data/VSPW_480p; a bare path is a folder of your own videos
  --out FOLDER       where the run writes: model/, checkpoints/, logs/, config.yaml
  --unlabeled DIR... more videos, without labels: a teacher labels them for training (Mean Teacher, --teacher.weight 1)
  --init MODEL       start from the weights of another model (folder, hub id); class layers by the names of classes
  --resume [FILE]    go on from the last checkpoint of --out if there is one (or from FILE); `--resume auto` is the same
  --SECTION.KEY X    any option: --data.batch_size 4, --optimizer.lr 1e-4, --trainer.devices 2 --trainer.strategy ddp
  --list             list the recipes
  --print-config     print all options as they would be used, and stop
  --help             this text and all options

example: everyframe train ocr-tiny --data folder:my_videos --out runs/a
"""

SEVERAL = ("unlabeled", "data.unlabeled", "data.also")
"""Options that take every value that follows."""


def main(arguments: list[str]) -> int:
    """Run the command; returns 0, also when SIGTERM stopped the run in good order, and 130 after Ctrl-C."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_help() if arguments else USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--list":
        print(_list())
        return 0
    recipe, options = split_options(arguments)
    from everyframe.training.recipe import dump, read_recipe, resolve

    resume = options.pop("resume", None)
    printed = options.pop("print-config", None) is not None
    config = resolve(read_recipe(recipe), options, recipe)
    if printed:
        print(dump(config), end="")
        return 0
    return _train(config, resume)


def _train(config: dict[str, Any], resume: str | None) -> int:
    from everyframe.training.last_checkpoint import Interrupted
    from everyframe.training.run import is_first_process
    from everyframe.training.start import start

    try:
        run = start(config, resume)
    except Interrupted as stopped:
        if is_first_process():
            again = f"everyframe train {shlex.quote(str(config['out']))} --resume auto"
            print(f"{stopped}; to go on: {again}", file=sys.stderr)
        return 0 if stopped.signal is signal.SIGTERM else 130
    if is_first_process():
        score = "" if run.score is None else f", mIoU {100 * run.score:.2f} % (classes in the ground truth)"
        print(f"{run.folder.model}: the model of step {run.best_step if score else run.steps}{score}")
    return 0


def split_options(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Split RECIPE --key value --key=value ... into the recipe and the options; --unlabeled takes several values.

    The recipe may stand behind options, where it is no value of theirs.
    """
    rest, recipe, took = list(arguments), None, ""
    options: dict[str, Any] = {}
    while rest:
        word = rest.pop(0)
        if recipe is None and not word.startswith("-"):
            recipe = word
            continue
        if not word.startswith("--") or word == "--":
            raise InputError(f"expected --option value, came {word!r}")
        key, equals, value = word[2:].partition("=")
        if not equals and key != "print-config":
            if rest and not rest[0].startswith("--"):
                value = rest.pop(0)
                took = key
            elif key == "resume":
                value = "auto"
            else:
                raise InputError(f"--{key}: expected a value, came nothing")
        options[key] = value
        if key in SEVERAL and not value.startswith("["):
            options[key] = [value]
            while rest and not rest[0].startswith("--"):
                options[key].append(rest.pop(0))
                took = key
    if recipe is None:
        value = options.get(took, "")
        last = value[-1] if isinstance(value, list) else value
        hint = f"--{took} took {last}: put the recipe first" if took else "`everyframe train --list` lists the recipes"
        raise InputError(f"expected a recipe, came options alone; {hint}")
    return recipe, options


def _list() -> str:
    from everyframe.training.recipe_files import recipes

    lines, width = [], max(map(len, recipes()))
    for name, path in recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        lines.append(f"{name:{width}s}  {first.removeprefix('#').strip()}")
    return "\n".join(lines)


def _help() -> str:
    from everyframe.training.recipe import schema

    _, _, options = schema().format_help().partition("\n\n")
    return f"{USAGE}\n{options}"
