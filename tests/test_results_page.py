"""The tables of docs/results.md are those of the published files beside it, to the last digit."""

from __future__ import annotations

from pathlib import Path

import pytest

from everyframe.reproduce.reuse import published_figures
from everyframe.reproduce.table import markdown, read_table

DOCS = Path(__file__).parents[1] / "docs"
TABLES = sorted((DOCS / "results").glob("*.json"))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_page_shows_the_published_table(path: Path) -> None:
    setting, lines = read_table(path)
    shown = (DOCS / "results.md").read_text(encoding="utf-8").splitlines()
    measured = [line for line in lines if line.seeds]
    table = markdown(setting, measured, []).splitlines()
    assert measured
    for row in (line for line in table if line.startswith("|")):
        assert row in shown


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_published_figures_can_be_reused(path: Path) -> None:
    figures = published_figures(path)
    assert len(figures) == sum(len(line.seeds) for line in read_table(path)[1])
    assert all(0 < of["mIoU"] < 1 for of in figures.values())
