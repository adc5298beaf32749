"""The plot of a sweep: everything lies inside the picture, and the axis shows shares."""

from __future__ import annotations

import re

import pytest

from everyframe.report.sweep import sweep_svg

TAUS = [i / 10 for i in range(11)]


def drawn(ys: list[float], best: float) -> tuple[list[float], tuple[float, float, str]]:
    """Return the ticks of the score, and place and anchor of the label of the best weight."""
    svg = sweep_svg(TAUS, ys, best, "mIoU <%>", ("tau 0: b", "tau 1: a"))
    assert "mIoU &lt;%&gt;" in svg
    ticks = [float(value) for value in re.findall(r'text-anchor="end">(-?[\d.]+)</text>', svg)]
    ((x, y, anchor),) = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">[\d.]+ %</text>', svg)
    return ticks, (float(x), float(y), anchor)


@pytest.mark.parametrize(("best", "anchor", "x"), [(0.0, "start", 58), (0.5, "middle", 300), (1.0, "end", 542)])
def test_the_label_stays_inside(best: float, anchor: str, x: float) -> None:
    _, label = drawn([0.4 + 0.1 * (tau == best) for tau in TAUS], best)
    assert (label[0], label[2]) == (x, anchor)


def test_the_axis_stays_within_0_and_100_percent() -> None:
    ticks, _ = drawn([0.0001 * i for i in range(11)], 1.0)
    assert ticks == [0.0, 0.07, 0.15, 0.23, 0.3]
    ticks, label = drawn([0.9 + 0.01 * i for i in range(11)], 1.0)
    assert (ticks[-1], ticks[0]) == (100.0, pytest.approx(88.5))
    assert label[1] == 46, "below the title, which stands at 22"
    ticks, _ = drawn([1.0] * 11, 0.0)
    assert (ticks[0], ticks[-1]) == (99.8, 100.0)
