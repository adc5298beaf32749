"""Class lists (`tables/*.csv`) and class mappings (`mappings/*.csv`) that come with the package, as data."""

from __future__ import annotations

import csv
from importlib.resources import files

from everyframe.labels import Color, LabelSpace


def read_table(name: str) -> list[dict[str, str]]:
    """Return the rows of `data/tables/NAME.csv`."""
    return _rows("tables", name)


def read_mapping(name: str, source: LabelSpace, target: LabelSpace) -> dict[int, int]:
    """Return `data/mappings/NAME.csv` as source train id -> target train id, which is what `LabelSpace.mapped` takes.

    Classes are matched by name, because the ids in the files are raw ids for some sources and train ids for others.
    Classes without a target are left out.

    Raises:
        KeyError: the file names a class that `source` or `target` does not have.
    """
    rows = [tuple(row.values()) for row in _rows("mappings", name)]
    source_ids, target_ids = ({n: i for i, n in enumerate(space.names)} for space in (source, target))
    return {source_ids[row[1]]: target_ids[row[3]] for row in rows if row[3]}


def color_of(row: dict[str, str]) -> Color:
    """Return the colour in the columns red, green, blue."""
    return int(row["red"]), int(row["green"]), int(row["blue"])


def _rows(folder: str, name: str) -> list[dict[str, str]]:
    text = files("everyframe.data").joinpath(folder, f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
