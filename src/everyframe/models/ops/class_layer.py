"""Parameters with a row per class: a module that has some names them in `class_layers`."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class ClassLayer(NamedTuple):
    """A parameter with a row per class.

    Attributes:
        dim: dimension of the rows.
        kept: rows behind those of the classes ("no object"), which stay as they are.
    """

    dim: int = 0
    kept: int = 0


def class_layers(model: nn.Module) -> dict[str, ClassLayer]:
    """Return all parameters with a row per class, by their names in a model: what its modules' `class_layers` name.

    `class_layers` of a class of modules maps names of its parameters to `ClassLayer`; what an instance was built
    without is passed over.
    """
    present = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found: dict[str, ClassLayer] = {}
    for prefix, part in model.named_modules():
        for name, layer in getattr(type(part), "class_layers", {}).items():
            full = f"{prefix}.{name}" if prefix else name
            if full in present:
                found[full] = layer
    return found
