"""What lies on disk of a grid: a record per cell, and what the folder belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from everyframe.errors import InputError
from everyframe.files import write_whole
from everyframe.reproduce.plan import Cell, anywhere, cell_key


@dataclass
class CellRecord:
    """`cell.json`: how far a cell is.

    Attributes:
        label: of the row.
        seed: of the cell.
        status: "running" also stands in the record of a cell that was stopped or killed.
        done: names of the steps that reached their end.
        seconds: step -> wall time in all lives of the grid together.
        commands: step -> the exact command.
        message: of a failed cell, the last lines of its output.
        figures: of a cell that a published table has; no files lie beside its record then.
        key: `plan.cell_key` of the commands that made its figures.
    """

    label: str
    seed: int
    status: Literal["missing", "running", "done", "failed"] = "missing"
    done: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    message: str = ""
    figures: dict[str, float] | None = None
    key: str = ""

    def write(self, folder: Path) -> None:
        """Replace the file as a whole."""
        write_whole(folder / "cell.json", json.dumps(asdict(self), indent=1) + "\n")


def read_record(cell: Cell) -> CellRecord:
    """Read a cell's record; a fresh one where there is none, or where a kill left half of one."""
    try:
        return CellRecord(**json.loads((cell.folder / "cell.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return CellRecord(cell.row.label, cell.seed)


def check_commands(cells: Iterable[Cell]) -> None:
    """See that what lies in the folders of cells was made by the commands of today; they change with the versions.

    Raises:
        InputError: a cell is done, or its training has begun, with other commands: its figures would be averaged with
            those of the present ones.
    """
    for cell in cells:
        record = read_record(cell)
        if record.figures is not None and record.key not in ("", cell_key(cell)):
            raise _other_commands(cell, "figures of a published table")
        then = dict(zip(record.commands, anywhere(record.commands.values()), strict=True))
        now = {step.name: command for step, command in zip(cell.steps, anywhere(map(str, cell.steps)), strict=True)}
        for name in {*record.done, *({"train"} & record.seconds.keys())}:  # a training goes on from its checkpoint
            if name in now and then.get(name, now[name]) != now[name]:
                raise _other_commands(cell, f"{then[name]!r} there, {now[name]!r} now")


def _other_commands(cell: Cell, what: str) -> InputError:
    return InputError(
        f"{cell.folder}: expected results of the commands of today, came others ({what}); choose another --out, or "
        f"remove the folder to run this cell anew"
    )


def check_identity(path: Path, identity: Mapping[str, Any]) -> None:
    """Write what a grid is, or compare with what is written.

    Raises:
        InputError: the folder holds another grid.
    """
    if not path.exists():
        write_whole(path, json.dumps(identity, indent=1) + "\n")
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        there = {}
    differ = [key for key in {**there, **identity} if there.get(key) != identity.get(key)]
    if differ:
        shown = "; ".join(f"{key} {there.get(key)!r} there, {identity.get(key)!r} now" for key in differ)
        raise InputError(f"{path.parent} holds another grid ({shown}); use the same options, or choose another --out")
