"""Start a training from the weights of another model: fine-tuning, other classes, one more module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from everyframe.errors import InputError
from everyframe.models.checkpoint import load_segmenter
from everyframe.models.convert.positions import fit_positions, is_position, positioned
from everyframe.models.convert.reheading import rehead
from everyframe.models.ops.class_layer import ClassLayer, class_layers
from everyframe.models.segmenter import Segmenter
from everyframe.models.state import what_fits
from everyframe.models.temporal.prototypes import CategoryPrototypes

SHOWN = 3
"""Parts that stayed fresh, by name, in the one line about a start."""
CLASSES_SHOWN = 12
"""Classes that were kept, and likewise those that start fresh, in that line."""


@dataclass(frozen=True)
class WarmStart:
    """What a model took from another.

    Attributes:
        taken: names of the weights that came as they are.
        reheaded: name -> what was done to class layers.
        fresh: names of the model's weights that keep their initial values.
        unused: names of the other model's weights that found no place.
        classes: where the two models' classes differ, the model's classes that kept the other's rows, and those that
            start fresh; else None.
    """

    taken: tuple[str, ...]
    reheaded: Mapping[str, str]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    def describe(self) -> str:
        """Return one line."""
        parts = sorted({".".join(name.split(".")[:2]) for name in self.fresh})
        more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
        fresh = f"; fresh: {', '.join(parts[:SHOWN])}{more}" if parts else ""
        unused = f"; {len(self.unused)} of its weights have no place here" if self.unused else ""
        return f"{len(self.taken) + len(self.reheaded)} weights taken{fresh}{unused}{self._describe_classes()}"

    def _describe_classes(self) -> str:
        if self.classes is None:
            return ""
        kept, new = (_listed(names) for names in self.classes)
        return f"; classes kept: {kept or 'none'}" + (f"; fresh: {new}" if new else "")


def start_from(model: Segmenter, source: str | Path) -> WarmStart:
    """Give a model the weights of another where they have the same name and shape.

    Class layers follow the names of the classes: a class that both have keeps its weights, others start fresh. The
    other model may lack a part (a temporal module, say) or have another head, but the backbones must be the same;
    positions learned for another frame size are fitted.

    Args:
        model: changed in place.
        source: a saved model's folder, a run's, or a hub id.

    Raises:
        InputError: no model there, or of another backbone.
    """
    other = load_segmenter(source)
    theirs: dict[str, Tensor] = dict(other.state_dict())
    ours = model.state_dict()
    if any(is_position(name) and name in ours and ours[name].shape != value.shape for name, value in theirs.items()):
        place = positioned(other.backbone)
        theirs = dict(fit_positions(theirs, model, None if place is None else place[1])[0])
    reheaded: dict[str, str] = {}
    classes = None
    if other.label_space.names != model.label_space.names:
        shared = {name: i for i, name in enumerate(model.label_space.names)}
        table = {i: shared[name] for i, name in enumerate(other.label_space.names) if name in shared}
        prefixes, unnamed = _of_classes(other), _unnamed_class_layers(other)
        theirs = {name: v for name, v in theirs.items() if not name.startswith(prefixes) and name not in unnamed}
        other_heads = {name for name, layer in class_layers(model).items() if not _alike(theirs, ours, name, layer)}
        theirs = {name: value for name, value in theirs.items() if name not in other_heads}
        theirs, reheaded = rehead(theirs, model, table)
        # Of another head nothing may fit but a bias, which makes no class known.
        followed = any(ours[name].ndim > 1 for name in reheaded)
        kept = set(shared) & set(other.label_space.names) if followed else set()
        names = model.label_space.names
        classes = tuple(n for n in names if n in kept), tuple(n for n in names if n not in kept)
    fitting = what_fits(model, theirs)
    lost = [name for name in ours if name.startswith("backbone.") and name not in fitting]
    if lost:
        raise InputError(
            f"init: expected a model with the backbone of {model.config['name']}, came {other.config['name']}, which "
            f"lacks {len(lost)} of its weights, such as {lost[0]}; choose the same backbone for both"
        )
    model.load_state_dict(fitting, strict=False)
    return WarmStart(
        taken=tuple(name for name in fitting if name not in reheaded),
        reheaded={name: change for name, change in reheaded.items() if name in fitting},
        fresh=tuple(name for name in ours if name not in fitting),
        unused=tuple(name for name in other.state_dict() if name not in fitting),
        classes=classes,
    )


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
    return ", ".join(names[:CLASSES_SHOWN]) + more


def _alike(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], name: str, layer: ClassLayer) -> bool:
    """Whether a class layer differs in its number of classes alone."""
    shapes = [list(state[name].shape) for state in (theirs, ours) if name in state]
    for shape in shapes:
        shape[layer.dim] = 0
    return len(shapes) == 2 and shapes[0] == shapes[1]


def _unnamed_class_layers(model: Segmenter) -> set[str]:
    """Return what seems to have a row per class in a head that names nothing in `class_layers`.

    By position such rows would go to other classes.
    """
    if any(layer.startswith("head.") for layer in class_layers(model)):
        return set()
    count = len(model.label_space)
    return {name for name, value in model.state_dict().items() if name.startswith("head.") and count in value.shape}


def _of_classes(model: Segmenter) -> tuple[str, ...]:
    """Prefixes of what belongs to classes without being a class layer."""
    return tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, CategoryPrototypes))
