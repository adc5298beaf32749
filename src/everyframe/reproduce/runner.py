"""Run what is missing of a grid: every command a process of its own, every cell a record on disk.

A cell that is stopped or killed goes on at the command it was in (and training at its last checkpoint); one that fails
is recorded, the others go on, and the next call tries it again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from everyframe.claim import claim
from everyframe.errors import InputError
from everyframe.files import write_whole
from everyframe.reproduce.plan import Cell, Setting, anywhere, cell_key, prepare
from everyframe.reproduce.reuse import Reuse
from everyframe.reproduce.steps import Step

PROGRAM = (sys.executable, "-m", "everyframe.cli")
"""What runs the words of a step."""
HEARTBEAT = 5.0
"""Seconds between two notes of the time spent: what a kill may lose of it."""
LAST_LINES = 3
"""Lines of a failed command's output that are recorded."""


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


def run_grid(
    setting: Setting,
    cells: Sequence[Cell],
    *,
    program: Sequence[str] = PROGRAM,
    jobs: int = 1,
    reuse: Sequence[Path] = (),
    asked: Callable[[], object] = lambda: None,
    changed: Callable[[CellRecord], None] = lambda record: None,
    say: Callable[[str], None] = print,
) -> list[CellRecord]:
    """Run all cells that are not done.

    Args:
        setting: of the grid.
        cells: what `plan` returned.
        program: what the words of a step are given to.
        jobs: cells at a time; the processor's threads are shared among them.
        reuse: results of other grids, whose cells are taken over where the commands are the same, see `Reuse`.
        asked: whether a signal asks to stop; commands under way are then told to, and finish in good order.
        changed: called after each cell, one call at a time.
        say: takes lines of progress, commands among them.

    Returns:
        The records in the order of `cells`.

    Raises:
        InputError: the folder belongs to another grid, or another process is at work in it.
    """
    with claim(setting.out, "reproduce") as held:
        check_identity(setting.out / "grid.json", setting.identity())
        check_commands(cells)
        one_at_a_time = threading.Lock()
        known = Reuse(reuse)
        worker = _Worker(setting, tuple(program), max(1, jobs), held, known, asked, say)
        joined = _joined(cells, known)

        def work(cell: Cell) -> CellRecord:
            before = read_record(cell)
            figures_do = _of(cell) not in joined
            if asked() or (before.status == "done" and _complete(cell, before, figures_do)):
                return before
            record = (figures_do and worker.publish(cell, before)) or worker.run(cell, before)
            with one_at_a_time:
                changed(record)
            return record

        with ThreadPoolExecutor(max(1, jobs)) as pool:
            for of_several in (False, True):  # models are joined once all are there
                list(pool.map(work, [cell for cell in cells if bool(cell.row.members) == of_several]))
        return [read_record(cell) for cell in cells]


def missing(cells: Sequence[Cell], reuse: Sequence[Path] = ()) -> list[tuple[Cell, list[Step]]]:
    """Return what `run_grid` would run: the cells that are not done, each with the steps that are left of it.

    Args:
        cells: what `plan` returned.
        reuse: results of other grids.

    Raises:
        InputError: a source of `reuse` holds no grid.
    """
    known = Reuse(reuse)
    joined, left = _joined(cells, known), []
    for cell in cells:
        record, figures_do = read_record(cell), _of(cell) not in joined
        published = figures_do and not record.seconds and known.figures(cell) is not None
        if published or (record.status == "done" and _complete(cell, record, figures_do)):
            continue
        there = [step for step in cell.steps if step.name in record.done and step.produces.exists()]
        there += [] if record.done else known.covered(cell)
        left.append((cell, [step for step in cell.steps if step not in there]))
    return left


def _joined(cells: Sequence[Cell], known: Reuse) -> set[tuple[str, int]]:
    """Return the cells that ensembles join which are not done: of these figures do not do, the models are needed."""
    return {
        (label, cell.seed)
        for cell in cells
        if cell.row.members and known.figures(cell) is None and read_record(cell).status != "done"
        for label in cell.row.members
    }


def _of(cell: Cell) -> tuple[str, int]:
    return cell.row.label, cell.seed


@dataclass(frozen=True)
class _Worker:
    """Runs one cell."""

    setting: Setting
    program: tuple[str, ...]
    jobs: int
    held: tuple[int, ...]
    reuse: Reuse
    asked: Callable[[], object]
    say: Callable[[str], None]

    def publish(self, cell: Cell, record: CellRecord) -> CellRecord | None:
        """Take the figures of a cell that nothing was run of from a published table; None where it is in none."""
        figures = self.reuse.figures(cell)
        if figures is None or record.seconds:
            return None
        record.status, record.figures, record.key = "done", figures, cell_key(cell)
        cell.folder.mkdir(parents=True, exist_ok=True)
        record.write(cell.folder)
        self.say(f"{cell.row.label}, seed {cell.seed}: figures of a published table")
        return record

    def run(self, cell: Cell, record: CellRecord) -> CellRecord:
        """Run the steps that are missing."""
        cell.folder.mkdir(parents=True, exist_ok=True)
        record.status, record.message, record.figures, record.key = "running", "", None, cell_key(cell)
        record.commands = {step.name: str(step) for step in cell.steps}
        if not record.done:
            record.done, seconds = self.reuse.take(cell)
            record.seconds |= seconds
        for step in cell.steps:
            if step.name in record.done and step.produces.exists():
                continue
            self.say(f"$ {step}")
            try:
                prepare(cell, step, self.setting.compared)
                status = self._command(cell, step, record)
            except OSError as error:
                record.status, record.message = "failed", f"{step.name}: {error}"
            else:
                if status == 0 and step.produces.exists():
                    record.done = [*(name for name in record.done if name != step.name), step.name]
                elif not self.asked():
                    ended = f"ended with status {status}" if status else f"did not write {step.produces.name}"
                    record.status = "failed"
                    record.message = f"{step.name} {ended}: {_tail(cell.folder / 'log.txt')}"
            record.write(cell.folder)
            if record.status == "failed" or self.asked():
                break
        else:
            record.status = "done"
            for checkpoints in (cell.folder / "run").rglob("checkpoints"):  # ten times the model, which stays
                shutil.rmtree(checkpoints, ignore_errors=True)
            record.write(cell.folder)
        spent = sum(record.seconds.values()) / 60
        message = f": {record.message}" if record.message else ""
        self.say(f"{cell.row.label}, seed {cell.seed}: {record.status}, {spent:.1f} minutes{message}")
        return record

    def _command(self, cell: Cell, step: Step, record: CellRecord) -> int:
        """Run a step and note the time it takes; returns its exit status."""
        spent, start = record.seconds.get(step.name, 0.0), time.monotonic()
        with (cell.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ {step}\n")
            log.flush()
            # A session of its own: Ctrl-C reaches it through us, once.
            process = subprocess.Popen(
                [*self.program, *step.words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                pass_fds=self.held,
                start_new_session=True,
            )
            told, noted = False, float("-inf")
            while process.poll() is None:
                if time.monotonic() - noted >= HEARTBEAT:
                    noted = time.monotonic()
                    record.seconds[step.name] = spent + noted - start
                    record.write(cell.folder)
                if self.asked() and not told:
                    process.terminate()
                    told = True
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
        record.seconds[step.name] = spent + time.monotonic() - start
        return process.returncode

    def _environment(self) -> dict[str, str]:
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        return {"OMP_NUM_THREADS": str(threads), **os.environ} if self.jobs > 1 else dict(os.environ)


def _complete(cell: Cell, record: CellRecord, figures_do: bool) -> bool:
    if record.figures is not None:
        return figures_do
    return all(step.name in record.done and step.produces.exists() for step in cell.steps)


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return " | ".join([line for line in lines if line and not line.startswith("$ ")][-LAST_LINES:])[-500:]


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
