"""Class mappings: which class of a source data set is which class of a target, as CSV files.

    source_id,source_name,target_id,target_name
    0,person,60,person
    1,skis,,                                      no target: these pixels become 255

A row needs one source column and one target column; "target" may have another name (vspw_id, vspw_name). Names decide
where they stand; ids alone are train ids, positions in the list of classes from 0. Classes without a row or without a
target are ignored.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from everyframe.errors import InputError, writing
from everyframe.labels import LabelSpace, match_names

PAIRS = {
    ("coco_stuff", "vspw"): "coco_stuff_to_vspw",
    ("coco_stuff", "vspw480"): "coco_stuff_to_vspw",
    ("ade20k", "vspw"): "ade20k_to_vspw",
    ("ade20k", "vspw480"): "ade20k_to_vspw",
    ("mapillary", "cityscapes"): "mapillary_to_cityscapes",
    ("mapillary", "cityscapes_sequence"): "mapillary_to_cityscapes",
    ("camvid32", "camvid"): "camvid32_to_camvid11",
}
"""(source layout, target layout) -> name of the mapping in `data/mappings` that is taken unless another is given."""

EQUAL_NAMES = "names"
"""Instead of a file: classes of equal names are the same class."""

Table = dict[int, int]
"""Source train id -> target train id, which is what `LabelSpace.mapped` takes."""


def packaged(name: str) -> Path:
    """Return the file of a mapping that comes with the package."""
    return Path(str(files("everyframe.data") / "mappings" / f"{name}.csv"))


def read_mapping(path: str | Path, source: LabelSpace, target: LabelSpace) -> Table:
    """Read a mapping.

    Args:
        path: CSV file as above, or the name of one in `data/mappings`.
        source: the classes to map from.
        target: the classes to map to.

    Raises:
        InputError: no such file or columns, a class that is not there, or one that is mapped twice.
    """
    path = packaged(str(path)) if packaged(str(path)).is_file() else Path(path)
    table: Table = {}
    for line, (from_id, from_name, to_id, to_name) in _rows(path):
        if not to_id and not to_name:
            continue  # also of classes that the source does not have, such as ids that no picture uses
        where = f"{path}:{line}"
        found, wanted = _find(source, from_id, from_name, where), _find(target, to_id, to_name, where)
        if table.setdefault(found, wanted) != wanted:
            raise InputError(f"{where}: expected one target for {source.names[found]!r}, came two; remove one row")
    if not table:
        raise InputError(f"{path}: expected at least one class with a target, came none; fill in the target columns")
    return table


def mapping_between(
    source: tuple[str, LabelSpace], target: tuple[str, LabelSpace], mapping: str | Path | None = None
) -> Table:
    """Return how the classes of one data set become those of another.

    Args:
        source: layout and classes to map from.
        target: layout and classes to map to.
        mapping: CSV file, name of a packaged one, or "names"; None: equal classes stay as they are, known pairs of
            layouts take theirs from `PAIRS`.

    Raises:
        InputError: the mapping cannot be read, or none is given where one is needed.
    """
    (source_layout, here), (target_layout, there) = source, target
    if mapping is not None and str(mapping) != EQUAL_NAMES:
        return read_mapping(mapping, here, there)
    if here.names == there.names:
        return {i: i for i in range(len(here))}
    if mapping is not None:
        return _shared(here, there)
    known = PAIRS.get((source_layout, target_layout))
    # Both layouts also hold data sets with classes of their own, which the published names do not fit.
    if known is not None and _fits(known, there):
        return read_mapping(known, here, there)
    raise InputError(
        f"{source_layout} -> {target_layout}: expected a mapping from its {len(here)} classes "
        f"({', '.join(here.names[:3])}…) onto the {len(there)} of the target ({', '.join(there.names[:3])}…), came "
        f"none; give mapping: FILE.csv, or mapping: {EQUAL_NAMES} (`everyframe data map` writes one to start from)"
    )


def equal_names(source: LabelSpace, target: LabelSpace) -> Table:
    """Map classes of equal names, and of names that differ only in spelling, see `match_names`."""
    return match_names(source.names, target.names)


def write_mapping(path: str | Path, source: LabelSpace, target: LabelSpace, table: Mapping[int, int]) -> None:
    """Write a mapping as CSV, a row for every class of the source, for people to go on with.

    Raises:
        InputError: the file cannot be written.
    """
    with writing(path), Path(path).open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["source_id", "source_name", "target_id", "target_name"])
        for i, name in enumerate(source.names):
            rows.writerow([i, name, table.get(i, ""), target.names[table[i]] if i in table else ""])


@dataclass(frozen=True)
class Coverage:
    """What a mapping covers.

    Attributes:
        source: the classes to map from.
        target: the classes to map to.
        table: the mapping.
    """

    source: LabelSpace
    target: LabelSpace
    table: Mapping[int, int]

    @property
    def unmapped(self) -> list[str]:
        """Classes of the source that become ignore."""
        return [name for i, name in enumerate(self.source.names) if i not in self.table]

    @property
    def reached(self) -> set[int]:
        """Train ids of the target that some class of the source becomes."""
        return set(self.table.values())


def unreached(coverages: Iterable[Coverage], target: LabelSpace) -> list[str]:
    """Classes of the target that none of some sources has."""
    reached = set().union(*(coverage.reached for coverage in coverages))
    return [name for i, name in enumerate(target.names) if i not in reached]


# -- rows and classes ------------------------------------------------------------------------------------------------


def _rows(path: Path) -> list[tuple[int, tuple[str, str, str, str]]]:
    """Read (line, (source id, source name, target id, target name)); "" for what is not there."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            columns = _columns(path, reader.fieldnames)
            rows: list[tuple[int, tuple[str, str, str, str]]] = []
            for row in reader:
                from_id, from_name, to_id, to_name = ((row.get(column) or "").strip() for column in columns)
                rows.append((reader.line_num, (from_id, from_name, to_id, to_name)))
            return rows
    except FileNotFoundError:
        raise InputError(f"{path}: expected a mapping (CSV), found no file; check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a mapping (CSV, UTF-8), came {error}; save it again") from None


def _columns(path: Path, header: Iterable[str]) -> tuple[str, str, str, str]:
    names = set(header) - {""}
    targets = {name.rsplit("_", 1)[0] for name in names if name.endswith(("_id", "_name"))} - {"source"}
    if not names & {"source_id", "source_name"} or len(targets) != 1:
        raise InputError(
            f"{path}: expected columns source_id or source_name, and target_id or target_name, came "
            f"{', '.join(sorted(names)) or 'none'}; write them into the first line"
        )
    (target,) = targets
    return "source_id", "source_name", f"{target}_id", f"{target}_name"


def _find(space: LabelSpace, number: str, name: str, where: str) -> int:
    if name:
        if name in space.names:
            return space.names.index(name)
        near = difflib.get_close_matches(name, space.names, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "correct the name, or remove the row"
        raise InputError(f"{where}: expected one of the {len(space)} classes, came {name!r}; {hint}")
    if number.isdecimal() and int(number) < len(space):
        return int(number)
    raise InputError(
        f"{where}: expected a train id 0..{len(space) - 1} or a class name, came {number!r}; names are the safer choice"
    )


def _fits(name: str, target: LabelSpace) -> bool:
    return {row[3] for _, row in _rows(packaged(name)) if row[3]} <= set(target.names)


def _shared(source: LabelSpace, target: LabelSpace) -> Table:
    table = equal_names(source, target)
    if not table:
        raise InputError(
            f"mapping: expected classes of equal names, came {', '.join(source.names[:3])}… and "
            f"{', '.join(target.names[:3])}…; give a CSV file"
        )
    return table
