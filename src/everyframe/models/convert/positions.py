"""Learned positions -> those of frames of another size."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from everyframe.models.convert.shapes import grid_side
from everyframe.models.ops.relative_position import CLASS_ROWS, resize_table
from everyframe.models.ops.vit_block import resized_positions
from everyframe.models.state import State

Grid = tuple[int, int]

_RELATIVE = re.compile(r".*attention\.relative_position_bias_table")
_ABSOLUTE = re.compile(r"(?:.*\.)?(?:pos_embed|positions)")


def is_position(key: str) -> bool:
    """Whether a parameter of ours holds positions on a grid of patches."""
    return bool(_RELATIVE.fullmatch(key) or _ABSOLUTE.fullmatch(key))


def positioned(model: nn.Module) -> tuple[str, Grid] | None:
    """Return the prefix and grid (h, w) of the part of a backbone that has learned positions; None without such."""
    for prefix, part in model.named_modules():
        if isinstance(getattr(part, "grid", None), tuple) and hasattr(part, "patch_embed"):
            return prefix, part.grid
    return None


def fit_positions(
    state: State, model: nn.Module, trained: Grid | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Fit learned positions to the grid of patches of a model.

    Relative tables are grown as published (cubic splines over a geometric grid) or cut to their exact centre;
    absolute positions are resized bicubically.

    Args:
        state: weights by our names.
        model: what they are for.
        trained: (h, w) of the grid that they were learned on; None takes them for those of a square.

    Returns:
        The weights, and name -> what was done to it.
    """
    found = positioned(model)
    if found is None:
        return dict(state), {}
    prefix, grid = found
    fitted, changes = dict(state), {}
    for key, value in state.items():
        if not key.startswith(prefix) or not is_position(key):
            continue
        relative = bool(_RELATIVE.fullmatch(key))
        count = len(value) - CLASS_ROWS if relative else value.shape[1] - 1
        if trained is not None:
            before = trained
        else:
            side = grid_side(count, key)
            before = ((side + 1) // 2,) * 2 if relative else (side, side)
        if before == grid:
            continue
        if relative:
            fitted[key] = resize_table(value.float(), before, grid)
        else:
            patches = resized_positions(value[:, 1:].float(), before, grid)
            fitted[key] = torch.cat([value[:, :1].float(), patches], dim=1)
        changes[key] = f"positions of {before[0]}x{before[1]} patches fitted to {grid[0]}x{grid[1]}"
    return fitted, changes
