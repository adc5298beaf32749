"""A few classes of a data set and "rest": what a specialist of weak classes is trained on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from everyframe.data.layout import VideoRef, read_as
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.metrics.results import Results

REST = "rest"
"""Name of the class that all others are part of."""

REST_COLOR = (128, 128, 128)

WEAK = 0.3
"""IoU below which a class of a report is one for a specialist."""


@dataclass(frozen=True)
class Focus:
    """How labels of all classes are read as those of a few and `REST`.

    Attributes:
        whole: the classes of the data.
        space: the chosen ones in their order, then `REST`, with the ids in the files of `whole`.
        table: train id in `whole` -> train id in `space`.
    """

    whole: LabelSpace
    space: LabelSpace
    table: dict[int, int]

    @classmethod
    def on(cls, whole: LabelSpace, classes: Sequence[str]) -> Focus:
        """Choose classes by name.

        Raises:
            InputError: a name that is no class or comes twice, a class called `REST`, or nothing is left for it.
        """
        for name in classes:
            if name not in whole.names:
                near = difflib.get_close_matches(name, whole.names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(whole.names[:8])}…"
                raise InputError(f"data.focus: expected classes of the data, or a report, came {name!r}; {hint}")
        if REST in whole.names:
            raise InputError(f"data.focus: expected no class called {REST!r}, the name of all others; rename it")
        twice = sorted({name for name in classes if classes.count(name) > 1})
        if twice or len(classes) >= len(whole):
            came = f"{', '.join(twice)} twice" if twice else f"all {len(whole)}"
            raise InputError(f"data.focus: expected some of the classes, each once, came {came}")
        table = {i: classes.index(n) if n in classes else len(classes) for i, n in enumerate(whole.names)}
        palette = (*(whole.palette[whole.names.index(name)] for name in classes), REST_COLOR)
        return cls(whole, whole.mapped(LabelSpace((*classes, REST), palette), table), table)

    def read(self, own: LabelSpace) -> LabelSpace:
        """Return how files of the classes of `whole`, with other ids than its own, are read as `space`."""
        return own.mapped(self.space, self.table)

    def videos(self, videos: Iterable[VideoRef]) -> list[VideoRef]:
        """Return the videos with label spaces of their own read as `space`."""
        return read_as(videos, self.read)


def expand_focus(focus: Sequence[str]) -> list[str]:
    """Return class names, each report among them as its weak classes, see `weak_classes`."""
    return list(dict.fromkeys(name for text in focus for name in ([text] if _is_name(text) else weak_classes(text))))


def weak_classes(report: str | Path, below: float = WEAK) -> list[str]:
    """Return the classes that a model is weak in, the weakest first.

    Args:
        report: folder that `everyframe evaluate --out` wrote, or its results.json.
        below: IoU; classes without a pixel in the ground truth are left out.

    Raises:
        InputError: no report, or no class is weak.
    """
    path = Path(report)
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{report}: expected the report of `everyframe evaluate --out`, found no {path.name} in it")
    classes = sorted((entry for entry in Results.from_json(path).classes if entry.pixels), key=lambda c: c.iou)
    names = [entry.name for entry in classes if entry.iou < below]
    if not names:
        raise InputError(
            f"{path}: expected classes with an IoU below {below:.0%}, came none (the lowest is "
            f"{f'{classes[0].name} with {classes[0].iou:.1%}' if classes else 'of no labelled class'}); name classes"
        )
    return names


def _is_name(text: str) -> bool:
    """Whether a text names a class: it is no report."""
    path = Path(text)
    return not (path.suffix == ".json" or (path.is_dir() and ("/" in text or (path / "results.json").is_file())))
