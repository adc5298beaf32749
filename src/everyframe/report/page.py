"""The evaluation report: one HTML file that opens offline, in light and dark, and prints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from everyframe.files import write_whole
from everyframe.metrics.results import ClassResult, Results, Score, Timeline, VideoResult
from everyframe.metrics.results_text import counted
from everyframe.report.charts import confusion_svg, row_shares, timeline_svg
from everyframe.report.strips import Snapshot

OPEN_TIMELINES = 24
"""Videos whose timeline is shown at once; the others fold away."""
PICTURE_BYTES = 6_000_000
"""Limit on all embedded pictures of frames together."""


def write_page(
    results: Results,
    path: str | Path,
    snapshots: Iterable[Snapshot] = (),
    settings: Mapping[str, Any] | None = None,
    date: datetime | None = None,
) -> Path:
    """Write the report of an evaluation.

    Args:
        results: the numbers.
        path: the HTML file; its folder must exist.
        snapshots: frames to show with their ground truth, worst first.
        settings: what was run with what, printed as it is at the end of the page.
        date: printed in the heading; now when left out.

    Returns:
        The path written.
    """
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string((files("everyframe.report") / "page.html.j2").read_text(encoding="utf-8"))
    path = Path(path)
    write_whole(path, template.render(**_content(results, snapshots, settings or {}, date or datetime.now())))
    return path


def _content(
    results: Results, snapshots: Iterable[Snapshot], settings: Mapping[str, Any], date: datetime
) -> dict[str, Any]:
    """Everything the template prints, already as text."""
    classes = [c.name for c in results.classes]
    confusion = np.asarray(results.confusion, np.int64).reshape(len(classes), len(classes) + 1)
    columns = [*classes, "no class"]
    if not confusion[:, -1].any():  # every labelled pixel was predicted as some class
        confusion, columns = confusion[:, :-1], classes
    labelled = bool(confusion.sum())
    timelines = _timelines(results.videos)
    strips = _strips(snapshots, results.classes)
    sections = [("numbers", "Numbers", True), ("classes", "Classes", labelled), ("confusion", "Confusion", labelled),
                ("videos", "Videos", True), ("flicker", "Flicker over time", bool(timelines)),
                ("worst", "Worst frames", bool(strips)), ("how", "Definitions and settings", True)]  # fmt: skip
    scores = [_score(score, results) for score in results.overall]
    return {
        "title": results.title or "Evaluation",
        "everyframe_version": version("everyframe"),
        "date": f"{date:%Y-%m-%d %H:%M}",
        "summary": _summary(results),
        "sections": [(anchor, name) for anchor, name, there in sections if there],
        "notes": [note for note in results.notes if not note.startswith(f"{counted(len(results.videos), 'video')}, ")],
        "cards": [_score(s, results) for s in results.overall if s is results.score(s.name)],
        "scores": scores,
        "interval_note": _interval_note(results),
        "labelled": labelled,
        "classes": _class_rows(results.classes),
        "confusion": Markup(confusion_svg(confusion, classes, columns)) if labelled else "",
        "wide": len(classes) > 24,
        "confusions": _confusions(confusion, classes, columns),
        "cells": {
            "rows": classes,
            "columns": columns,
            "share": np.round(row_shares(confusion) * 1000).astype(int).tolist() if labelled else [],
        },
        "video_heads": _video_heads(results),
        "video_rows": _video_rows(results),
        "timelines": timelines[:OPEN_TIMELINES],
        "more_timelines": timelines[OPEN_TIMELINES:],
        "timeline_variant": next((s.variant for s in results.overall if s.name == "flicker"), ""),
        "any_wrong": any(not math.isnan(v) for video in results.videos for v in video.timeline.pixel_accuracy),
        "worst": strips,
        "legend": _legend(results.classes),
        "settings": [*((k, str(v)) for k, v in settings.items()),
                     ("versions", f"everyframe {version('everyframe')}, torch {version('torch')}")],
    }  # fmt: skip


def _summary(results: Results) -> str:
    videos, frames = len(results.videos), sum(video.frames for video in results.videos)
    labelled = sum(video.labelled for video in results.videos)
    here = sum(1 for c in results.classes if c.pixels)
    return (
        f"{counted(videos, 'video')}, {counted(frames, 'frame')}, {labelled:,} of them labelled; "
        f"{here} of {counted(len(results.classes), 'class', 'classes')} in the ground truth."
    )


# -- numbers -----------------------------------------------------------------------------------------------------------


def _percent(value: float, digits: int = 1) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f}"


def _cell(value: float, digits: int = 1) -> dict[str, Any]:
    """A number for a sortable table: text for the eye, key for the sort (empty: always last)."""
    if math.isnan(value):
        return {"text": "–", "sort": "", "percent": "0"}
    return {"text": _percent(value, digits), "sort": f"{value:.8g}", "percent": f"{100 * value:.2f}"}


def _score(score: Score, results: Results) -> dict[str, str]:
    known = results.defined_in(score)
    low, high = (math.nan if end is None else end for end in (score.low, score.high))
    return {
        "name": score.name,
        "variant": score.variant,
        "text": "–" if math.isnan(score.value) else f"{_percent(score.value, 2)} %",
        "interval": f"{_percent(low)} – {_percent(high)}" if not math.isnan(low + high) else "",
        "over": "" if known is None else f"{known} of {counted(len(results.videos), 'video')}",
        "definition": score.definition,
    }


def _interval_note(results: Results) -> str:
    if all(score.low is None or math.isnan(score.low) for score in results.overall):
        return ""
    note = "Ranges: 95 % bootstrap intervals, videos drawn with replacement."
    few = len(results.videos)
    return note + (f" With {counted(few, 'video')} they say little." if few < 5 else "")


# -- tables ------------------------------------------------------------------------------------------------------------


def _class_rows(classes: Sequence[ClassResult]) -> list[dict[str, Any]]:
    """Classes of the ground truth in their own order, then the absent ones."""
    truth, predicted = max(sum(c.pixels for c in classes), 1), max(sum(c.predicted for c in classes), 1)
    return [
        {
            "name": c.name,
            "color": "#{:02x}{:02x}{:02x}".format(*c.color),
            "absent": not c.pixels,
            "iou": _cell(c.iou if c.pixels else math.nan),
            "recall": _cell(c.accuracy),
            "precision": _cell(c.precision),
            "truth": _cell(c.pixels / truth, 2),
            "predicted": _cell(c.predicted / predicted, 2),
        }
        for c in sorted(classes, key=lambda c: not c.pixels)
    ]


def _confusions(
    confusion: NDArray[np.int64], names: Sequence[str], columns: Sequence[str], count: int = 12
) -> list[dict[str, str]]:
    """The wrong cells with the most pixels."""
    wrong = confusion.copy()
    diagonal = np.arange(len(names))
    wrong[diagonal, diagonal] = 0
    total, rows = max(int(wrong.sum()), 1), confusion.sum(1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    cells = [divmod(int(k), wrong.shape[1]) for k in order]
    return [
        {
            "truth": names[i],
            "predicted": columns[j],
            "share": _percent(wrong[i, j] / rows[i]),
            "wrong": _percent(wrong[i, j] / total),
        }
        for i, j in cells
        if wrong[i, j]
    ]


def _video_heads(results: Results) -> list[dict[str, str]]:
    plain = [{"name": name, "variant": ""} for name in ("video", "frames", "labelled")]
    return plain + [{"name": f"{score.name} %", "variant": score.variant} for score in results.video_columns()]


def _video_rows(results: Results) -> list[list[dict[str, Any]]]:
    columns = results.video_columns()
    return [
        [
            {"text": video.name, "sort": video.name},
            {"text": f"{video.frames:,}", "sort": video.frames},
            {"text": f"{video.labelled:,}", "sort": video.labelled},
            *(_cell(video.value(score), 2) for score in columns),
        ]
        for video in results.videos
    ]


# -- pictures ----------------------------------------------------------------------------------------------------------


def _timelines(videos: Sequence[VideoResult]) -> list[dict[str, Any]]:
    """One drawing per video of two frames or more, the most restless first."""
    lines = [(v.name, v.timeline) for v in videos if any(not math.isnan(f) for f in v.timeline.flicker)]
    tops = (
        _scale(f for _, line in lines for f in line.flicker),
        _scale(1 - accuracy for _, line in lines for accuracy in line.pixel_accuracy),
    )
    drawn = [(float(np.nanmean(line.flicker)), name, line) for name, line in lines]
    return [
        {"name": name, "mean": f"{100 * mean:.2f} %", "svg": Markup(_timeline(line, tops))}
        for mean, name, line in sorted(drawn, key=lambda entry: -entry[0])
    ]


def _scale(values: Iterable[float]) -> float:
    """A round upper edge that all but rare outliers (scene cuts) stay below."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return 0.01
    high = max(float(np.percentile(known, 99)), max(known) / 2)
    return next(edge for edge in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0) if high <= edge)


def _timeline(line: Timeline, tops: tuple[float, float]) -> str:
    flicker = [None if math.isnan(v) else v for v in line.flicker]
    wrong = [None if math.isnan(v) else 1 - v for v in line.pixel_accuracy]
    return timeline_svg(flicker, wrong, tops=tops, labels=line.name)


def _strips(snapshots: Iterable[Snapshot], classes: Sequence[ClassResult]) -> list[dict[str, Any]]:
    names, palette = [c.name for c in classes], [c.color for c in classes]
    strips, size = [], 0
    for shot in snapshots:
        pictures = shot.pictures(palette)
        size += sum(map(len, pictures))
        if size > PICTURE_BYTES:
            break
        strips.append(
            {
                "video": shot.video,
                "name": shot.name,
                "wrong": f"{100 * shot.wrong:.1f} %",
                "mistakes": ", ".join(shot.mistakes(names)),
                "width": shot.target.shape[1],
                "height": shot.target.shape[0],
                "pictures": list(zip(pictures, ("frame", "prediction", "ground truth", "errors"), strict=True)),
            }
        )
    return strips


def _legend(classes: Sequence[ClassResult]) -> list[dict[str, str]]:
    """Colours of the classes that a picture can show, the largest first."""
    seen = sorted((c for c in classes if c.pixels or c.predicted), key=lambda c: -(c.pixels + c.predicted))
    return [{"name": c.name, "color": "#{:02x}{:02x}{:02x}".format(*c.color)} for c in seen[:40]]
