"""The state of a stream as a safetensors file: nothing is pickled, and nothing in the file is run when it is read.

The tensors stand in the file under numbers; how they nest stands in the header as JSON. Tuples, lists, dicts, named
tuples and dataclasses nest; the class of a named tuple or dataclass must have been imported by whoever reads the
file, which is so once the model is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from everyframe.inference.predictor import State
from everyframe.models.state import save_tensors


class UnsavableStateError(TypeError):
    """A state that holds something other than tensors, plain values and the containers above."""


def snapshot(state: State) -> tuple[dict[str, Tensor], Any]:
    """Return copies of a state's tensors on the CPU, by number, and the nesting as what JSON can hold.

    Raises:
        UnsavableStateError: the state holds something else.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, _describe(state, tensors)


def save_state(path: Path, snapshot: tuple[dict[str, Tensor], Any], notes: dict[str, Any]) -> None:
    """Write a snapshot, with notes that JSON can hold.

    Raises:
        OSError: the file cannot be written.
    """
    tensors, nesting = snapshot
    save_tensors(path, tensors, {"nesting": json.dumps(nesting), "notes": json.dumps(notes)})


def load_state(path: Path, device: torch.device) -> tuple[State, dict[str, Any]]:
    """Read a state, its tensors on `device`, and the notes.

    Raises:
        ValueError: damaged, or made by classes that are not here.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return _rebuild(json.loads(header["nesting"]), tensors), json.loads(header["notes"])
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected the state of a stream, came {error!r}") from None


def _describe(node: Any, tensors: dict[str, Tensor]) -> Any:
    if node is None or isinstance(node, bool | int | float | str):
        return {"value": node}
    if isinstance(node, Tensor):
        name = str(len(tensors))
        tensors[name] = node.detach().to("cpu", copy=True).contiguous()
        # The order in memory decides which kernels run next, and thereby the last bits of what they compute.
        channels_last = node.ndim == 4 and node.is_contiguous(memory_format=torch.channels_last)
        return {"channels last" if channels_last and not node.is_contiguous() else "tensor": name}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return {"class": _class_name(node), "items": [_describe(item, tensors) for item in node]}
    if dataclasses.is_dataclass(node):
        values = [getattr(node, field.name) for field in dataclasses.fields(node)]
        return {"class": _class_name(node), "items": [_describe(item, tensors) for item in values]}
    if type(node) is dict:
        return {"dict": [[_describe(k, tensors), _describe(v, tensors)] for k, v in node.items()]}
    if type(node) in (list, tuple):
        return {type(node).__name__: [_describe(item, tensors) for item in node]}
    raise UnsavableStateError(f"a state may hold tensors, plain values and containers of them, came {type(node)}")


def _rebuild(node: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = [(k, v) for k, v in node.items() if k != "items"]
    if kind == "value":
        return content
    if kind == "tensor":
        return tensors[content]
    if kind == "channels last":
        return tensors[content].contiguous(memory_format=torch.channels_last)
    if kind == "dict":
        return {_rebuild(k, tensors): _rebuild(v, tensors) for k, v in content}
    if kind == "class":
        return _class(content)(*(_rebuild(item, tensors) for item in node["items"]))
    items = [_rebuild(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items


def _class_name(node: Any) -> str:
    return f"{type(node).__module__}:{type(node).__qualname__}"


def _class(name: str) -> Any:
    """Find an imported class; only named tuples and dataclasses, whose constructors just store what they get."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    is_record = isinstance(found, type) and (
        dataclasses.is_dataclass(found) or (issubclass(found, tuple) and hasattr(found, "_fields"))
    )
    if not is_record:
        raise TypeError(f"no named tuple or dataclass {name} is imported")
    return found
