"""The parser of the verbs that pass no options on: a mistyped option is named, with the one that is close."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from everyframe.errors import InputError


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that looks for options it does not have before it asks for those that are missing.

    Without it `predict x --modl runs/a` is told that --model is required, and not that --modl is none.
    """

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse, after a look at the names of the options."""
        if self._subparsers is None and args is not None:  # a verb's actions have parsers of their own
            args = list(args)
            self._check_options(args)
        return super().parse_known_args(args, namespace)

    def _check_options(self, words: Sequence[str]) -> None:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            if not name.startswith("--") or name in known or self._abbreviates(name, known):
                continue
            near = get_close_matches(name, known, n=2, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else f"`{self.prog} --help` lists all options"
            self.error(f"{name} is no option; {hint}")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage of all options above it."""
        more = "" if message.endswith("?") or "--help" in message else f"; `{self.prog} --help` tells more"
        self.exit(2, f"{self.prog}: {message}{more}\n")

    def _abbreviates(self, name: str, known: Sequence[str]) -> bool:
        return self.allow_abbrev and any(option.startswith(name) for option in known)


def seed_value(text: str) -> int:
    """Read the value of an option `--seed`: NumPy's generators take none below 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, came {text}")
    return int(text)


def refuse_near_misses(parser: argparse.ArgumentParser, options: Iterable[str]) -> None:
    """Refuse an option that goes on to `everyframe train`, has none of its names, and is close to one of the verb's.

    Args:
        parser: of the verb that passes on what it does not know.
        options: names of what it passes on, without dashes.

    Raises:
        InputError: with the verb's option that is close. Others are left to `everyframe train`, which knows its own.
    """
    from everyframe.training.recipe import keys

    own = [name for name in parser._option_string_actions if name.startswith("--")]
    for option in options:
        near = [] if option in keys() else get_close_matches(f"--{option}", own, n=1, cutoff=0.8)
        if near:
            raise InputError(f"--{option} is no option; did you mean {near[0]}?")
