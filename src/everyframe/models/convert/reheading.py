"""Class layers for another list of classes: rows averaged over the classes that become one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from everyframe.models.ops.class_layer import ClassLayer, class_layers
from everyframe.models.state import State


def rehead(state: State, model: nn.Module, table: Mapping[int, int]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Give weights the classes of a model.

    Args:
        state: weights by our names, with the published classes.
        model: built with the wanted classes; classes that nothing becomes keep its fresh rows.
        table: published class -> wanted class; several may become one.

    Returns:
        The weights, and name -> what was done to it.
    """
    own = model.state_dict()
    done, changes = dict(state), {}
    for name, layer in class_layers(model).items():
        if name not in state:
            continue
        done[name] = averaged_rows(state[name], own[name], table, layer)
        old, new = (x.shape[layer.dim] - layer.kept for x in (state[name], own[name]))
        changes[name] = f"rows of {old} classes averaged into {new}"
    return done, changes


def averaged_rows(old: Tensor, fresh: Tensor, table: Mapping[int, int], layer: ClassLayer) -> Tensor:
    """Return `fresh` with the rows of the classes that old ones become: their average.

    Args:
        old: with a row per published class along `layer.dim`, and `layer.kept` further ones.
        fresh: likewise for the wanted classes.
        table: published class -> wanted class.
        layer: where the rows are.
    """
    rows, source = fresh.detach().clone().movedim(layer.dim, 0), old.movedim(layer.dim, 0).to(fresh.dtype)
    for wanted in sorted(set(table.values())):
        members = [row for row, target in table.items() if target == wanted]
        rows[wanted] = source[members].mean(0)
    if layer.kept:
        rows[-layer.kept :] = source[-layer.kept :]
    return torch.movedim(rows, 0, layer.dim).contiguous()
