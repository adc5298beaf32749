"""Several data sets in one training: other label spaces mapped into the main one's, and how much of each is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyframe.data.budget import apply_budget
from everyframe.data.dataset import ClipDataset
from everyframe.data.label_counts import cache_file, count_labels
from everyframe.data.layout import VideoRef, read_as
from everyframe.data.layouts import load_split, parse_spec, split_spec
from everyframe.data.mapping import Table, mapping_between
from everyframe.data.ordering import ClipGroup, ClipOrder
from everyframe.errors import InputError
from everyframe.labels import LabelSpace

EFFECTIVE = 0.8
"""Share of an image's pixels that must have a class of the target (the winner of VSPW 2023 took 80 %)."""


def check_effective(effective: float, data: str) -> None:
    """Check the option of that name, of a data set named in the message.

    Raises:
        InputError: it is no share.
    """
    if not 0 <= effective < 1:
        raise InputError(f"{data}: expected effective: a share of pixels in [0, 1), came {effective:g}")


@dataclass(frozen=True)
class DataSource:
    """A data set that joins the main one in training.

    Attributes:
        data: "LAYOUT:ROOT" or "LAYOUT:ROOT@SPLIT+SPLIT"; without a split, train.
        mapping: CSV file that maps its classes onto the main ones, see `everyframe.data.mapping`; "names" for equal
            names; None: equal classes, or the mapping that comes with the package for this pair.
        effective: keep only label maps of whose pixels more than this share has a class after the mapping; 0: all.
            None: 0.8 where classes are mapped, all where they are the same.
        share: share of all training clips that come from here; None: as its number of clips among all.
        budget: which of the label maps that are left keep their label, see `everyframe.data.budget.apply_budget`.
    """

    data: str
    mapping: str | None = None
    effective: float | None = None
    share: float | None = None
    budget: str | int = "all"

    def __post_init__(self) -> None:
        check_effective(0.0 if self.effective is None else self.effective, self.data)
        if self.share is not None and not 0 < self.share < 1:
            raise InputError(f"{self.data}: expected share: a share of the clips in (0, 1), came {self.share:g}")

    @classmethod
    def of(cls, given: DataSource | str | Mapping[str, Any]) -> DataSource:
        """Build from what a recipe holds: the text of `data` alone, or a mapping of the attributes.

        Raises:
            InputError: no such attribute, or no data.
        """
        if isinstance(given, DataSource):
            return given
        options = {"data": given} if isinstance(given, str) else dict(given)
        names = [field.name for field in fields(cls)]
        if "data" not in options or not options.keys() <= set(names):
            raise InputError(f"data.also: expected data, and of {', '.join(names[1:])} what is wanted, came {options}")
        return cls(**options)


@dataclass(frozen=True)
class Joined:
    """Videos of a `DataSource`, their labels in the main data set's label space.

    Attributes:
        source: where they come from.
        videos: those with at least one label map left.
        labels: label maps before the filter.
        kept: label maps after it.
        cache: file that keeps the counts of their pixels.
    """

    source: DataSource
    videos: list[VideoRef]
    labels: int
    kept: int
    cache: Path


def join_source(source: DataSource, target: tuple[str, LabelSpace], number: int = 0) -> Joined:
    """Read a data set for training in another's label space.

    Args:
        source: what to read.
        target: layout and classes of the main data set.
        number: position of the source; its videos are named also<number>/<name>, to stay unique.

    Raises:
        InputError: the data, or a mapping that fits, is not there, or nothing is left after the filter.
    """
    place, splits = split_spec(source.data, "train")
    layout, root = parse_spec(place)
    cache = cache_file(root)
    videos: list[VideoRef] = []
    table: Table = {}
    for split in splits:
        listed, space = load_split(place, split)
        table = mapping_between((layout, space), target, source.mapping)
        listed = [replace(v, name=f"also{number}/{v.name}", space=v.space or space) for v in listed]
        videos += read_as(listed, partial(LabelSpace.mapped, target=target[1], table=table))
    labels = sum(len(video.labelled) for video in videos)
    same = table == {i: i for i in range(len(target[1]))}
    effective = source.effective if source.effective is not None else (0.0 if same else EFFECTIVE)
    if effective:
        videos = keep_effective(videos, target[1], effective, cache)
    videos = [video for video in apply_budget(videos, source.budget) if video.labelled]
    if not videos:
        raise InputError(
            f"{source.data}: expected labels for training, came {labels} label maps of which none has more than "
            f"{effective:.0%} of its pixels in a class; lower effective, or see `everyframe data map`"
        )
    return Joined(source, videos, labels, sum(len(video.labelled) for video in videos), cache)


def keep_effective(
    videos: Sequence[VideoRef], space: LabelSpace, effective: float, cache: Path | None = None
) -> list[VideoRef]:
    """Leave out the label maps of whose pixels a share of `effective` or less has a class.

    All pixels of the whole picture count, before any crop, those without a label too.
    """
    counts = count_labels(videos, space, cache)
    kept: list[set[int]] = [set() for _ in videos]
    for (number, index), share in zip(counts.places, counts.labelled_share.tolist(), strict=True):
        if share > effective:
            kept[number].add(index)
    return [video.keep_labels(indices) for video, indices in zip(videos, kept, strict=True)]


def clip_order(dataset: ClipDataset, joined: Sequence[Joined], factors: NDArray[np.float64] | None = None) -> ClipOrder:
    """Return how training clips follow each other: sources with a share take their turns, all others go as one.

    Args:
        dataset: clips of the main data set's videos, then of each source's in their order.
        joined: the sources.
        factors: how often each clip comes per pass; None: once.

    Raises:
        InputError: the shares leave nothing to the main data set, or a part has no clip that ever comes.
    """
    given = sum(source.source.share or 0.0 for source in joined)
    if given >= 1:
        raise InputError(
            f"data.also: expected shares that sum up to less than 1, came {given:g}; leave some to the rest"
        )
    sizes = [len(source.videos) for source in joined]
    ends = np.cumsum([len(dataset.videos) - sum(sizes), *sizes])
    part = np.searchsorted(ends, [video for video, _ in dataset.clips], side="right")  # 0: main, i: source i - 1
    apart = {i: source.source.share for i, source in enumerate(joined, 1) if source.source.share is not None}
    groups = []
    for share, chosen in [(1 - given, ~np.isin(part, list(apart))), *((s, part == i) for i, s in apart.items())]:
        clips = np.flatnonzero(chosen)
        own = None if factors is None else factors[clips]
        if len(clips) == 0 or (own is not None and own.sum() <= 0):
            raise InputError("training data: expected labels with a class in each data set, came one that has none")
        groups.append(ClipGroup(clips, share, own))
    return ClipOrder(groups, dataset.seed)
