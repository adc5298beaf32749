"""Weights in files and in modules: what differs is listed, and refused unless asked for."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from everyframe.errors import InputError

logger = logging.getLogger(__name__)

State = Mapping[str, Tensor]
"""Parameter and buffer names -> tensors, as `torch.nn.Module.state_dict` returns them."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How weights differ from the module they should go into.

    Attributes:
        missing: names that the module has and the weights lack.
        unexpected: names that the weights have and the module lacks.
        mismatched: name -> (shape in the module, shape in the weights).
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def describe(self, most: int = 6) -> str:
        """Return one line: how many names of each kind, and the first `most` of them."""
        shapes = [f"{name} {list(ours)} here, {list(theirs)} there" for name, (ours, theirs) in self.mismatched.items()]
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": shapes}
        return "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:most])}" + (", ..." if len(names) > most else "")
            for kind, names in kinds.items()
            if names
        )


def difference(module: nn.Module, state: State) -> Difference:
    """Compare names and shapes of `state` with those of `module`."""
    own = module.state_dict()
    return Difference(
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        mismatched={
            name: (tuple(own[name].shape), tuple(value.shape))
            for name, value in state.items()
            if name in own and own[name].shape != value.shape
        },
    )


def what_fits(module: nn.Module, state: State) -> dict[str, Tensor]:
    """Return the weights that a module has a place for, by name and shape.

    A part that names one of its tensors in an attribute `led_by` gets none of its own without that one: its others say
    something about it, such as which of its rows are in use.
    """
    own = module.state_dict()
    fits = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    for prefix, part in module.named_modules():
        leader, before = getattr(part, "led_by", None), f"{prefix}." if prefix else ""
        if leader is not None and before + leader not in fits:
            fits = {name: value for name, value in fits.items() if not name.startswith(before)}
    return fits


def load_state(module: nn.Module, state: State, source: str | Path = "weights", *, strict: bool = True) -> Difference:
    """Copy weights into a module.

    Args:
        module: changed in place.
        state: weights by name.
        source: named in messages, normally the file.
        strict: refuse when any name or shape differs; otherwise load `what_fits` and log the rest as a warning.

    Returns:
        What differed (nothing, when strict).

    Raises:
        InputError: strict, and something differs.
    """
    found = difference(module, state)
    if found and strict:
        raise InputError(
            f"{source}: the weights do not fit the model: {found.describe()}; build the model that they were saved "
            f"from, or load with strict=False to take what fits"
        )
    if found:
        logger.warning("%s: loaded in part: %s", source, found.describe(most=1000))
    module.load_state_dict(what_fits(module, state), strict=False)
    return found


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read weights from a .safetensors file or a PyTorch checkpoint; nothing but tensors is ever unpickled.

    The wrappers that training programs put around the weights ("state_dict", "model", "module.") are taken off.

    Raises:
        InputError: no file, a damaged file, or one that holds more than plain weights.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of weights (.safetensors, .pth, .pt), found none")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(
                f"{path}: expected a safetensors file, it cannot be read ({error}); copy it anew"
            ) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, ... by the kind of damage
        raise InputError(
            f"{path}: expected a PyTorch file of plain weights, cannot read it safely "
            f"({type(error).__name__}: {first_line(error)[:120]}); save its state_dict() alone and load that"
        ) from None
    return _unwrap(content, path)


def save_tensors(path: str | Path, tensors: State, metadata: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file; what goes wrong is an `OSError`, as with any other file (see `errors.writing`).

    Args:
        path: the file; its folder must exist.
        tensors: by name, on the CPU and contiguous.
        metadata: texts for the file's header.

    Raises:
        OSError: no permission, no such folder, a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, None if metadata is None else dict(metadata))
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))  # all that the library says of the system's errors
        if code is None:
            raise OSError(f"{path}: {first_line(error)}") from None
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, for messages of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise InputError(
            f"{path}: expected a dict of tensors (or one under 'state_dict' or 'model'), came something else"
        )
    state = {str(name): value for name, value in content.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state
