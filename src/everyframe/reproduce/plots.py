"""Plots of a grid as SVG files that stand alone: no script, no font and no library from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from everyframe.files import write_whole
from everyframe.reproduce.experiment import Row
from everyframe.reproduce.plan import Setting
from everyframe.reproduce.table import Line

INK, GRID = "#1f2937", "#d1d5db"
COLORS = ("#2563eb", "#dc441e", "#0f9d58", "#8b5cf6")
"""Blue and orange first: they differ for colour-blind readers too."""
STYLE = 'font-family="system-ui, sans-serif" font-size="13"'
WIDTH = 760


def write_plots(setting: Setting, lines: Sequence[Line]) -> list[Path]:
    """Write the plots that the finished cells allow; returns their files."""
    plots = {}
    for name in ("mIoU", "VC8"):
        if any(line.values(name) for line in lines):
            plots[f"{name.lower()}.svg"] = bars_svg(f"{setting.name}: {name} (%)", lines, name)
    axis = setting.experiment.axis
    if axis is not None and any(line.values("mIoU") for line in lines):
        plots["curve.svg"] = curve_svg(f"{setting.name}: mIoU (%)", axis, setting.rows, lines)
    if setting.name == "mean-teacher-vs-iterative" and any(line.values("mIoU") for line in lines):
        plots["miou_over_hours.svg"] = scatter_svg(f"{setting.name}: mIoU (%) over hours of training", lines)
    for name, text in plots.items():
        write_whole(setting.out / name, text)
    return [setting.out / name for name in plots]


def bars_svg(title: str, lines: Sequence[Line], name: str) -> str:
    """Draw a bar per row with the mean over seeds, a whisker of one deviation, and every seed as a dot."""
    known = [line for line in lines if line.values(name)]
    left = 16 + round(7.2 * max(len(line.label) for line in known))
    scale = _Axis.over([100 * value for line in known for value in line.values(name)], left, WIDTH - 70)
    height = 46 + 26 * len(known) + 24
    parts = [_text(left, 22, title, weight="bold"), *_vertical_grid(scale, 36, height - 24)]
    for i, line in enumerate(known):
        y = 46 + 26 * i
        mean, deviation = 100 * line.mean(name), 100 * line.deviation(name)
        end = scale.at(mean)
        parts.append(_text(left - 8, y + 13, line.label, anchor="end"))
        parts.append(
            f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="17" fill="{COLORS[0]}" opacity=".75"/>'
        )
        if not math.isnan(deviation):
            low, high = scale.at(mean - deviation), scale.at(mean + deviation)
            parts.append(f'<path d="M{low:.1f} {y + 8.5}H{high:.1f}" stroke="{INK}" stroke-width="1.6"/>')
        dots = (scale.at(100 * value) for value in line.values(name))
        parts += [f'<circle cx="{x:.1f}" cy="{y + 8.5}" r="2.4" fill="{INK}"/>' for x in dots]
        text = f"{mean:.2f}" + ("" if math.isnan(deviation) else f" ± {deviation:.2f}")
        parts.append(_text(WIDTH - 4, y + 13, text, anchor="end", size=11))
    return _svg(WIDTH, height, title, parts)


def curve_svg(title: str, axis: str, rows: Sequence[Row], lines: Sequence[Line]) -> str:
    """Draw mIoU over `Row.x`, a line per series; rows without an x are dashed levels."""
    by_label = {line.label: line for line in lines if line.values("mIoU")}
    points = [(row, by_label[row.label]) for row in rows if row.label in by_label]
    across = _Axis.over([row.x for row, _ in points if row.x is not None] or [0.0], 60, WIDTH - 130)
    values = [100 * value for _, line in points for value in line.values("mIoU")]
    up = _Axis.over(values, 300, 44)
    parts = [_text(60, 22, title, weight="bold"), *_horizontal_grid(up, 60, WIDTH - 130)]
    series = list(dict.fromkeys(row.series for row in rows if row.x is not None))
    for row, line in points:
        if row.x is None:
            y = up.at(100 * line.mean("mIoU"))
            parts.append(f'<path d="M60 {y:.1f}H{WIDTH - 130}" stroke="{INK}" stroke-dasharray="5 4"/>')
            parts.append(_text(WIDTH - 124, y + 4, row.label, size=11))
    for name, color in zip(series, COLORS, strict=False):
        own = sorted((row.x, line) for row, line in points if row.series == name and row.x is not None)
        path = "L".join(f"{across.at(x):.1f} {up.at(100 * line.mean('mIoU')):.1f}" for x, line in own)
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>' if own else "")
        for x, line in own:
            at, mean, spread = across.at(x), 100 * line.mean("mIoU"), 100 * line.deviation("mIoU")
            if not math.isnan(spread):
                parts.append(
                    f'<path d="M{at:.1f} {up.at(mean - spread):.1f}V{up.at(mean + spread):.1f}" stroke="{color}"/>'
                )
            parts.append(f'<circle cx="{at:.1f}" cy="{up.at(mean):.1f}" r="3.4" fill="{color}"/>')
        if own:
            parts.append(_text(WIDTH - 124, up.at(100 * own[-1][1].mean("mIoU")) + 4, name, size=11, color=color))
    places = sorted({row.x for row, _ in points if row.x is not None})
    parts += [_text(across.at(x), 320, f"{x:g}", anchor="middle", size=11) for x in places]
    parts.append(_text((60 + WIDTH - 130) / 2, 342, axis, anchor="middle"))
    return _svg(WIDTH, 354, title, parts)


def scatter_svg(title: str, lines: Sequence[Line]) -> str:
    """Draw mIoU over hours of training, a point per row."""
    known = [line for line in lines if line.values("mIoU") and line.values("hours")]
    across = _Axis.over([0.0, *(line.mean("hours") for line in known)], 60, WIDTH - 190)
    up = _Axis.over([100 * line.mean("mIoU") for line in known], 300, 44)
    parts = [_text(60, 22, title, weight="bold"), *_horizontal_grid(up, 60, WIDTH - 190)]
    for line in known:
        x, y = across.at(line.mean("hours")), up.at(100 * line.mean("mIoU"))
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLORS[0]}"/>{_text(x + 7, y + 4, line.label, size=11)}'
        )
    parts += [_text(across.at(value), 320, f"{value:g}", anchor="middle", size=11) for value in across.ticks]
    parts.append(_text((60 + WIDTH - 190) / 2, 342, "hours", anchor="middle"))
    return _svg(WIDTH, 354, title, parts)


class _Axis:
    """Numbers to pixels, with round ticks.

    Args:
        low: number at `start`.
        high: number at `end`.
        step: between two ticks.
        start: pixel.
        end: pixel; below `start` for axes that point up.
    """

    def __init__(self, low: float, high: float, step: float, start: float, end: float) -> None:
        self.low, self.high, self.step, self.start, self.end = low, high, step, start, end

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Axis:
        """Cover all values with about five round steps; differences count, so it need not begin at 0."""
        low, high = min(values), max(values)
        span = max(high - low, 1e-3 * max(abs(high), 1.0))
        rough = span / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        bottom = math.floor(low / step) * step
        if bottom == low and low > 0:
            bottom -= step  # a bar of no length cannot be seen
        return cls(bottom, math.ceil(high / step) * step, step, start, end)

    def at(self, value: float) -> float:
        """Return the pixel of a number."""
        share = (value - self.low) / max(self.high - self.low, 1e-12)
        return self.start + (self.end - self.start) * share

    @property
    def ticks(self) -> list[float]:
        """Round numbers from end to end."""
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]


def _vertical_grid(axis: _Axis, upper: float, lower: float) -> list[str]:
    parts = []
    for value in axis.ticks:
        x = axis.at(value)
        parts.append(f'<path d="M{x:.1f} {upper}V{lower}" stroke="{GRID}"/>')
        parts.append(_text(x, lower + 16, f"{value:g}", anchor="middle", size=11))
    return parts


def _horizontal_grid(axis: _Axis, left: float, right: float) -> list[str]:
    parts = []
    for value in axis.ticks:
        y = axis.at(value)
        parts.append(f'<path d="M{left} {y:.1f}H{right}" stroke="{GRID}"/>')
        parts.append(_text(left - 6, y + 4, f"{value:g}", anchor="end", size=11))
    return parts


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 13, weight: str = "normal", color: str = INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="{color}">{escape(text)}</text>'
    )


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}" {STYLE}><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )
