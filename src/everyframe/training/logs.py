"""The scalars of a run as CSV files that survive being resumed."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from everyframe.files import whole_file

Row = dict[str, str]


def log_interval(trainer: Trainer) -> int:
    """Return how many optimiser steps lie between two rows of the logs."""
    return trainer.log_every_n_steps  # type: ignore[attr-defined]  # a connector of Lightning's sets it, undeclared


class CsvTable:
    """A CSV file with a column `step` that grows by rows and, where needed, by columns.

    Rows are written as they come, so that the file can be watched. A row of step s replaces all rows of that step and
    later ones that an earlier life of the run had written. The first row after opening writes the file anew, without
    what a crash left of a row: later ones would be glued to it.

    Args:
        path: of the file; read when it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[Row] = []
        self._columns: list[str] = []
        self._opened = False
        if path.exists():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                reader = csv.DictReader(line for line in file if line.endswith(("\r", "\n")))
                self._columns = list(reader.fieldnames or ())
                self._rows = [row for row in reader if _is_whole(row)]

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a row."""
        row = {"step": str(step), **{name: _plain(value) for name, value in values.items()}}
        new_columns = [name for name in row if name not in self._columns]
        again = any(int(old["step"]) >= step for old in (self._rows[-1:] if self._opened else self._rows))
        if again:
            self._rows = [old for old in self._rows if int(old["step"]) < step]
        self._columns += new_columns
        self._rows.append(row)
        if again or new_columns or not self._opened or not self.path.exists():
            self._rewrite()
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(row)
        self._opened = True

    def _rewrite(self) -> None:
        """Replace the file as a whole: a crash while writing leaves the one before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)


class CsvLogger(Logger):
    """Writes what a run logs into `train.csv` (losses, learning rates, speed) and `val.csv` (scores).

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._tables: dict[str, CsvTable] = {}

    @property
    def name(self) -> str:
        """Of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one per run folder."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the whole configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row to the tables that the names belong to ("val/..." or not)."""
        for table, names in (
            ("val", [n for n in metrics if n.startswith("val/")]),
            ("train", [n for n in metrics if not n.startswith("val/") and n != "epoch"]),
        ):
            if names:
                if table not in self._tables:
                    self._tables[table] = CsvTable(self.folder / f"{table}.csv")
                values = {name.removeprefix(f"{table}/"): metrics[name] for name in names}
                self._tables[table].append(step or 0, values)


class EventLogger(TensorBoardLogger):
    """TensorBoard's event files in a folder, without Lightning's file of hyperparameters: `config.yaml` holds them.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="")

    @rank_zero_only
    def save(self) -> None:
        """Write what is still in memory."""
        self.experiment.flush()


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    """Whether a row that was read has a step and one value per column."""
    return None not in row and None not in row.values() and str(row.get("step", "")).isdecimal()


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
