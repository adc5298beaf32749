"""What losses share when several processes train one model."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of a value over the processes of a distributed run, the value itself in a single process.

    Made for divisors. With partly labelled videos the processes hold different numbers of pixels that count. With a
    divisor of its own, each would give its pixels another weight; with the mean divisor the averaged gradient is that
    of one process with the joint batch.

    Args:
        value: scalar, or several of them in one tensor, that needs no gradient; left as it is.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
