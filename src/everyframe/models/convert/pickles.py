"""PyTorch's files, read without running anything that is in them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from everyframe.errors import InputError
from everyframe.models.state import first_line


class Inert:
    """Stands for an object of another program's class: takes what the file says of it and does nothing."""

    def __init__(self, *_: object) -> None:
        """Forget the arguments."""

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


def _inert_getattr(*_: object) -> None:
    """Stand for `getattr` in the state of mmengine's `HistoryBuffer`."""


def _inert_dict(*_: object) -> dict[Any, Any]:
    """Stand for `collections.defaultdict`."""
    return {}


# Training programs put logs and command lines beside the weights. These names, and no others, become something inert:
# mmengine's message hub (https://github.com/open-mmlab/mmengine/issues/1655), arguments, configurations, arrays of
# numpy. torch fills no dictionary but its own three kinds, so classes that are dictionaries become an OrderedDict.
_HARMLESS: list[Any] = [
    *((Inert, name) for name in (
        "mmengine.logging.history_buffer.HistoryBuffer", "argparse.Namespace", "pathlib.PosixPath",
        "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    )),
    *((OrderedDict, name) for name in (
        "mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict", "addict.addict.Dict",
        "yacs.config.CfgNode", "easydict.EasyDict",
    )),
    (_inert_dict, "collections.defaultdict"),
    *((Inert, f"builtins.{name}") for name in ("float", "int", "list", "dict")),  # what a defaultdict begins with
    (_inert_getattr, "builtins.getattr"),
    (_inert_getattr, "__builtin__.getattr"),
    *((value.__reduce__()[0], f"numpy.{core}.multiarray.{rebuild}")
      for core in ("core", "_core") for rebuild, value in (("_reconstruct", np.zeros(1)), ("scalar", np.float64(1)))),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdU"),
]  # fmt: skip


def read_pickle(path: Path, name: str) -> Any:
    """Return what `torch.save` wrote; only tensors and plain values are made, and inert things of `_HARMLESS`.

    Raises:
        InputError: damaged, or the file names other code; `name` stands for it in the message.
    """
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, ... by the kind of damage
        raise InputError(
            f"{name}: expected a PyTorch file of plain weights, cannot read it safely "
            f"({type(error).__name__}: {_reason(error)}); nothing of it was run. If you trust who made it, save its "
            f"state_dict() alone and convert that"
        ) from None


def _reason(error: Exception) -> str:
    """Return what torch found in the file that it does not allow, or the first line of the error."""
    text = str(error)
    at = text.find("GLOBAL ")
    if at >= 0:
        return f"it would run {text[at + 7 :].split()[0]}"
    return first_line(Exception(text.rpartition("WeightsUnpickler error: ")[2]))[:120]
