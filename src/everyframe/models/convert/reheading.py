"""Class layers for another list of classes: rows averaged over the classes that become one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from everyframe.models.heads.base import Head
from everyframe.models.heads.mask2former.head import Mask2FormerHead
from everyframe.models.heads.mask_transformer import MaskTransformerHead
from everyframe.models.state import State


class ClassLayer(NamedTuple):
    """A parameter with a row per class.

    Attributes:
        dim: dimension of the rows.
        kept: rows behind those of the classes ("no object"), which stay as they are.
    """

    dim: int = 0
    kept: int = 0


def class_layers(model: nn.Module) -> dict[str, ClassLayer]:
    """Return the names of all parameters with a row per class, of heads and their auxiliary heads."""
    found: dict[str, ClassLayer] = {}
    for prefix, part in model.named_modules():
        if not isinstance(part, Head):
            continue
        if isinstance(part, Mask2FormerHead):
            own = {"cls_embed.weight": ClassLayer(kept=1), "cls_embed.bias": ClassLayer(kept=1)}
        elif isinstance(part, MaskTransformerHead):
            own = {"classes": ClassLayer(dim=1), "mask_norm.weight": ClassLayer(), "mask_norm.bias": ClassLayer()}
        else:
            own = {"classifier.weight": ClassLayer(), "classifier.bias": ClassLayer()}
        found |= {f"{prefix}.{name}": layer for name, layer in own.items()}
    return found


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
