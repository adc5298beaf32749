"""The engine of all converters: rules turn one key layout into another, and say what became of each key."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from everyframe.errors import InputError
from everyframe.models.state import State


class Rule(NamedTuple):
    """How one family of keys is written in the other layout.

    Attributes:
        pattern: regular expression for the whole key.
        replacement: the new key, with backreferences; None leaves the entry out.
        change: how the tensor changes, or None.
        reason: why an entry is left out, for reports.
    """

    pattern: str
    replacement: str | None
    change: Callable[[Tensor], Tensor] | None = None
    reason: str = "no part of this model"


Table = Sequence[Rule]

WEIGHT = r"(weight|bias)"
"""Regular expression: the two parameters of a linear layer, a convolution or a norm."""


def left_out(pattern: str, reason: str) -> Rule:
    """Return the rule of keys that are left out."""
    return Rule(pattern, None, reason=reason)


@dataclass(slots=True)
class Rewritten:
    """What a table made of weights.

    Attributes:
        state: the weights by their new names.
        used: old name -> new name.
        dropped: old name -> why it was left out.
        unknown: old names that no rule knows, or whose new name another has taken.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def rewrite(state: State, table: Table) -> Rewritten:
    """Rewrite every entry of `state` by the first rule that fits its key."""
    compiled = [(re.compile(rule.pattern), rule) for rule in table]
    done = Rewritten()
    for key, value in state.items():
        for pattern, rule in compiled:
            match = pattern.fullmatch(key)
            if not match:
                continue
            if rule.replacement is None:
                done.dropped[key] = rule.reason
            else:
                name = match.expand(rule.replacement)
                if name in done.state:  # two keys for one weight: which of them counts is not ours to say
                    done.unknown.append(key)
                    break
                done.used[key] = name
                done.state[name] = value if rule.change is None else rule.change(value)
            break
        else:
            done.unknown.append(key)
    return done


def convert(state: State, table: Table, source: str | Path = "weights") -> dict[str, Tensor]:
    """Rewrite every entry of `state` by the first rule that fits its key.

    Raises:
        InputError: keys that no rule knows, so that nothing is lost silently.
    """
    done = rewrite(state, table)
    if done.unknown:
        raise InputError(f"{source}: {len(done.unknown)} keys are not of the expected layout: {few(done.unknown)}")
    return done.state


def few(names: Sequence[str], most: int = 6) -> str:
    """Return the first names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def nested(table: Table, theirs: str, ours: str) -> list[Rule]:
    """Return the table for a part that stands under the prefix `theirs` there and `ours` here."""
    return [
        rule._replace(
            pattern=f"{re.escape(theirs)}(?:{rule.pattern})",
            replacement=None if rule.replacement is None else ours + rule.replacement,
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
