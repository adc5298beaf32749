"""Which classes a converted model has, and which published classes become them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from everyframe.data.classes import read_classes
from everyframe.data.layouts import CLASSES
from everyframe.data.mapping import PAIRS, equal_names, read_mapping
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.convert.design import Reading
from everyframe.models.convert.source import Source


@dataclass(frozen=True, slots=True)
class Wanted:
    """Classes of the model to be saved.

    Attributes:
        space: the classes.
        table: published class -> class; None where they stay as they are.
        notes: sentences for the report.
    """

    space: LabelSpace
    table: dict[int, int] | None = None
    notes: list[str] = field(default_factory=list)


def wanted_classes(
    source: Source,
    reading: Reading,
    classes: str | Path | LabelSpace | None,
    mapping: str | Path | None,
    source_classes: str | Path | LabelSpace | None,
) -> Wanted:
    """Return the classes of the model, and how the published ones become them.

    Args:
        source: the file.
        reading: which model it holds.
        classes: see `everyframe.convert.convert.convert`.
        mapping: likewise.
        source_classes: likewise.

    Raises:
        InputError: classes or mapping cannot be read, or do not fit the file.
    """
    if classes is None and (mapping is not None or reading.classes is None):
        what = "--mapping maps onto the classes of --classes" if mapping is not None else "a backbone has no classes"
        raise InputError(f"{source.name}: {what}: give --classes (a file, or one of {', '.join(CLASSES)})")
    if reading.classes is None:
        assert classes is not None, "refused above"
        return Wanted(read_space(classes))
    before, name, notes = _published_classes(source, reading, source_classes)
    if classes is None:
        return Wanted(before, None, notes)
    wanted = read_space(classes)
    if mapping is not None:
        return Wanted(wanted, read_mapping(mapping, before, wanted), notes)
    if wanted.names == before.names:
        return Wanted(wanted, None, notes)
    packaged = PAIRS.get((name or "", _data_set(wanted) or ""))
    if packaged is not None:
        return Wanted(wanted, read_mapping(packaged, before, wanted), [f"classes mapped by {packaged}"])
    unnamed = source.names is None and source_classes is None and reading.labels is None
    if unnamed and len(wanted) == len(before):
        return Wanted(wanted)  # nothing is known of the published ones but their number
    table = equal_names(before, wanted)
    if not table:
        raise InputError(
            f"{source.name}: expected classes with names of the wanted ones, came {', '.join(before.names[:3])}…; give "
            f"--mapping FILE.csv, and --source-classes where the file does not name its {len(before)} classes"
        )
    return Wanted(wanted, table, [f"{len(table)} classes of equal names mapped onto each other"])


def _published_classes(
    source: Source, reading: Reading, given: str | Path | LabelSpace | None
) -> tuple[LabelSpace, str | None, list[str]]:
    """Return the classes of the file, the data set that has them (if known), and notes."""
    count = reading.classes or 0
    names = source.names
    if given is not None or (names is None and reading.labels):
        space = read_space(given if given is not None else reading.labels or "")
        if len(space) != count:
            raise InputError(f"{source.name}: expected names for its {count} classes, came {len(space)}")
    elif names is not None and len(names) == count:
        space = LabelSpace(_unique(names), source.palette or ())
    else:
        notes = [f"the file names none of its {count} classes; --source-classes does"]
        return LabelSpace(tuple(f"class {i}" for i in range(count))), None, notes
    name = _data_set(space)
    if name is not None:  # their ids in masks are known then
        space = replace(space, raw_to_train=CLASSES[name]().raw_to_train)
    return space, name, []


def _data_set(space: LabelSpace) -> str | None:
    """Return the data set that has classes of these names, in this order."""
    return next((name for name, make in CLASSES.items() if make().names == space.names), None)


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names))


def read_space(what: str | Path | LabelSpace) -> LabelSpace:
    """Return classes by the name of a data set, from classes.yaml or JSON, or as they are.

    Raises:
        InputError: neither a name of `data.layouts.CLASSES` nor a file of classes.
    """
    if isinstance(what, LabelSpace):
        return what
    if str(what) in CLASSES:
        return CLASSES[str(what)]()
    path = Path(what)
    if not path.is_file():
        raise InputError(f"{what}: expected a file of classes, or one of {', '.join(CLASSES)}, found neither")
    if path.suffix == ".json" and '"names"' in path.read_text(encoding="utf-8", errors="replace"):
        return LabelSpace.load(path)
    return read_classes(path).space
