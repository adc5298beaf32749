"""Class lists (`tables/*.csv`) that come with the package, as data."""

from __future__ import annotations

import csv
from importlib.resources import files

from everyframe.labels import Color


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of `data/tables/NAME.csv`."""
    text = files("everyframe.data").joinpath("tables", f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def color_of(row: dict[str, str]) -> Color:
    """Return the colour in the columns red, green, blue."""
    return int(row["red"]), int(row["green"]), int(row["blue"])
