"""The engine of all converters: a table of rules turns one key layout into another."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from everyframe.errors import InputError
from everyframe.models.state import State


class Rule(NamedTuple):
    """How one family of keys is written in the other layout.

    Attributes:
        pattern: regular expression for the whole key.
        replacement: the new key, with backreferences; None leaves the entry out (what the module computes by itself).
        change: how the tensor changes, or None.
    """

    pattern: str
    replacement: str | None
    change: Callable[[Tensor], Tensor] | None = None


Table = Sequence[Rule]

WEIGHT = r"(weight|bias)"
"""Regular expression: the two parameters of a linear layer, a convolution or a norm."""


def convert(state: State, table: Table, source: str | Path = "weights") -> dict[str, Tensor]:
    """Rewrite every entry of `state` by the first rule that fits its key.

    Raises:
        InputError: keys that no rule knows, so that nothing is lost silently.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in table]
    converted: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in state.items():
        for pattern, rule in compiled:
            match = pattern.fullmatch(key)
            if match:
                if rule.replacement is not None:
                    converted[match.expand(rule.replacement)] = value if rule.change is None else rule.change(value)
                break
        else:
            unknown.append(key)
    if unknown:
        more = f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
        raise InputError(
            f"{source}: {len(unknown)} keys are not of the expected layout: {', '.join(unknown[:6])}{more}"
        )
    return converted


def nested(table: Table, theirs: str, ours: str) -> list[Rule]:
    """Return the table for a part that stands under the prefix `theirs` there and `ours` here."""
    return [
        Rule(
            f"{re.escape(theirs)}(?:{rule.pattern})",
            None if rule.replacement is None else ours + rule.replacement,
            rule.change,
        )
        for rule in table
    ]


def conv_module(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of an mmcv `ConvModule` (regular expression `theirs`) that is our `ConvNormAct` (`ours`)."""
    return [
        Rule(rf"{theirs}\.conv\.{WEIGHT}", rf"{ours}.conv.\g<{_groups(theirs) + 1}>"),
        Rule(rf"{theirs}\.(?:bn|gn)\.(.+)", rf"{ours}.norm.\g<{_groups(theirs) + 1}>"),
    ]


def _groups(pattern: str) -> int:
    return pattern.count("(") - pattern.count("(?:")
