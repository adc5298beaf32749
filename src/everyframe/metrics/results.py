"""Results: every number of an evaluation, each beside the name of its definition."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

from everyframe.errors import InputError
from everyframe.files import write_whole
from everyframe.metrics.definitions import DEFINITIONS
from everyframe.metrics.results_text import percent, text_tables

FORMAT = 1
"""Version of the JSON form."""


@dataclass(frozen=True, slots=True)
class Score:
    """One number and what it means.

    Attributes:
        name: "mIoU", "VC8", "flicker", ...
        variant: which definition, such as "in-ground-truth" or "vspw-script"; `DEFINITIONS` explains each.
        value: NaN when the data do not define it (no labels, videos too short, ...).
        low: lower end of the bootstrap interval over videos, or None.
        high: upper end of the bootstrap interval over videos, or None.
        said: the definition in the file that the score was read from; empty: the one in `DEFINITIONS`.
    """

    name: str
    variant: str
    value: float
    low: float | None = None
    high: float | None = None
    said: str = field(default="", repr=False, compare=False)

    @property
    def title(self) -> str:
        """Name and variant as tables print them: `mIoU [in-ground-truth]`."""
        return f"{self.name} [{self.variant}]"

    @property
    def interval(self) -> str:
        """The interval as tables print it, in percent; empty where there is none."""
        return "" if self.low is None or self.high is None else f"{percent(self.low)} .. {percent(self.high)}"

    @property
    def definition(self) -> str:
        """One sentence: which pixels, which classes, which windows; empty where nobody wrote it."""
        length_left_out = self.name.rstrip("0123456789")  # VC8, VC16 -> VC; a name such as F1 stands for itself
        names = (self.name, length_left_out)
        return self.said or next((DEFINITIONS[n, self.variant] for n in names if (n, self.variant) in DEFINITIONS), "")


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class over all labelled pixels of all videos.

    Attributes:
        name: class name.
        color: RGB colour of the class.
        pixels: pixels of the class in the ground truth.
        predicted: pixels predicted as the class where the ground truth is not ignored.
        iou: intersection over union; NaN when the class is neither in the ground truth nor predicted.
        accuracy: share of its ground-truth pixels that are predicted right (recall); NaN when absent.
        precision: share of its predicted pixels that are right; NaN when never predicted.
    """

    name: str
    color: tuple[int, int, int]
    pixels: int
    predicted: int
    iou: float
    accuracy: float
    precision: float


@dataclass(slots=True)
class Timeline:
    """One video frame by frame; all lists are equally long, NaN where a value is not defined.

    Attributes:
        frame: position in the video.
        name: frame name, as in the file names of the label maps.
        miou: mIoU [in-ground-truth] of the frame alone; NaN when it has no label map.
        pixel_accuracy: share of its labelled pixels that are right.
        flicker: share of pixels whose predicted class differs from the frame before; NaN at the first frame.
        flip_back: share of pixels that changed at the frame before and change back at this one (A-B-A).
        tc: temporal consistency with the frame before, when a flow was given.
    """

    frame: list[int] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    miou: list[float] = field(default_factory=list)
    pixel_accuracy: list[float] = field(default_factory=list)
    flicker: list[float] = field(default_factory=list)
    flip_back: list[float] = field(default_factory=list)
    tc: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(slots=True)
class VideoResult:
    """One video.

    Attributes:
        name: as in the split.
        frames: frames that were evaluated.
        labelled: how many of them had a label map.
        scores: the same names and variants as `Results.overall`, of this video alone.
        timeline: numbers of each frame.
    """

    name: str
    frames: int
    labelled: int
    scores: list[Score]
    timeline: Timeline

    def score(self, name: str, variant: str | None = None) -> Score:
        """The score of that name (and variant; the first one when left out)."""
        return _find(self.scores, name, variant)

    def value(self, score: Score) -> float:
        """The value of the same score in this video alone; NaN where it has none."""
        same = (own.value for own in self.scores if (own.name, own.variant) == (score.name, score.variant))
        return next(same, math.nan)


@dataclass(slots=True)
class Results:
    """All numbers of an evaluation.

    Attributes:
        overall: scores of the whole data set, the recommended variant of each name first.
        classes: one entry per class, in the order of train ids.
        videos: one entry per video, in the order they were evaluated.
        confusion: [K][K+1] pixel counts: row = ground truth, column = prediction; the last column counts labelled
            pixels whose prediction is no class (an id outside 0..K-1, such as 255).
        title: what was evaluated, for headings.
        notes: things a reader must know, such as how many frames had no label map.
    """

    overall: list[Score]
    classes: list[ClassResult]
    videos: list[VideoResult]
    confusion: list[list[int]]
    title: str = ""
    notes: list[str] = field(default_factory=list)

    def score(self, name: str, variant: str | None = None) -> Score:
        """The overall score of that name (and variant; the first, recommended one when left out)."""
        return _find(self.overall, name, variant)

    def video_columns(self) -> list[Score]:
        """What a table of videos shows: of each name the first variant that any video has a number for."""
        first: dict[str, Score] = {}
        for score in self.overall:
            if self.defined_in(score):
                first.setdefault(score.name, score)
        return list(first.values())

    def defined_in(self, score: Score) -> int | None:
        """In how many videos a score is a number; None for those that are no score of a single video."""
        values = [s.value for v in self.videos for s in v.scores if (s.name, s.variant) == (score.name, score.variant)]
        return sum(not math.isnan(value) for value in values) if values else None

    def worst_frames(self, count: int = 12) -> list[tuple[str, int, str, float]]:
        """(video, frame, frame name, mIoU of the frame), the lowest first; without labels the most flickering."""
        labelled = any(not math.isnan(value) for video in self.videos for value in video.timeline.miou)
        ranked: list[tuple[float, tuple[str, int, str, float]]] = []
        for video in self.videos:
            line = video.timeline
            values = line.miou if labelled else line.flicker
            for frame, name, value in zip(line.frame, line.name, values, strict=True):
                if not math.isnan(value):
                    ranked.append((value if labelled else -value, (video.name, frame, name, value)))
        return [entry for _, entry in sorted(ranked)[:count]]

    # -- text --------------------------------------------------------------------------------------------------------

    def table(self, classes: bool = True, videos: bool = True) -> str:
        """Text tables: overall, then per class and per video; the definitions of the overall numbers last."""
        return text_tables(self, classes, videos)

    # -- JSON --------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and dicts; NaN becomes None, so that any JSON reader takes it."""
        data = _without_nan({"format": FORMAT, **asdict(self)})
        for score in [*data["overall"], *(score for video in data["videos"] for score in video["scores"])]:
            del score["said"]
        data["definitions"] = {score.title: score.definition for score in self.overall}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_dict` returned.

        Raises:
            InputError: not the JSON of an evaluation, or of a newer version.
        """
        came = data.get("format") if isinstance(data, Mapping) else None
        if came != FORMAT:
            raise InputError(
                f"Results: expected the JSON of an evaluation, format {FORMAT}, came format {came!r}; "
                f"evaluate again with this version"
            )
        said = data.get("definitions", {})  # of a metric of one's own, this process may have none
        try:
            return cls(
                overall=[_score(score, said) for score in data["overall"]],
                classes=[_class_result(entry) for entry in data["classes"]],
                videos=[_video_result(video, said) for video in data["videos"]],
                confusion=data["confusion"],
                title=data["title"],
                notes=list(data["notes"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"Results: expected the JSON of an evaluation, whole, came {error!r}") from None

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the JSON text, and write it to `path` when given."""
        text = json.dumps(self.to_dict(), allow_nan=False)
        if path is not None:
            write_whole(path, text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Self:
        """Read from a file (a `Path`), or from JSON text (a `str`).

        Raises:
            InputError: the file does not hold the JSON of an evaluation.
        """
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            where = source if isinstance(source, Path) else "text"
            raise InputError(
                f"{where}: expected the JSON of an evaluation, came text that is no JSON ({error})"
            ) from None
        return cls.from_dict(data)


def _find(scores: Sequence[Score], name: str, variant: str | None) -> Score:
    for score in scores:
        if score.name == name and variant in (None, score.variant):
            return score
    near = get_close_matches(name.lower(), {score.name.lower() for score in scores}, n=1)
    meant = next((f"; did you mean {s.name!r}?" for s in scores if near == [s.name.lower()] and s.name != name), "")
    there = ", ".join(score.title for score in scores)
    raise KeyError(f"no score {name!r}{f' [{variant}]' if variant else ''}{meant}; there are {there}")


def _score(data: Mapping[str, Any], said: Mapping[str, str]) -> Score:
    score = Score(**_with_nan(data, ("value",)))
    return replace(score, said=said.get(score.title, ""))


def _class_result(data: Mapping[str, Any]) -> ClassResult:
    fields = _with_nan(data, ("iou", "accuracy", "precision"))
    return ClassResult(**{**fields, "color": tuple(data["color"])})


def _video_result(data: Mapping[str, Any], said: Mapping[str, str]) -> VideoResult:
    columns: dict[str, Any] = {
        key: [math.nan if value is None else value for value in column] for key, column in data["timeline"].items()
    }
    scores = [_score(score, said) for score in data["scores"]]
    return VideoResult(data["name"], data["frames"], data["labelled"], scores, Timeline(**columns))


def _with_nan(data: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: math.nan if value is None and key in keys else value for key, value in data.items()}


def _without_nan(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
