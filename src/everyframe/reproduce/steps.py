"""The commands of rows with members: models of other rows joined, or one of them scored once more."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everyframe.data.held_out import HALVES
from everyframe.reproduce.experiment import PRIOR, Row


@dataclass(frozen=True)
class Step:
    """One command of a cell.

    Attributes:
        name: "train", "evaluate", "cost", those of `SUBSETS`; of joined models "join", or "choose first", "choose
            second", "join second" and "join first", and "evaluate"; of one that is scored once more "count".
        words: the command behind `everyframe`.
        produces: file whose presence says that it reached its end: training ends with status 0 after SIGTERM too.
    """

    name: str
    words: tuple[str, ...]
    produces: Path

    def __str__(self) -> str:
        return shlex.join(["everyframe", *self.words])


def joined_steps(
    row: Row, folder: Path, members: Sequence[tuple[Path, Mapping[str, Any]]], scored: Sequence[str]
) -> tuple[Step, ...]:
    """Return the commands of a row with members.

    What is chosen (the weight of two models, the say of specialists) is chosen on one half of the videos and used on
    the other, both ways, so that every video is scored by a choice that it had no part in.

    Args:
        row: says how they are joined.
        folder: of the cell.
        members: each one's model, the row's own last where it trains one, and how it looks at a frame, see `Row.look`.
        scored: the words that name data and split.
    """
    report, labels = folder / "report", folder / "labels"
    done = report / "results.json"
    models = [as_member(model, look) for model, look in members]
    run = ("ensemble", "run", *models, *scored, "--quiet", "--out", str(labels))
    together = Step("evaluate", ("evaluate", "--pred", str(labels), *scored, "--out", str(report)), done)
    if row.join in CHOICES:
        action, more, option, file = CHOICES[row.join]
        choose = ("ensemble", action, *models, *more, *scored, "--quiet")
        found = {half: folder / f"{action}-{half}" / file for half in HALVES}
        chosen = [
            Step(f"choose {half}", (*choose, "--half", half, "--out", str(path.parent)), path)
            for half, path in found.items()
        ]
        used = [
            Step(f"join {half}", (*run, "--half", half, option, str(found[other])), labels / f"results-{half}.json")
            for half, other in (HALVES[::-1], HALVES)
        ]
        return (*chosen, *used, together)
    if row.join:
        return (Step("join", (*run, "--method", row.join), labels / "results.json"), together)
    model, look = members[0]
    counted = folder / "labels.json"
    views = tuple(str(counted) if word == PRIOR else word for word in row.views)
    count = Step("count", ("data", "check", scored[1], "--split", "train", "--json", str(counted)), counted)
    again = ("evaluate", "--model", str(model), *scored, "--out", str(report), *look_words(look), *views)
    return (*([count] if PRIOR in row.views else []), Step("evaluate", again, done))


CHOICES: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "soft": ("sweep", (), "--tau-from", "sweep.json"),
    "specialists": ("specialists", ("--below", "0.3"), "--specialists-from", "specialists.json"),
}
"""Join -> action of `everyframe ensemble` that chooses, its options, the option of `run` that takes what it wrote."""


def look_words(look: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how a model looks at a frame as words of `everyframe evaluate`."""
    return tuple(word for name, value in look.items() for word in (f"--{name}", *map(str, _sides(value))))


def as_member(model: Path, look: Mapping[str, Any]) -> str:
    """Return a model and how it looks at a frame as a member of `everyframe ensemble`."""
    settings = ",".join(f"{name}={'x'.join(map(str, _sides(value)))}" for name, value in look.items())
    return f"{model}@{settings}" if settings else str(model)


def _sides(value: Any) -> Iterator[Any]:
    yield from value if isinstance(value, tuple) else (value,)
