"""The small file that names the classes of the user's own data, and CVAT's labelmap.txt.

classes.yaml (or classes.json, same content):

    0: ignore                              # left out of training and evaluation ("void" means the same)
    1: road
    2: {name: car, color: [0, 0, 142]}     # colour: for RGB masks, and for overlays
    7: {name: background, ignore: true}    # a name that a labelmap.txt uses, left out
    8: car                                 # a second id of the same class

or a plain list of names, which then are the ids 0, 1, 2, ...
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import Color, LabelSpace, class_colors

IGNORE_NAMES = frozenset({"ignore", "void", "unlabelled", "unlabeled"})
CLASS_FILES = ("classes.yaml", "classes.yml", "classes.json")
EXAMPLE = "for example `0: ignore`, `1: road`, `2: car`, one line per id in the masks"
WRITE_IT = f"write it ({EXAMPLE}), or start with `everyframe data init PATH`"


@dataclass(frozen=True, slots=True)
class Classes:
    """What a classes file says.

    Attributes:
        space: the label space.
        ignored: names that are left out.
    """

    space: LabelSpace
    ignored: frozenset[str] = field(default=IGNORE_NAMES)


Entry = tuple[int, tuple[str, Color | None, bool]]
"""A line of a classes file: raw id; name, colour, and whether it is left out."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, where YAML would silently keep the last."""


def _mapping_without_twins(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    lines: dict[Hashable, int] = {}
    pairs: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} before a colon", key_node.start_mark)
        if key in lines:
            what = f"{key!r} stands there twice, first in line {lines[key]}"
            raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
        lines[key], pairs[key] = line, loader.construct_object(value_node, deep=True)
    return pairs


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_twins)


def find_classes(root: Path) -> Path | None:
    """Return the classes file of a data set, if it has one."""
    return next((root / name for name in CLASS_FILES if (root / name).is_file()), None)


def read_classes(path: str | Path) -> Classes:
    """Read classes.yaml or classes.json.

    Train ids follow the ids of the file in ascending order; ids of the same name are one class.

    Raises:
        InputError: missing, no YAML, an id written twice, or something else than names.
    """
    path = Path(path)
    return _build(path, read_entries(path))


def read_entries(path: str | Path) -> list[Entry]:
    """Read the lines of classes.yaml or classes.json, by id in ascending order.

    Raises:
        InputError: as `read_classes`, but for what only lines together can have wrong.
    """
    path = Path(path)
    content = ""
    try:
        content = path.read_text(encoding="utf-8-sig")
        data = yaml.load(content, Loader=_Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: expected the names of the classes, found no file; {WRITE_IT}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # What is never closed is missed after the last line.
        line = "" if mark is None else f":{min(mark.line + 1, len(content.splitlines()))}"
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise InputError(f"{path}{line}: expected YAML, came an error: {what}; {EXAMPLE}") from None
    except yaml.reader.ReaderError as error:
        what = f"{error.reason}, character {error.position + 1}"
        raise InputError(f"{path}: expected YAML, came an error: {what}; save it again as UTF-8 text") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text, came {error}; save it again") from None
    if isinstance(data, Mapping) and set(data) == {"classes"}:
        data = data["classes"]
    if isinstance(data, list):
        data = dict(enumerate(data))
    if not isinstance(data, Mapping) or not data:
        came = "an empty file" if data is None else repr(str(data)[:60])
        raise InputError(f"{path}: expected one line per class id, came {came}; {EXAMPLE}")
    return sorted((_id(path, raw), _entry(path, raw, value)) for raw, value in data.items())


def _build(path: Path, entries: list[Entry]) -> Classes:
    kept = [(name, color) for _, (name, color, ignored) in entries if not ignored]
    names = tuple(dict.fromkeys(name for name, _ in kept))
    if not names:
        raise InputError(f"{path}: expected at least one class that is not ignored, came none; {EXAMPLE}")
    train_ids = {name: train for train, name in enumerate(names)}
    given: dict[str, Color | None] = {}
    for name, color in kept:
        given[name] = given.get(name) or color
    palette = class_colors(names, list(given.values()))
    colors: dict[Color, int] = {}
    for raw, (_, color, _) in entries:
        if color is not None and colors.setdefault(color, raw) != raw:
            raise InputError(f"{path}: expected another colour for each id, came {color} for {colors[color]} and {raw}")
    table = {raw: IGNORE if ignored else train_ids[name] for raw, (name, _, ignored) in entries}
    if len(table) < len(entries):
        raise InputError(f"{path}: expected each id once, came one twice (as a number and as text); remove one line")
    ignored_names = IGNORE_NAMES | {name for _, (name, _, ignored) in entries if ignored}
    return Classes(LabelSpace(names, palette, table, colors or None), ignored_names)


def _id(path: Path, raw: Any) -> int:
    try:
        if isinstance(raw, bool | float):  # `int` would cut 1.5 to 1
            raise ValueError
        return int(raw)
    except (TypeError, ValueError):
        raise InputError(f"{path}: expected whole numbers before the colons, came {raw!r}; {EXAMPLE}") from None


def _entry(path: Path, raw: Any, value: Any) -> tuple[str, Color | None, bool]:
    """Return name, colour, and whether the id is left out."""
    color = None
    ignored = False
    if isinstance(value, Mapping):
        extra = set(value) - {"name", "color", "colour", "ignore"}
        if extra:
            raise InputError(f"{path}: id {raw}: expected name, color or ignore, came {', '.join(map(str, extra))}")
        color = _rgb(path, raw, value.get("color", value.get("colour")))
        ignored = value.get("ignore", False)
        if not isinstance(ignored, bool):
            raise InputError(f"{path}: id {raw}: expected ignore: true or ignore: false, came {ignored!r}")
        value = value.get("name", "ignore" if ignored else None)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{path}: id {raw}: expected a class name, came {value!r}; write it in quotes (YAML reads a bare yes, no, "
            f"on, off or number as something else)"
        )
    name = value.strip()
    return name, color, ignored or name.lower() in IGNORE_NAMES


def _rgb(path: Path, raw: Any, value: Any) -> Color | None:
    if value is None:
        return None
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        try:
            value = list(bytes.fromhex(value[1:]))
        except ValueError:
            value = [value]
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in value)
    ):
        raise InputError(f"{path}: id {raw}: expected color: [red, green, blue] in 0..255, came {value!r}")
    return value[0], value[1], value[2]


# -- CVAT ------------------------------------------------------------------------------------------------------------


def read_labelmap(path: str | Path) -> list[tuple[str, Color]]:
    """Read CVAT's labelmap.txt (`name:red,green,blue:parts:actions` per line) as names and colours in order.

    Format: https://docs.cvat.ai/docs/dataset_management/formats/format-smask

    Raises:
        InputError: a line is not of that form, or a colour stands there twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected CVAT's labelmap.txt, came {error}; export the masks again") from None
    entries: list[tuple[str, Color]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        # A label may itself hold a colon; the last three fields never do.
        fields = line.strip().rsplit(":", 3) if line.count(":") >= 3 else line.strip().rsplit(":", 1)
        try:
            red, green, blue = (int(value) for value in fields[1].split(","))
        except (IndexError, ValueError):
            raise InputError(
                f"{path}:{number}: expected `name:red,green,blue::`, came {line.strip()!r}; export the masks again"
            ) from None
        entries.append((fields[0], (red, green, blue)))
    if not entries or len({color for _, color in entries}) < len(entries):
        raise InputError(f"{path}: expected another colour for each label, came {entries}; export the masks again")
    return entries


def labelmap_space(path: str | Path, classes: Classes | None = None) -> LabelSpace:
    """Return how masks beside a labelmap.txt are read: by colour, or, in grey masks, by the number of the line from 0.

    Args:
        path: labelmap.txt.
        classes: decides train ids and which names are left out; without it all names of the labelmap are classes
            (`background` too, as in Pascal VOC), except "ignore", "void" and "unlabelled".

    Raises:
        InputError: the labelmap has a name that the classes file does not know.
    """
    entries = read_labelmap(path)
    colors = {color: line for line, (_, color) in enumerate(entries)}
    if classes is None:
        kept = [(name, color) for name, color in entries if name.lower() not in IGNORE_NAMES]
        names = tuple(dict.fromkeys(name for name, _ in kept))
        palette = tuple(next(color for other, color in kept if other == name) for name in names)
        classes = Classes(LabelSpace(names, palette))
    unknown = [name for name, _ in entries if name not in classes.space.names and name.lower() not in classes.ignored]
    unknown = [name for name in unknown if name not in classes.ignored]
    if unknown:
        raise InputError(
            f"{path}: expected the class names of the classes file ({', '.join(classes.space.names)}), came "
            f"{', '.join(unknown)} too; add a line `<id>: {{name: {unknown[0]}}}`, or "
            f"`<id>: {{name: {unknown[0]}, ignore: true}}` to leave these pixels out"
        )
    train_ids = {name: train for train, name in enumerate(classes.space.names)}
    table = {line: train_ids.get(name, IGNORE) for line, (name, _) in enumerate(entries)}
    return LabelSpace(classes.space.names, classes.space.palette, table, colors)
