"""Class lists (`tables/*.csv`) and class mappings (`mappings/*.csv`) that come with the package, as data."""

from __future__ import annotations

import csv
from importlib.resources import files

from everyframe.labels import Color


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of `data/tables/NAME.csv`."""
    return _rows("tables", name)


def read_mapping(name: str) -> dict[int, int]:
    """Return `data/mappings/NAME.csv` as source train id -> target train id; classes without a target are left out.

    Fits `LabelSpace.mapped`.
    """
    return {int(row[0]): int(row[2]) for row in (tuple(r.values()) for r in _rows("mappings", name)) if row[2]}


def color_of(row: dict[str, str]) -> Color:
    """Return the colour in the columns red, green, blue."""
    return int(row["red"]), int(row["green"]), int(row["blue"])


def _rows(folder: str, name: str) -> list[dict[str, str]]:
    text = files("everyframe.data").joinpath(folder, f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
