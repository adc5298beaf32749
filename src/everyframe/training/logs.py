"""The scalars of a run as CSV files that survive being resumed."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

Row = dict[str, str]


class CsvTable:
    """A CSV file with a column `step` that grows by rows and, where needed, by columns.

    Rows are written as they come, so that the file can be watched and is whole after a crash. A row of step s replaces
    all rows of that step and later ones that an earlier life of the run had written.

    Args:
        path: of the file; read when it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[Row] = []
        self._columns: list[str] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or ())
                self._rows = list(reader)

    def append(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a row."""
        row = {"step": str(step), **{name: _plain(value) for name, value in values.items()}}
        kept = [old for old in self._rows if int(old["step"]) < step]
        new_columns = [name for name in row if name not in self._columns]
        whole = len(kept) < len(self._rows) or bool(new_columns) or not self.path.exists()
        self._columns += new_columns
        self._rows = [*kept, row]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(self._rows if whole else [row], "w" if whole else "a")

    def _write(self, rows: Iterable[Row], mode: str) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)


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


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
