"""A model of ours before it is built: a name of the zoo, and the options that make it the published one."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from everyframe.labels import LabelSpace
from everyframe.models.convert.keys import Table
from everyframe.models.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from everyframe.models.state import State
from everyframe.models.zoo import BACKBONES, SYSTEMS, create_model

Options = dict[str, Any]


@dataclass(slots=True)
class Design:
    """What `create_model` takes.

    Attributes:
        system: key of `zoo.SYSTEMS`.
        body: key of `zoo.BACKBONES`.
        backbone: options of the backbone.
        head: options of the head.
        temporal: options of the temporal module.
        mean: RGB mean of the training images, in 0..1.
        std: RGB deviation of the training images, in 0..1.
    """

    system: str
    body: str
    backbone: Options = field(default_factory=dict)
    head: Options = field(default_factory=dict)
    temporal: Options = field(default_factory=dict)
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    @property
    def name(self) -> str:
        """SYSTEM-BACKBONE."""
        return f"{self.system}-{self.body}"

    @property
    def sized(self) -> bool:
        """Whether the backbone learns positions for one frame size, its option "size"."""
        return any(part in self.body for part in ("adapter", "vit-", "eva02"))

    @property
    def grid(self) -> tuple[int, int] | None:
        """(h, w) of the patches that the options say positions are learned for; None where they say none."""
        if "size" not in self.backbone:
            return None
        size, patch = self.backbone["size"], self.backbone["patch"]
        return (size[0] // patch, size[1] // patch)

    def build(self, label_space: LabelSpace) -> Segmenter:
        """Build the model with these classes, its weights fresh."""
        return create_model(
            self.name,
            label_space,
            backbone=self.backbone,
            head=self.head,
            temporal=self.temporal,
            mean=self.mean,
            std=self.std,
        )


@dataclass(slots=True)
class Reading:
    """What a published file turns out to be.

    Attributes:
        design: the model.
        table: published names -> ours.
        classes: K; None where the file has no head.
        notes: sentences for the report.
        fresh: (regular expression of our names, reason): what the file cannot have and training begins with.
        prepare: changes the weights before the table.
        finish: changes them after it.
        check: refuses what the built model cannot express.
        labels: key of `data.layouts.CLASSES` of which the classes are, where the file does not name them.
    """

    design: Design
    table: Table
    classes: int | None
    notes: list[str] = field(default_factory=list)
    fresh: Sequence[tuple[str, str]] = ()
    prepare: Callable[[State], dict[str, Tensor]] | None = None
    finish: Callable[[State], dict[str, Tensor]] | None = None
    check: Callable[[Segmenter], None] | None = None
    labels: str | None = None


def system_of(head: str, temporal: str = "") -> str:
    """Return the key of `zoo.SYSTEMS` of a head and a temporal module."""
    return next(name for name, pair in SYSTEMS.items() if pair == (head, temporal))


def nearest_backbone(prefixes: Iterable[str], options: Mapping[str, Any]) -> str:
    """Return the name, among those with a prefix, whose preset has most in common with `options`.

    The options say all that the model is; the name is for people, who look for the published size in it: first of all
    the number of blocks, then the width.
    """
    names = [name for prefix in prefixes for name in BACKBONES if name.startswith(prefix)]

    def agreement(name: str) -> tuple[int, float, int]:
        presets = _presets(BACKBONES[name])
        same = {key: _same(key, options[key], value) for key, value in presets.items() if key in options}
        deep = same.get("depths", False) + same.get("depth", False)
        sides = options.get("width"), presets.get("width")
        apart = abs(math.log(sides[0] / sides[1])) if sides[0] and sides[1] else 0.0
        return deep, -apart, sum(same.values())

    return max(names, key=agreement)


def _presets(build: Callable[..., Any]) -> Options:
    """Return what a builder of the zoo sets, and what the constructor behind it takes where nothing is set."""
    if not isinstance(build, functools.partial):
        parameters = inspect.signature(build).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    inner = [value for value in (build.func, *build.keywords.values()) if callable(value)]
    return functools.reduce(lambda found, part: _presets(part) | found, inner, dict(build.keywords))


def _same(key: str, first: Any, second: Any) -> bool:
    """Whether two options are equal; those of training alone never are, so that they do not choose."""
    if key == "size":
        first, second = ((side, side) if isinstance(side, int) else side for side in (first, second))
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return list(first) == list(second)
    return key != "drop_path" and type(first) is not dict and first == second
