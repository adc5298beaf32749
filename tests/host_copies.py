"""Counts what would make the host wait for a device, on a machine without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

SIZED_BY_DATA = {
    aten.nonzero, aten.masked_select, aten.bincount, aten.unique_consecutive, aten._unique, aten._unique2,
    aten.unique_dim, aten.repeat_interleave, aten.equal, aten._local_scalar_dense,
}  # fmt: skip
"""Operators that copy from CUDA to the host: a number, or how large their result is."""

FROM_NUMBERS = {Tensor.new_tensor, torch.tensor}
"""Functions that copy numbers from the host to a device, and wait until they are there (if one is named)."""

TO_HOST = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.__array__}
"""Methods that copy what is on a device; on a CPU no operator tells of it."""


class HostCopies:
    """While it is open, every tensor counts as one on a device; what `cpu` or `to` returned is on the host.

    Attributes:
        found: names of the operators and methods that made the host wait, in order.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._on_host: list[Any] = []
        self._modes = _Operators(self.found), _Methods(self.found, self._on_host)

    def __enter__(self) -> HostCopies:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Operators(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_) and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        numbers = func is aten.repeat_interleave.self_int
        if by_mask or (func.overloadpacket in SIZED_BY_DATA and not numbers):
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, found: list[str], on_host: list[Any]) -> None:
        super().__init__()
        self.found, self.on_host = found, on_host

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        moved = func is Tensor.to and args[1:2] == ("cpu",)  # (a device that a tensor names stands for its own)
        if func in FROM_NUMBERS and (func is not torch.tensor or "device" in (kwargs or {})):
            self.found.append(func.__name__)
        if (func in TO_HOST or moved) and not any(args[0] is own for own in self.on_host):
            self.found.append(func.__name__)
        if func is Tensor.cpu or moved:
            self.on_host.append(out)
        return out
