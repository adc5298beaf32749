"""Cells that another grid has finished with the same commands: taken over instead of trained again.

SSLTM from one label per video is trained once for `table1`, `stt`, `gcc`, `noisy-reference` and
`mean-teacher-vs-iterative`; what they measure beyond that they measure themselves. A folder of results gives models and
reports; a published `table.json` gives the figures of whole cells alone, so that a table can be extended on another
machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everyframe.errors import InputError
from everyframe.files import copy_whole
from everyframe.reproduce.plan import Cell, anywhere, cell_key
from everyframe.reproduce.steps import Step


@dataclass(frozen=True)
class Finished:
    """A cell of another grid.

    Attributes:
        folder: of the cell.
        record: its `cell.json`.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def commands(self) -> dict[str, str]:
        """Step -> command of those that reached their end, see `plan.anywhere`."""
        commands = self.record["commands"]
        return {
            step: command
            for step, command in zip(commands, anywhere(commands.values()), strict=True)
            if step in self.record["done"]
        }


@dataclass
class Reuse:
    """Finished cells of other grids, found by the command of their training.

    Args:
        sources: results of other grids: a folder (`--out` of `everyframe reproduce`), or a `table.json`.

    Raises:
        InputError: a source holds no grid.
    """

    sources: Iterable[Path]
    published: dict[str, dict[str, float]] = field(init=False, default_factory=dict)
    """`plan.cell_key` -> figures of the cell, from tables."""
    _cells: dict[str, Finished] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for folder in map(Path, self.sources):
            if folder.is_file():
                self.published = {**published_figures(folder), **self.published}
                continue
            if not (folder / "cells").is_dir():
                raise InputError(
                    f"reuse: expected a folder that `everyframe reproduce` wrote, or the table.json of one, found "
                    f"none at {folder}"
                )
            for path in sorted(folder.glob("cells/*/*/cell.json")):
                cell = Finished(path.parent, json.loads(path.read_text(encoding="utf-8")))
                if "train" in cell.commands:
                    self._cells.setdefault(cell.commands["train"], cell)

    def figures(self, cell: Cell) -> dict[str, float] | None:
        """Return a cell's figures from a table; None where there are none, or a folder has the trained model."""
        return None if self._twin(cell) is not None else self.published.get(cell_key(cell))

    def _twin(self, cell: Cell) -> Finished | None:
        return self._cells.get(anywhere(map(str, cell.steps))[0])

    def covered(self, cell: Cell) -> list[Step]:
        """Return the first steps of a cell whose results another cell has, made by the same commands."""
        other = self._twin(cell)
        if other is None or other.folder == cell.folder:
            return []
        steps: list[Step] = []
        for step, command in zip(cell.steps, anywhere(map(str, cell.steps)), strict=True):
            made = other.folder / step.produces.relative_to(cell.folder)
            if other.commands.get(step.name) != command or not made.exists():
                break
            steps.append(step)
        return steps

    def take(self, cell: Cell) -> tuple[list[str], dict[str, float]]:
        """Copy what `covered` names into a cell.

        Returns:
            The names of the steps that need not run, and their seconds of then.
        """
        steps, other = self.covered(cell), self._twin(cell)
        if other is None:
            return [], {}
        for step in steps:
            part = step.produces.relative_to(cell.folder).parts[0]
            copy_whole(other.folder / part, cell.folder / part)
        then = other.record["seconds"]
        return [step.name for step in steps], {step.name: float(then.get(step.name, 0.0)) for step in steps}


def published_figures(path: Path) -> dict[str, dict[str, float]]:
    """Read the figures of all cells of a `table.json`, by the digest of their commands.

    Raises:
        InputError: the file is no such table.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return {key: row["seeds"][seed] for row in rows for seed, key in row["keys"].items()}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        raise InputError(f"reuse: expected a table.json of `everyframe reproduce`, came another file: {path}") from None
