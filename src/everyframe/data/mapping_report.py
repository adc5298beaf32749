"""What a class mapping covers, in classes and, where the data is there, in pixels and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from everyframe.data.joining import EFFECTIVE, check_effective
from everyframe.data.label_counts import LabelCounts, cache_file, count_labels
from everyframe.data.layout import VideoRef, in_space
from everyframe.data.layouts import CLASSES, load_split, parse_spec, split_names, split_spec
from everyframe.data.mapping import Coverage, equal_names, mapping_between
from everyframe.errors import InputError
from everyframe.labels import LabelSpace


@dataclass(frozen=True)
class MappedPixels:
    """What becomes of the pixels of a data set.

    Attributes:
        label_maps: how many were counted.
        kept: how many pass the filter.
        effective: share of pixels with a class of the target that a label map must exceed to be kept.
        mapped: share of all pixels that have a class of the target.
        unlabelled: share of all pixels that have no class in the source either.
        lost: classes of the source without a target -> their share of all pixels, largest first.
        gained: classes of the target -> their share of all pixels, largest first.
    """

    label_maps: int
    kept: int
    effective: float
    mapped: float
    unlabelled: float
    lost: dict[str, float]
    gained: dict[str, float]


@dataclass(frozen=True)
class MappingReport:
    """One source and its mapping.

    Attributes:
        name: the source as it was named.
        coverage: the mapping.
        pixels: None without data.
        guessed: no mapping was known or given; classes of equal names were taken.
    """

    name: str
    coverage: Coverage
    pixels: MappedPixels | None = None
    guessed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        source, target = self.coverage.source.names, self.coverage.target.names
        return {
            "source": self.name,
            "classes": len(source),
            "mapped": {source[i]: target[t] for i, t in sorted(self.coverage.table.items())},
            "guessed": self.guessed,
            "unmapped": self.coverage.unmapped,
            "reached": len(self.coverage.reached),
            "pixels": None if self.pixels is None else vars(self.pixels),
        }


def report_mapping(
    source: str,
    target: str,
    mapping: str | None = None,
    data: str | None = None,
    effective: float = EFFECTIVE,
    guess: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MappingReport:
    """Look at what a mapping covers.

    Args:
        source: layout whose classes are known, or "LAYOUT:ROOT" with "@SPLIT+SPLIT" if wanted, then with its data.
        target: likewise; of its data only the classes are looked at.
        mapping: see `mapping_between`.
        data: data of the source where `source` names only a layout.
        effective: of the filter, see `MappedPixels`.
        guess: where no mapping is known, take equal names instead of refusing.
        progress: called as progress(done, total) while masks are read.

    Raises:
        InputError: no such layout, data or mapping, or `effective` is no share.
    """
    check_effective(effective, source)
    layout, space, videos = _described(data or source)
    wanted = _described(target, classes_only=True)
    guessed = False
    try:
        table = mapping_between((layout, space), wanted[:2], mapping)
    except InputError:
        if not guess or mapping is not None:
            raise
        table, guessed = equal_names(space, wanted[1]), True
    coverage = Coverage(space, wanted[1], table)
    if not videos:
        return MappingReport(source, coverage, guessed=guessed)
    root = parse_spec(split_spec(data or source, "")[0])[1]
    counts = count_labels(videos, space, cache_file(root), progress)
    return MappingReport(source, coverage, mapped_pixels(counts, coverage, effective), guessed)


def mapped_pixels(counts: LabelCounts, coverage: Coverage, effective: float = EFFECTIVE) -> MappedPixels:
    """Return what becomes of the pixels of some label maps, counted in the classes of the source."""
    total = max(int(counts.area.sum()), 1)
    mapped = sorted(coverage.table)
    each = counts.pixels.sum(0, dtype=np.int64) / total
    gained = np.zeros(len(coverage.target))
    np.add.at(gained, [coverage.table[i] for i in mapped], each[mapped])
    share = counts.pixels[:, mapped].sum(1, dtype=np.int64) / np.maximum(counts.area, 1)
    lost = {name: float(each[i]) for i, name in enumerate(coverage.source.names) if i not in coverage.table}
    return MappedPixels(
        len(counts.places),
        int((share > effective).sum()),
        effective,
        float(each[mapped].sum()),
        float(1 - each.sum()),
        _falling(lost),
        _falling(dict(zip(coverage.target.names, gained.tolist(), strict=True))),
    )


def _falling(shares: dict[str, float]) -> dict[str, float]:
    return {name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share > 0}


def _described(what: str, classes_only: bool = False) -> tuple[str, LabelSpace, list[VideoRef]]:
    """Return layout, classes and labelled videos (none for the bare name of a layout) of what the user named."""
    if what in CLASSES:
        return what, CLASSES[what](), []
    place, splits = split_spec(what, "")
    if ":" not in place and "/" not in place and place not in (".", ".."):
        raise InputError(
            f"{what}: expected LAYOUT:ROOT, or a layout with known classes ({', '.join(CLASSES)}), came neither; "
            f"give the path of the data"
        )
    layout, root = parse_spec(place)
    named = splits if splits != [""] else split_names(layout, root)
    read = [load_split(place, split) for split in (named[:1] if classes_only else named)]
    if not read:
        raise InputError(f"{what}: expected a split with data, found none; name one: {what}@train")
    space = read[0][1]
    return layout, space, [video for split in read for video in in_space(split, space) if video.labelled]
