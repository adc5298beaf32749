"""Weights of our own models under the names of published files: the tables of rules, read backwards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torch import Tensor

from everyframe.models.convert import mmseg
from everyframe.models.convert.keys import Rule, Table, nested

RESNET = {"width": 8, "stem_width": 16, "deep_stem": True}
"""A small ResNet-18 that is mmsegmentation's `ResNetV1c`."""

VSPW_RESNET = {**RESNET, "dilate_both": True}
"""A small ResNet-18 that is the VSPW code's but for its width."""


def resnet_table(head: str) -> list[Rule]:
    """Return the table of a ResNet under a head of mmsegmentation."""
    return [*nested(mmseg.RESNET, "backbone.", "backbone."), *mmseg.head_table({"type": head}, "decode_head.", "head.")]


def published(state: dict[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Rename every weight to what `table` turns into its present name; changes of tensors are not undone."""
    rules = [(re.compile(rule.pattern), _reader(rule), rule) for rule in table]
    renamed = {_backwards(name, rules): value for name, value in state.items()}
    assert len(renamed) == len(state)
    return renamed


def _backwards(name: str, rules: Sequence[tuple[re.Pattern[str], re.Pattern[str] | None, Rule]]) -> str:
    for _, reader, rule in rules:
        match = reader.fullmatch(name) if reader else None
        if not match:
            continue
        values = [match.groupdict().get(f"g{i + 1}", "0") for i in range(sum(1 for _ in _groups(rule.pattern)))]
        candidate = _fill(rule.pattern, iter(values))
        # In the other direction another rule may come first.
        first, found = next((r, m) for p, _, r in rules if (m := p.fullmatch(candidate)))
        if first.replacement is not None and found.expand(first.replacement) == name:
            return candidate
    raise AssertionError(f"no rule of the table makes {name}")


def _reader(rule: Rule) -> re.Pattern[str] | None:
    """Return what finds the groups of a rule in a name that it made."""
    if rule.replacement is None:
        return None
    groups = list(_groups(rule.pattern))
    parts = re.split(r"\\(?:g<(\d+)>|(\d))", rule.replacement)
    pattern, seen = re.escape(parts[0]), set()
    for first, second, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        number = int(first or second)
        pattern += f"(?P=g{number})" if number in seen else f"(?P<g{number}>{groups[number - 1]})"
        pattern += re.escape(text)
        seen.add(number)
    return re.compile(pattern)


def _groups(pattern: str) -> Iterator[str]:
    """Yield the content of each capturing group."""
    for i, c in enumerate(pattern):
        if c == "(" and pattern[i - 1 : i] != "\\" and pattern[i + 1] != "?":
            yield pattern[i + 1 : _close(pattern, i)]


def _close(pattern: str, start: int) -> int:
    depth = 0
    for i in range(start, len(pattern)):
        depth += {"(": 1, ")": -1}.get(pattern[i], 0)
        if not depth:
            return i
    raise AssertionError(pattern)


def _fill(pattern: str, values: Iterator[str]) -> str:
    """Write a text that fits a pattern: groups take `values`, alternatives their first, digits 0."""
    out, i = "", 0
    while i < len(pattern):
        if pattern.startswith("(?:", i):
            end = _close(pattern, i)
            optional = pattern[end + 1 : end + 2] == "?"
            out += "" if optional else _fill(_first(pattern[i + 3 : end]), values)
            i = end + 1 + optional
        elif pattern[i] == "(":
            out += next(values)
            i = _close(pattern, i) + 1
        elif pattern.startswith(r"\d", i):
            out += "0"
            i += 3 if pattern[i + 2 : i + 3] == "+" else 2
        elif pattern[i] == "[":
            out += pattern[i + 1]
            i = pattern.index("]", i) + 1
        elif pattern[i] == "\\":
            out += pattern[i + 1]
            i += 2
        elif pattern[i] == "?":  # of one character
            i += 1
        else:
            out += pattern[i]
            i += 1
    return out


def _first(alternatives: str) -> str:
    depth = 0
    for i, c in enumerate(alternatives):
        depth += {"(": 1, ")": -1}.get(c, 0)
        if c == "|" and not depth:
            return alternatives[:i]
    return alternatives


def config_text(model: dict, **settings: object) -> str:
    """Write a configuration as mmcv does: Python with `dict(...)`."""
    lines = [f"{name} = {_python(value)}" for name, value in {"model": model, **settings}.items()]
    return "\n".join(lines) + "\n"


def _python(value: object) -> str:
    if isinstance(value, dict) and all(isinstance(key, str) and key.isidentifier() for key in value):
        return f"dict({', '.join(f'{key}={_python(item)}' for key, item in value.items())})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_python, value))}]"
    return repr(value)
