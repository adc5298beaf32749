"""What is left of a grid: the one place that decides it, for a run and for its dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from everyframe.reproduce.plan import Cell
from everyframe.reproduce.records import CellRecord, read_record
from everyframe.reproduce.reuse import Reuse
from everyframe.reproduce.steps import Step


@dataclass(frozen=True)
class Left:
    """What is left of a cell that is not done.

    Attributes:
        figures: of a published table; they are taken, and nothing is run.
        taken: first steps whose results another grid has.
        steps: to run; none where only the end was not recorded.
    """

    figures: dict[str, float] | None = None
    taken: Sequence[Step] = ()
    steps: Sequence[Step] = ()


@dataclass
class Outlook:
    """Tells of each cell of a grid what is left of it, by what lies on disk when it is asked.

    Args:
        cells: of the grid, those that are to run.
        known: results of other grids.
    """

    cells: Sequence[Cell]
    known: Reuse
    _asked: set[tuple[str, int]] = field(init=False)
    """Label and seed of cells that unfinished ones join or imitate; their figures do not do, the models are needed."""

    def __post_init__(self) -> None:
        self._asked = {
            (label, cell.seed)
            for cell in self.cells
            if cell.row.asks and self.known.figures(cell) is None and read_record(cell).status != "done"
            for label in cell.row.asks
        }

    def left(self, cell: Cell, record: CellRecord) -> Left | None:
        """Return what is left of a cell; None where it is done.

        Args:
            cell: one of the grid.
            record: of the cell, as it is now.
        """
        figures_do = (cell.row.label, cell.seed) not in self._asked
        there = [step for step in cell.steps if step.name in record.done and step.produces.exists()]
        complete = len(there) == len(cell.steps) if record.figures is None else figures_do
        if record.status == "done" and complete:
            return None
        if figures_do and not record.seconds and (figures := self.known.figures(cell)) is not None:
            return Left(figures=figures)
        taken = [] if record.done else self.known.covered(cell)
        return Left(taken=taken, steps=[step for step in cell.steps if step not in [*there, *taken]])


def missing(cells: Sequence[Cell], reuse: Sequence[Path] = ()) -> list[tuple[Cell, Sequence[Step]]]:
    """Return the cells that are not done, each with the steps that `run_grid` would run of it.

    Args:
        cells: what `plan` returned.
        reuse: results of other grids.

    Raises:
        InputError: a source of `reuse` holds no grid.
    """
    outlook = Outlook(cells, Reuse(reuse))
    left = ((cell, outlook.left(cell, read_record(cell))) for cell in cells)
    return [(cell, rest.steps) for cell, rest in left if rest is not None and rest.figures is None]
