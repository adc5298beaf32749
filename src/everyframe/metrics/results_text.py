"""Results as text: numbers in percent, aligned tables, definitions below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everyframe.metrics.results import Results


def text_tables(results: Results, classes: bool = True, videos: bool = True) -> str:
    """Return the tables of an evaluation.

    Args:
        results: the numbers.
        classes: with a table of the classes that occur or are predicted.
        videos: with a table of the videos.
    """
    parts = [results.title] if results.title else []
    overall = [[score.title, percent(score.value), score.interval] for score in results.overall]
    parts.append(_aligned(["score", "value", "95 % interval over videos"], overall))
    seen = [c for c in results.classes if c.pixels or c.predicted]
    if classes and seen:
        rows = [[c.name, f"{c.pixels}", percent(c.iou), percent(c.accuracy), percent(c.precision)] for c in seen]
        parts.append(_aligned(["class", "pixels", "IoU", "accuracy", "precision"], rows))
        absent = len(results.classes) - len(seen)
        if absent:
            parts[-1] += f"\n({absent} classes neither in the ground truth nor predicted)"
    if videos and results.videos:
        columns = results.video_columns()
        rows = [
            [video.name, f"{video.labelled}/{video.frames}", *(percent(video.value(score)) for score in columns)]
            for video in results.videos
        ]
        parts.append(_aligned(["video", "labelled", *(score.title for score in columns)], rows))
    parts += [f"note: {note}" for note in results.notes]
    meanings: dict[str, list[str]] = {}  # VC8 and VC16 share theirs
    for score in results.overall:
        meanings.setdefault(score.definition, []).append(score.title)
    lines = [f"  {', '.join(titles)}: {text}" for text, titles in meanings.items() if text]
    parts.append("\n".join(["definitions", *lines]))
    return "\n\n".join(parts)


def percent(value: float) -> str:
    """A share as tables print it: in percent, two digits; "-" where it is not defined."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts: "1 video", "1,200 videos"; `many` where the plural is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right, a rule below the header."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for first, *others in cells:
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])
