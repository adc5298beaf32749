"""Every score of an evaluation as a statistic of what each video adds to some sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyframe.metrics import functional as F
from everyframe.metrics.bootstrap import class_sums, mean_pairs, ratio_of_sums
from everyframe.metrics.consistency import ConsistencyRule, consistency_pairs
from everyframe.metrics.definitions import CORRESPONDENCE_VARIANTS
from everyframe.metrics.functional import Counts, Floats
from everyframe.metrics.results import Timeline


@dataclass(slots=True)
class VideoCounts:
    """What one video leaves behind: all scores are made of these.

    Attributes:
        name: of the video.
        classes: K.
        windows: variant of VC -> [len(windows), 2], see `WindowSums.sums`.
        timeline: numbers of each frame.
        frames: frames seen.
        labelled: how many of them had a label map.
        counts: int64 [3, K]: correct, truth, predicted.
        tc: variant of TC -> int64 [3, K].
    """

    name: str
    classes: int
    windows: dict[str, Floats]
    timeline: Timeline = field(default_factory=Timeline)
    frames: int = 0
    labelled: int = 0
    counts: Counts = field(init=False)
    tc: dict[str, Counts] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((3, self.classes), np.int64)
        self.tc = {variant: np.zeros((3, self.classes), np.int64) for variant in CORRESPONDENCE_VARIANTS}


@dataclass(frozen=True, slots=True)
class Measure:
    """A score as a statistic of sums over videos.

    Attributes:
        name: of the score.
        variant: which definition.
        per_video: [V, ...], what each video adds to the sums.
        statistic: sums [R, ...] -> values [R].
    """

    name: str
    variant: str
    per_video: NDArray[Any]
    statistic: Callable[[Floats], Floats]

    def value(self) -> float:
        """The score of all videos together."""
        return float(self.statistic(np.asarray(self.per_video, np.float64).sum(0, keepdims=True))[0])


def measures(
    videos: Sequence[VideoCounts],
    windows: Sequence[int],
    rules: Mapping[str, ConsistencyRule],
    flow: bool,
    whole: bool,
) -> list[Measure]:
    """Return the scores of some videos, the recommended variant of each name first.

    Args:
        videos: at least one.
        windows: lengths n of VC_n, rising.
        rules: variant of VC -> its rule, in the order of the tables.
        flow: whether points were followed along optical flow.
        whole: for a data set: with the means over videos, which a single video has not.
    """
    found: list[Measure] = []
    if any(video.labelled for video in videos):
        counts = np.stack([video.counts for video in videos])
        found += _class_measures(counts, whole)
        for i, n in enumerate(windows):
            for variant, rule in rules.items():
                pairs = consistency_pairs(np.stack([video.windows[variant] for video in videos]), rule)[:, i]
                found.append(Measure(f"VC{n}", variant, pairs, ratio_of_sums))
    for variant in CORRESPONDENCE_VARIANTS if flow else ():
        counts = np.stack([video.tc[variant] for video in videos])
        found.append(Measure("TC", variant, counts, class_sums(F.mean_iou)))
    points = "along flow" if flow else "same pixel"
    for name, column in (("flicker", "flicker"), ("flip-back", "flip_back")):
        means = [_nanmean(getattr(video.timeline, column)) for video in videos]
        found.append(Measure(name, points, mean_pairs(means), ratio_of_sums))
    return found


def _class_measures(counts: Counts, whole: bool) -> list[Measure]:
    """Scores from the per-video class counts [V, 3, K]."""
    measures = [
        Measure("mIoU", "in-ground-truth", counts, class_sums(F.mean_iou)),
        Measure("mIoU", "union>0", counts, class_sums(lambda sums: F.mean_iou(sums, "union>0"))),
        Measure("weighted IoU", "in-ground-truth", counts, class_sums(F.weighted_iou)),
        Measure("pixel accuracy", "labelled pixels", counts, class_sums(F.pixel_accuracy)),
        Measure("class accuracy", "in-ground-truth", counts, class_sums(F.mean_class_accuracy)),
    ]
    if whole:
        alone = F.ClassCounts(counts[:, 0], counts[:, 1], counts[:, 2])
        measures[2:2] = [Measure("mIoU", "mean of videos", mean_pairs(F.mean_iou(alone)), ratio_of_sums)]
        measures[4:4] = [Measure("weighted IoU", "mean of videos", mean_pairs(F.weighted_iou(alone)), ratio_of_sums)]
    return measures


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
