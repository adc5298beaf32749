"""LabelSpace: the one table between the ids in files (raw ids) and the ids in the program (train ids)."""

from __future__ import annotations

import colorsys
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from everyframe.errors import InputError, writing
from everyframe.files import write_whole
from everyframe.frames import IGNORE

Color = tuple[int, int, int]

BACKGROUND: Color = (70, 70, 70)
"""Colour of a class of that name, where none is given."""


def distinct_colors(count: int) -> tuple[Color, ...]:
    """Return `count` well separated RGB colours, always the same ones (golden-ratio steps in hue)."""
    levels = ((0.75, 0.95), (0.95, 0.7), (0.5, 0.85), (0.85, 0.5))
    colors = []
    for i in range(count):
        saturation, value = levels[i % len(levels)]
        red, green, blue = colorsys.hsv_to_rgb((i * 0.61803398875) % 1.0, saturation, value)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colors)


def class_colors(names: Sequence[str], given: Sequence[Color | None] = ()) -> tuple[Color, ...]:
    """Return a colour for each class: the given one, else that of `distinct_colors`, but dark grey for the background.

    It is most of a picture mostly, and what stands before it is to be seen.

    Args:
        names: of the classes.
        given: colours of the classes that have one, None for the others; none where it is empty.
    """
    own = given or [None] * len(names)
    made = list(distinct_colors(len(names)))
    if BACKGROUND not in own and "background" in names:
        made[names.index("background")] = BACKGROUND
    return tuple(color or other for color, other in zip(own, made, strict=True))


@dataclass(frozen=True)
class LabelSpace:
    """Names and colours of K classes, and how the ids found in mask files become train ids.

    Inside the program a label map is uint8 with train ids 0..K-1 and 255 = ignore; files hold raw ids. The table is
    explicit: a raw id that is not in it is refused, never guessed.

    Attributes:
        names: class names; the position is the train id. 1 to 255 of them.
        palette: RGB colour of each class, as many as names; made up when left out.
        raw_to_train: raw id (0..255 in mask files; other ids, such as Cityscapes' -1, may stand in the table too) ->
            train id or 255. Left out: raw id = train id, and 255 = ignore.
        colors: RGB -> raw id, for masks stored as colour pictures; None when such masks are not expected.

    Example:
        >>> space = LabelSpace(("road", "car"), raw_to_train={0: 255, 1: 0, 2: 1})
        >>> space.encode(np.array([[0, 1, 2]], np.uint8)).tolist()
        [[255, 0, 1]]
        >>> space.decode(np.array([[255, 0, 1]], np.uint8)).tolist()
        [[0, 1, 2]]
    """

    names: tuple[str, ...]
    palette: tuple[Color, ...] = ()
    raw_to_train: Mapping[int, int] = field(default_factory=dict)
    colors: Mapping[Color, int] | None = None

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # frozen: normalise the fields once, here
        set_(self, "names", tuple(str(name) for name in self.names))
        count = len(self.names)
        if not 1 <= count <= IGNORE:
            raise InputError(f"LabelSpace: expected 1 to {IGNORE} class names, came {count}")
        if len(set(self.names)) != count:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise InputError(f"LabelSpace: class names must differ, came twice: {', '.join(twice)}")
        set_(self, "palette", tuple(_color(c) for c in self.palette) or class_colors(self.names))
        if len(self.palette) != count:
            raise InputError(f"LabelSpace: expected {count} colours, one per class, came {len(self.palette)}")
        table = {int(raw): int(train) for raw, train in self.raw_to_train.items()}
        set_(self, "raw_to_train", table or {**{i: i for i in range(count)}, IGNORE: IGNORE})
        wrong = {raw: t for raw, t in self.raw_to_train.items() if t != IGNORE and not 0 <= t < count}
        if wrong:
            raise InputError(
                f"LabelSpace: train ids must be 0..{count - 1} or {IGNORE} (ignore), came raw id -> train id {wrong}"
            )
        if self.colors is not None:
            set_(self, "colors", {_color(c): int(raw) for c, raw in self.colors.items()})
            if not self.colors:
                raise InputError("LabelSpace: expected at least one colour in `colors`, or None, came none")

    def __len__(self) -> int:
        return len(self.names)

    def unlike(self, other: LabelSpace) -> str:
        """Return in words the first class of another name than in `other`; "" where names and order are the same."""
        for i, (own, wanted) in enumerate(zip_longest(self.names, other.names)):
            if own != wanted:
                first, second = ("no class" if name is None else repr(name) for name in (own, wanted))
                return f"train id {i} is {first}, not {second}"
        return ""

    # -- raw ids <-> train ids ---------------------------------------------------------------------------------------

    def encode(self, raw: NDArray[np.integer[Any]], source: str | Path = "label map") -> NDArray[np.uint8]:
        """Turn raw ids into train ids.

        Args:
            raw: [H, W] integers as they stand in the file.
            source: named in the error message, normally the file.

        Returns:
            uint8 [H, W], 0..K-1 and 255.

        Raises:
            InputError: an id is not in the table.
        """
        values = np.asarray(raw)
        if values.dtype.kind not in "iu":
            raise InputError(f"{source}: expected whole numbers as ids, came {values.dtype}; save the ids as integers")
        if values.dtype == np.uint8:
            encoded = self._lookup()[values]
        else:
            encoded = np.full(values.shape, -1, np.int16)
            for raw_id, train_id in self.raw_to_train.items():
                encoded[values == raw_id] = train_id
        unknown = encoded < 0
        if unknown.any():
            raise InputError(self._unknown_ids(np.unique(values[unknown]).tolist(), source))
        return encoded.astype(np.uint8)

    def decode(self, train: NDArray[np.uint8], ignore: int | None = None) -> NDArray[np.uint8]:
        """Turn train ids into raw ids: the lowest raw id of each class.

        Args:
            train: uint8 [H, W].
            ignore: raw id for 255; when left out 255 where the table ignores it, else the lowest raw id that the
                table maps to ignore, so that `encode` takes back what `decode` gives; 255 where there is none.

        Raises:
            InputError: a class without a raw id in 0..255 occurs.
        """
        back = np.full(256, -1, np.int16)
        for raw_id, train_id in sorted(self.raw_to_train.items(), reverse=True):
            if 0 <= raw_id <= 255:
                back[train_id] = raw_id
        if ignore is not None:
            back[IGNORE] = ignore
        elif self.raw_to_train.get(IGNORE) == IGNORE or (back[IGNORE] < 0 and IGNORE not in self.raw_to_train):
            back[IGNORE] = IGNORE
        train = np.asarray(train)
        if train.dtype != np.uint8:
            raise InputError(f"LabelSpace.decode: expected a uint8 label map of train ids, came {train.dtype}")
        raw = back[train]
        if (raw < 0).any():
            raise InputError(self._no_raw_id(np.unique(train[raw < 0]).tolist()))
        return raw.astype(np.uint8)

    def encode_rgb(self, rgb: NDArray[np.uint8], source: str | Path = "label map") -> NDArray[np.uint8]:
        """Turn a colour mask, uint8 [H, W, 3], into train ids by `colors`.

        Raises:
            InputError: there is no colour table, or a colour is not in it.
        """
        if self.colors is None:
            raise InputError(
                f"{source}: expected one id per pixel, came an RGB picture; give the colour of each class "
                f"(`colors` of the classes file, or CVAT's labelmap.txt beside the masks)"
            )
        if rgb.ndim < 1 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
            raise InputError(f"{source}: expected an RGB picture, uint8 [H, W, 3], came {rgb.dtype} {list(rgb.shape)}")
        strange = sorted(set(self.colors.values()) - set(self.raw_to_train))
        if strange:
            raise InputError(self._unknown_ids(strange, source))
        known = sorted((r << 16 | g << 8 | b, self.raw_to_train[raw_id]) for (r, g, b), raw_id in self.colors.items())
        keys, train_ids = np.array(known, np.int32).reshape(-1, 2).T
        packed = (rgb[..., 0].astype(np.int32) << 16) | (rgb[..., 1].astype(np.int32) << 8) | rgb[..., 2]
        place = np.searchsorted(keys, packed).clip(max=len(keys) - 1)
        unknown = keys[place] != packed
        if unknown.any():
            lost, counts = np.unique(packed[unknown], return_counts=True)
            often = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in lost[counts.argsort()[::-1][:3]]]
            raise InputError(
                f"{source}: {len(lost)} colour{'s' * (len(lost) > 1)} not in the table of {len(self.colors)} colours, "
                f"most often {', '.join(map(str, often))}; add to the classes file, or save the masks without "
                f"anti-aliasing or JPEG compression"
            )
        return train_ids[place].astype(np.uint8)

    def colorize(self, train: NDArray[np.uint8], ignore: Color = (0, 0, 0)) -> NDArray[np.uint8]:
        """Paint a label map, uint8 [H, W] -> RGB uint8 [H, W, 3]."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.palette
        table[IGNORE] = ignore
        return table[train]

    def _lookup(self) -> NDArray[np.int16]:
        table = np.full(256, -1, np.int16)
        for raw_id, train_id in self.raw_to_train.items():
            if 0 <= raw_id <= 255:
                table[raw_id] = train_id
        return table

    def _unknown_ids(self, ids: Sequence[int], source: str | Path) -> str:
        known = sorted(self.raw_to_train)
        span = f"{known[0]}..{known[-1]}" if known == list(range(known[0], known[-1] + 1)) else str(known)
        return (
            f"{source}: id{'s' * (len(ids) > 1)} {', '.join(map(str, ids))} not in the class table "
            f"({len(self)} classes, known raw ids {span}); add to the classes file: `{ids[0]}: <class name>`, "
            f"or `{ids[0]}: ignore` to leave these pixels out"
        )

    def _no_raw_id(self, train_ids: Sequence[int]) -> str:
        strange = [t for t in train_ids if len(self) <= t < IGNORE]
        if strange:
            return f"LabelSpace.decode: expected train ids 0..{len(self) - 1} and {IGNORE}, came train ids {strange}"
        names = ["ignore" if t == IGNORE else self.names[t] for t in train_ids]
        free = next((raw for raw in range(256) if raw not in self.raw_to_train), "ID")
        return (
            f"LabelSpace: expected an id in 0..255, all that a written label map holds, for {', '.join(names)}, came "
            f"none; give each one in the classes file, such as `{free}: {names[0]}`"
        )

    # -- into another label space ------------------------------------------------------------------------------------

    def mapped(self, target: LabelSpace, table: Mapping[int, int]) -> LabelSpace:
        """Return `target`'s classes with this space's raw ids: reads these files as labels of `target`.

        Args:
            target: the label space to train or evaluate in.
            table: train id here -> train id in `target`; classes left out become ignore.
        """
        strange = sorted(t for t in table if not 0 <= t < len(self))
        if strange:
            raise InputError(f"LabelSpace.mapped: expected train ids 0..{len(self) - 1} to map from, came {strange}")
        raw = {r: table.get(t, IGNORE) if t != IGNORE else IGNORE for r, t in self.raw_to_train.items()}
        return LabelSpace(target.names, target.palette, raw, self.colors)

    # -- JSON --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dicts that JSON can hold."""
        return {
            "names": list(self.names),
            "palette": [list(color) for color in self.palette],
            "ignore": IGNORE,
            "raw_to_train": {str(raw): train for raw, train in sorted(self.raw_to_train.items())},
            "colors": None if self.colors is None else [[*color, raw] for color, raw in self.colors.items()],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_dict` returned.

        Raises:
            InputError: `ignore` is another id than 255, or the classes do not fit together.
        """
        if data.get("ignore", IGNORE) != IGNORE:
            raise InputError(
                f"LabelSpace: expected ignore {IGNORE}, the train id of ignored pixels, came {data['ignore']}; to "
                f'ignore raw id {data["ignore"]} write {{"{data["ignore"]}": {IGNORE}}} into raw_to_train'
            )
        colors = data.get("colors")
        return cls(
            names=tuple(data["names"]),
            palette=tuple(_color(c) for c in data.get("palette", ())),
            raw_to_train={int(raw): int(train) for raw, train in data.get("raw_to_train", {}).items()},
            colors=None if colors is None else {(r, g, b): raw for r, g, b, raw in colors},
        )

    def save(self, path: str | Path) -> None:
        """Write as JSON.

        Raises:
            InputError: the file cannot be written.
        """
        with writing(path):
            write_whole(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or is not a label space.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise InputError(f"{path}: expected a label space in JSON, found no file") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: expected a label space in JSON (as LabelSpace.save writes it), came {error!r}"
            ) from None


def match_names(source: Sequence[str], target: Sequence[str]) -> dict[int, int]:
    """Match classes of two data sets by name: position in `source` -> position in `target`.

    Equal names are matched first. Of the others those are matched that differ only in letter case, blanks, `-` and `_`,
    where one name of each side, and no second one, reads so: "Car" and "car" beside each other stay two classes.

    Example:
        >>> match_names(["Traffic-Light", "Car", "car"], ["car", "traffic_light"])
        {0: 1, 2: 0}
    """
    exact = {name: i for i, name in enumerate(target)}
    loose = {_plain(name): i for i, name in enumerate(target)}
    often = [Counter(map(_plain, names)) for names in (source, target)]
    table = {i: exact[name] for i, name in enumerate(source) if name in exact}
    for i, plain in enumerate(map(_plain, source)):
        if i not in table and all(count[plain] == 1 for count in often):
            table[i] = loose[plain]
    return dict(sorted(table.items()))


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name.strip().casefold())


def _color(values: Iterable[int]) -> Color:
    red, green, blue = (int(value) for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"LabelSpace: expected RGB colours in 0..255, came {(red, green, blue)}")
    return red, green, blue
