"""Reading mmcv's and mmengine's configurations, Python texts of plain values, without running them."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from everyframe.errors import InputError

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Read a configuration from a .py or .json file.

    Raises:
        InputError: no such file, no configuration, or one that only running it would resolve.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a configuration (.py or .json), cannot read it ({error})") from None
    if path.suffix == ".json":
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: expected JSON, came {error}") from None
    else:
        content = parse_config(text, path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of settings, came {type(content).__name__}")
    if "model" not in content and "backbone" in content:
        content = {"model": content}
    if not isinstance(content.get("model"), dict):
        hint = " (it builds on `_base_`: give the resolved file of the work folder)" if "_base_" in content else ""
        raise InputError(f"{path}: expected a setting `model`, came {', '.join(list(content)[:6])}{hint}")
    return content


def parse_config(text: str, source: str | Path = "configuration") -> dict[str, Any]:
    """Return the top-level settings of a configuration that are plain values; what is none (functions) is left out.

    Numbers, texts, lists, tuples, dicts, `dict(...)` and names set before are understood; nothing is executed. A
    setting that is changed later in a way that is not understood is left out, for its first value is not the one meant.

    Raises:
        InputError: the text is no Python.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: expected a configuration in Python, came {error}") from None
    settings: dict[str, Any] = {}
    for statement in tree.body:
        names, value = _changed(statement), _assigned(statement)
        try:
            settings |= dict.fromkeys(names, _value(value, settings))
        except _NotPlain:
            settings = {name: known for name, known in settings.items() if name not in names}
    return settings


def _assigned(statement: ast.stmt) -> ast.expr | None:
    """Return what a statement sets names to; None where it does anything else."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return None
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return statement.value if all(isinstance(target, ast.Name) for target in targets) else None


def _changed(statement: ast.stmt) -> set[str]:
    """Return the top-level names that a statement sets, or whose values it may change."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}  # the names inside are its own
    targets: list[ast.AST] = [
        node for node in ast.walk(statement) if isinstance(getattr(node, "ctx", None), ast.Store | ast.Del)
    ]
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        targets.append(statement.value.func)  # model.update(...)
    names: set[str] = set()
    for target in targets:
        while isinstance(target, ast.Subscript | ast.Attribute):
            target = target.value
        if isinstance(target, ast.Name):
            names.add(target.id)
    return names


class _NotPlain(Exception):
    """An expression that is no plain value."""


def _value(node: ast.expr | None, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List):
        return [_value(item, known) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item, known) for item in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {
            _value(key, known): _value(item, known) for key, item in zip(node.keys, node.values, strict=True) if key
        }
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(_value(node.operand, known))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("dict", "OrderedDict"):
        return _dict_call(node, known)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = (_number(_value(side, known)) for side in (node.left, node.right))
        try:
            return _OPERATORS[type(node.op)](left, right)
        except ZeroDivisionError:
            raise _NotPlain from None
    raise _NotPlain


def _dict_call(node: ast.Call, known: Mapping[str, Any]) -> dict[Any, Any]:
    if len(node.args) > 1 or any(keyword.arg is None for keyword in node.keywords):
        raise _NotPlain
    pairs = dict(_value(node.args[0], known)) if node.args else {}
    return {**pairs, **{keyword.arg: _value(keyword.value, known) for keyword in node.keywords}}


def _number(value: Any) -> Any:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _NotPlain
    return value
