"""Numbers of the host as tensors beside others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def numbers_beside(
    x: Tensor, numbers: Sequence[float] | Sequence[Sequence[float]], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return numbers as a tensor on the device of `x`.

    The host does not wait for the device; `torch.tensor(numbers, device=...)` does, until all before it is done.
    """
    return torch.tensor(numbers, dtype=dtype).to(x.device, non_blocking=True)
