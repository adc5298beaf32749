"""Pictures of numbers for the report: inline SVG and small embedded images, no script and no font from elsewhere.

Colours are CSS variables of the page (`--ink`, `--accent`, `--wrong`, ...) or carry transparency, so that every chart
stands on a light, a dark and a printed ground alike.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ACCENT = (37, 99, 235)
"""RGB of right answers in the confusion matrix."""
WRONG = (220, 68, 30)
"""RGB of wrong answers in the confusion matrix and in the error pictures."""
MAX_POINTS = 240
"""Points of one timeline; longer videos keep the highest value of each bin, so that no spike is lost."""


def data_uri(picture: Image.Image, kind: str = "WEBP", **options: object) -> str:
    """Return a picture as a `data:` address that lies inside the page."""
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def row_shares(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """Divide each row (ground-truth class) by its sum: [R, C] counts -> [R, C] in 0..1, rows without pixels all 0."""
    total = confusion.sum(1, keepdims=True)
    return np.divide(confusion, total, out=np.zeros(confusion.shape, np.float64), where=total > 0)


def confusion_svg(
    confusion: NDArray[np.integer], names: Sequence[str], columns: Sequence[str] | None = None, width: int = 1080
) -> str:
    """Draw a row-normalised confusion matrix: right answers blue, wrong ones orange, stronger = larger share.

    Args:
        confusion: counts [R, C], row = class of the ground truth, column = predicted class.
        names: R names of the rows.
        columns: C names of the columns; the rows' when left out.
        width: largest width of the drawing in CSS pixels.

    Returns:
        SVG text. Up to 16 classes the cells carry their percentage; beyond, the page's pointer line reads them out.
    """
    columns = names if columns is None else columns
    shares = row_shares(confusion)
    rows, cols = shares.shape
    longest = max(map(len, [*names, *columns]), default=1)
    numbers = max(rows, cols) <= 16
    cell = min(44.0 if numbers else 30.0, (width - 40) / (cols + 0.6 * longest))
    font = max(5.0, min(12.0, cell * 0.92))
    margin = round(font * 0.56 * longest + 14)
    w, h = margin + cols * cell + 4, margin + rows * cell + 4
    parts = [
        f'<svg class="confusion" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" height="{h:.0f}" role="img" '
        f'aria-label="confusion matrix" data-margin="{margin}" data-cell="{cell:.3f}" font-size="{font:.1f}">',
        f'<rect class="ground" x="{margin}" y="{margin}" width="{cols * cell:.2f}" height="{rows * cell:.2f}"/>',
        f'<image x="{margin}" y="{margin}" width="{cols * cell:.2f}" height="{rows * cell:.2f}" '
        f'preserveAspectRatio="none" style="image-rendering:pixelated" href="{_matrix_picture(shares)}"/>',
    ]
    grid = [f"M{margin} {margin + i * cell:.1f}h{cols * cell:.1f}" for i in range(rows + 1)]
    grid += [f"M{margin + j * cell:.1f} {margin}v{rows * cell:.1f}" for j in range(cols + 1)]
    parts.append(f'<path class="grid" d="{"".join(grid)}"/>')
    for i, name in enumerate(names):
        y = margin + (i + 0.5) * cell + font * 0.35
        absent = "" if shares[i].any() else ' class="absent"'
        parts.append(f'<text x="{margin - 6}" y="{y:.1f}" text-anchor="end"{absent}>{escape(name)}</text>')
    for j, name in enumerate(columns):
        x = margin + (j + 0.5) * cell + font * 0.35
        parts.append(f'<text transform="translate({x:.1f} {margin - 6}) rotate(-90)">{escape(name)}</text>')
    if numbers:
        parts += _cell_numbers(shares, margin, cell)
    parts.append('<rect class="cursor" width="0" height="0"/></svg>')
    return "".join(parts)


def _matrix_picture(shares: NDArray[np.float64]) -> str:
    """One pixel per cell; transparency carries the value, raised so that small confusions still show."""
    rgba = np.empty((*shares.shape, 4), np.uint8)
    rgba[..., :3] = WRONG
    diagonal = np.arange(min(shares.shape))
    rgba[diagonal, diagonal, :3] = ACCENT
    rgba[..., 3] = np.round(255 * np.clip(shares, 0, 1) ** 0.6)
    return data_uri(Image.fromarray(rgba), "PNG")


def _cell_numbers(shares: NDArray[np.float64], margin: float, cell: float) -> list[str]:
    parts = []
    for i, j in zip(*np.nonzero(shares >= 0.0005), strict=True):
        share = shares[i, j]
        text = f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.1f}"
        light = ' class="on"' if share >= 0.35 else ""
        x, y = margin + (j + 0.5) * cell, margin + (i + 0.5) * cell + 4
        parts.append(f'<text{light} x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="11">{text}</text>')
    return parts


def timeline_svg(
    flicker: Sequence[float | None],
    wrong: Sequence[float | None],
    *,
    tops: tuple[float, float],
    labels: Sequence[str] = (),
    width: int = 540,
) -> str:
    """Draw one video over time in two lanes: flicker as a filled line, wrong pixels below as a line or as dots.

    Args:
        flicker: one value per frame in 0..1; None where there is none (the first frame).
        wrong: share of wrong pixels per frame in 0..1; None where the frame has no label map. The lane is left out
            when all are None.
        tops: value at the upper edge of each lane, the same for all videos of a page so that they compare.
        labels: one name per frame, shown at the highest flicker.
        width: in CSS pixels.
    """
    left, right = 38, 6
    count = max(len(flicker), len(wrong), 2)
    step = (width - left - right) / (count - 1)
    two = any(value is not None for value in wrong)
    height = 148 if two else 92
    parts = [f'<svg class="timeline" viewBox="0 0 {width} {height}" role="img" aria-label="flicker over time">']
    parts += _lane(flicker, "flicker", _Lane(left, step, width - right, 14, 76, max(tops[0], 1e-6)))
    parts.append(_peak(flicker, labels, _Lane(left, step, width - right, 14, 76, max(tops[0], 1e-6))))
    if two:
        parts += _lane(wrong, "wrong", _Lane(left, step, width - right, 88, 132, max(tops[1], 1e-6)))
    parts.append(f'<text x="{left}" y="{height - 3}">0</text>')
    parts.append(f'<text x="{width - right}" y="{height - 3}" text-anchor="end">frame {count - 1}</text></svg>')
    return "".join(parts)


@dataclass(frozen=True, slots=True)
class _Lane:
    """Where the values of one lane stand on the drawing, in CSS pixels."""

    left: float
    step: float
    right: float
    upper: float
    lower: float
    top: float

    def x(self, frame: float) -> float:
        return self.left + self.step * frame

    def y(self, value: float) -> float:
        return self.lower - (self.lower - self.upper) * min(value / self.top, 1.0)


def _lane(values: Sequence[float | None], kind: str, lane: _Lane) -> list[str]:
    parts = []
    for value in (0.0, lane.top / 2, lane.top):
        parts.append(f'<path class="grid" d="M{lane.left} {lane.y(value):.1f}H{lane.right}"/>')
        if value != lane.top / 2:
            parts.append(
                f'<text x="{lane.left - 5}" y="{lane.y(value) + 3.5:.1f}" text-anchor="end">{100 * value:.3g} %</text>'
            )
    for run in _runs(_thin(values)):
        if len(run) == 1:
            ((i, value),) = run
            parts.append(f'<circle class="{kind}-dot" cx="{lane.x(i):.1f}" cy="{lane.y(value):.1f}" r="2.2"/>')
            continue
        line = "L".join(f"{lane.x(i):.1f} {lane.y(value):.1f}" for i, value in run)
        floor = f"L{lane.x(run[-1][0]):.1f} {lane.lower}L{lane.x(run[0][0]):.1f} {lane.lower}Z"
        parts.append(f'<path class="{kind}-area" d="M{line}{floor}"/><path class="{kind}" d="M{line}"/>')
    return parts


def _peak(flicker: Sequence[float | None], labels: Sequence[str], lane: _Lane) -> str:
    """Name the frame where the video flickers most."""
    known = [(value, i) for i, value in enumerate(flicker) if value is not None]
    if not known or max(known)[0] <= 0:
        return ""
    value, i = max(known)
    x, y = lane.x(i), lane.y(value)
    at_end = x > (lane.left + lane.right) * 0.6
    text = escape(labels[i] if i < len(labels) else str(i))
    return (
        f'<circle class="peak" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
        f'<text class="peak-name" x="{x + (-7 if at_end else 7):.1f}" y="{max(y - 2, 10):.1f}" '
        f'text-anchor="{"end" if at_end else "start"}">{text}: {100 * value:.3g} %</text>'
    )


def _thin(values: Sequence[float | None]) -> list[tuple[int, float | None]]:
    """Return (frame, value), at most `MAX_POINTS` of them: of each bin the highest."""
    if len(values) <= MAX_POINTS:
        return list(enumerate(values))
    thinned: list[tuple[int, float | None]] = []
    edges = np.linspace(0, len(values), MAX_POINTS + 1).astype(int)
    for start, stop in pairwise(edges.tolist()):
        known = [(v, i) for i, v in enumerate(values[start:stop], start) if v is not None]
        thinned.append((max(known)[1], max(known)[0]) if known else (start, None))
    return thinned


def _runs(points: Sequence[tuple[int, float | None]]) -> list[list[tuple[int, float]]]:
    """Split at the frames without a value."""
    runs: list[list[tuple[int, float]]] = [[]]
    for i, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((i, value))
    return [run for run in runs if run]
