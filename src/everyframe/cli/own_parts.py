"""`everyframe --import FILE.py VERB ...`: heads, layouts, losses … of the user's own, registered before a verb runs."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from everyframe.errors import InputError

VARIABLE = "EVERYFRAME_IMPORT"
"""What is imported, separated as PATH is; processes that a verb starts (self-train, reproduce, DDP) read it too."""

OPTION = "--import"


def take_imports(arguments: list[str]) -> list[str]:
    """Take `--import WHAT` and `--import=WHAT` in front of the verb, import it and what the environment names.

    Args:
        arguments: of the command line.

    Returns:
        The arguments from the verb on.

    Raises:
        InputError: no such file or module. What the file itself raises comes as it is.
    """
    named = [what for what in os.environ.get(VARIABLE, "").split(os.pathsep) if what]
    while arguments and arguments[0].partition("=")[0] == OPTION:
        _, equals, what = arguments[0].partition("=")
        if not equals:
            what = arguments[1] if len(arguments) > 1 else ""
        if not what:
            raise InputError(f"{OPTION}: expected a file or module, came nothing; write {OPTION} my_parts.py")
        arguments = arguments[1 if equals else 2 :]
        named.append(str(Path(what).resolve()) if what.endswith(".py") else what)
    for what in dict.fromkeys(named):
        _import(what)
    if named:
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(named))
    return arguments


def _import(what: str) -> None:
    if not what.endswith(".py"):
        try:
            import_module(what)
        except ModuleNotFoundError as error:
            if error.name != what.partition(".")[0]:
                raise
            raise InputError(f"{OPTION}: expected a file .py or an installed module, found no {what!r}") from None
        return
    path = Path(what)
    if not path.is_file():
        raise InputError(f"{OPTION}: expected a file, found no {path}; check the path")
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return
    if known is not None:
        raise InputError(f"{OPTION}: expected a file whose name is no module's, came {path.name}; rename it")
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module  # under its name, so that worker processes and saved states find its classes
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
