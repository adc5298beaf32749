"""One curve as an SVG file that stands alone: a score over the weight of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def sweep_svg(
    xs: Sequence[float], ys: Sequence[float], best: float, title: str, ends: tuple[str, str], width: int = 560
) -> str:
    """Draw a score in percent over a weight.

    Args:
        xs: weights, ascending.
        ys: scores in 0..1, one per weight.
        best: the weight to mark.
        title: above the curve.
        ends: what the lowest and the highest weight stand for, written below the axis.
        width: in CSS pixels.
    """
    height, left, right, top, bottom = round(width * 0.6), 58, 18, 56, 56
    low, high = min(ys), max(ys)
    room = max((high - low) * 0.15, 0.002)
    low, high = max(0.0, low - room), min(1.0, high + room)
    span = max(xs[-1] - xs[0], 1e-9)

    def x(value: float) -> float:
        return left + (value - xs[0]) / span * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - low) / (high - low) * (height - top - bottom)

    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys, strict=True))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="22" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for i in range(5):
        value = low + (high - low) * i / 4
        parts.append(f'<path d="M{left} {y(value):.1f}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{100 * value:.2f}</text>')
    below = height - bottom + 18
    parts += [f'<text x="{x(value):.1f}" y="{below}" text-anchor="middle">{value:g}</text>' for value in xs]
    base = height - bottom + 38
    parts.append(f'<text x="{left}" y="{base}">{escape(ends[0])}</text>')
    parts.append(f'<text x="{width - right}" y="{base}" text-anchor="end">{escape(ends[1])}</text>')
    parts.append(f'<polyline points="{points}" fill="none" stroke="#2563eb" stroke-width="2"/>')
    for a, b in zip(xs, ys, strict=True):
        mark = a == best
        color, radius = ("#dc441e", 5) if mark else ("#2563eb", 3)
        parts.append(f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="{radius}" fill="{color}"/>')
        if mark:
            anchor = "end" if a == xs[-1] else "start" if a == xs[0] else "middle"  # inside the plot
            parts.append(f'<text x="{x(a):.1f}" y="{y(b) - 10:.1f}" text-anchor="{anchor}">{100 * b:.2f} %</text>')
    return "\n".join([*parts, "</svg>", ""])
