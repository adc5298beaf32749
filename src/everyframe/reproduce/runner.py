"""Run what is missing of a grid: every command a process of its own, every cell a record on disk.

A cell that is stopped or killed goes on at the command it was in (and training at its last checkpoint); one that fails
is recorded, the others go on, and the next call tries it again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from everyframe.claim import claim
from everyframe.reproduce.left import Left, Outlook
from everyframe.reproduce.plan import Cell, Setting, cell_key, prepare
from everyframe.reproduce.records import CellRecord, check_commands, check_identity, read_record
from everyframe.reproduce.reuse import Reuse
from everyframe.reproduce.steps import Step

PROGRAM = (sys.executable, "-m", "everyframe.cli")
"""What runs the words of a step."""
HEARTBEAT = 5.0
"""Seconds between two notes of the time spent: what a kill may lose of it."""
LAST_LINES = 3
"""Lines of a failed command's output that are recorded."""


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
        outlook = Outlook(cells, known)
        worker = _Worker(setting, tuple(program), max(1, jobs), held, known, asked, say)

        def work(cell: Cell) -> None:
            record = read_record(cell)
            left = outlook.left(cell, record)
            if left is None or asked():
                return
            if left.figures is not None:
                worker.publish(cell, record, left.figures)
            elif absent := [other for other in cell.asks if other.steps[0].name not in read_record(other).done]:
                worker.refuse(cell, record, absent)
            else:
                worker.run(cell, record, left)
            with one_at_a_time:
                changed(record)

        with ThreadPoolExecutor(max(1, jobs)) as pool:
            for asks in (False, True):  # models are joined and imitated once all are there
                list(pool.map(work, [cell for cell in cells if bool(cell.row.asks) == asks]))
        return [read_record(cell) for cell in cells]


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

    def publish(self, cell: Cell, record: CellRecord, figures: dict[str, float]) -> None:
        """Take the figures of a published table."""
        record.status, record.figures, record.key = "done", figures, cell_key(cell)
        cell.folder.mkdir(parents=True, exist_ok=True)
        record.write(cell.folder)
        self.say(f"{cell.row.label}, seed {cell.seed}: figures of a published table")

    def refuse(self, cell: Cell, record: CellRecord, absent: Sequence[Cell]) -> None:
        """Record that models are not trained: half-trained ones are neither joined nor imitated."""
        labels = ", ".join(other.row.label for other in absent)
        record.status, record.message = "failed", f"{labels}, seed {cell.seed}: not trained yet"
        cell.folder.mkdir(parents=True, exist_ok=True)
        record.write(cell.folder)
        self.say(f"{cell.row.label}, seed {cell.seed}: failed: {record.message}")

    def run(self, cell: Cell, record: CellRecord, left: Left) -> None:
        """Take what another grid has, and run the steps that are missing."""
        cell.folder.mkdir(parents=True, exist_ok=True)
        record.status, record.message, record.figures, record.key = "running", "", None, cell_key(cell)
        record.commands = {step.name: str(step) for step in cell.steps}
        if left.taken:
            record.done, seconds = self.reuse.take(cell)
            record.seconds |= seconds
        for step in left.steps:
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


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return " | ".join([line for line in lines if line and not line.startswith("$ ")][-LAST_LINES:])[-500:]
