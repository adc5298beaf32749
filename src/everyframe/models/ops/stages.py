"""What backbones of several stages have in common: running them, and how stochastic depth rises over their blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn


def run_stages(
    stages: Iterable[nn.Module], x: Tensor, out_indices: Sequence[int], norms: Iterable[nn.Module] | None = None
) -> list[Tensor]:
    """Run stages one after the other and return the maps of some of them.

    Args:
        stages: [N, H, W, C] -> (the stage's map [N, H, W, C], the next stage's input).
        x: input of the first one, [N, H, W, C].
        out_indices: stages whose maps are returned.
        norms: one for each of them, for its map alone.

    Returns:
        One [N, C, h, w] per stage of `out_indices`, in channels_last memory, as computed.
    """
    after = dict(zip(out_indices, norms, strict=True)) if norms is not None else {}
    maps = []
    for i, stage in enumerate(stages):
        out, x = stage(x)
        if i in out_indices:
            maps.append((after[i](out) if i in after else out).permute(0, 3, 1, 2))
    return maps


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Return the probability of each block of each stage, rising evenly from 0 to `last` over all blocks."""
    total = sum(depths)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [
        [last * (start + j) / max(total - 1, 1) for j in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]
