"""The pages of results show the published tables beside them, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from everyframe.reproduce.plan import Setting
from everyframe.reproduce.reuse import published_figures
from everyframe.reproduce.table import Line, class_table, markdown

DOCS = Path(__file__).parents[1] / "docs"
TABLES = sorted((DOCS / "results").glob("*.json"))


def read_table(path: Path) -> tuple[Setting, list[Line]]:
    """What `everyframe reproduce` made the table of."""
    found = json.loads(path.read_text(encoding="utf-8"))
    setting = Setting(found["experiment"], found["data"], path.parent, found["scale"], 3, found["extra"], found["size"])
    lines = [
        Line(row["label"], {int(seed): figures for seed, figures in row["seeds"].items()}, row["planned"])
        for row in found["rows"]
    ]
    return setting, lines


def test_there_are_tables() -> None:
    assert TABLES


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_page_shows_the_published_table(path: Path) -> None:
    setting, lines = read_table(path)
    shown = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("results*.md")).splitlines()
    measured = [line for line in lines if line.seeds]
    table = markdown(setting, measured, []).splitlines()
    assert measured
    for row in (line for line in table if line.startswith("|")):
        assert row in shown


def test_classes_on_the_pages_are_those_of_published_tables() -> None:
    published = {row for path in TABLES for row in class_table(read_table(path)[1]).splitlines()}
    for page in DOCS.glob("results*.md"):
        inside = False
        for line in page.read_text(encoding="utf-8").splitlines():
            inside = line.startswith("| IoU |") or (inside and line.startswith("|"))
            assert not inside or line in published


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_published_figures_can_be_reused(path: Path) -> None:
    figures = published_figures(path)
    assert len(figures) == sum(len(line.seeds) for line in read_table(path)[1])
    assert all(0 < of["mIoU"] < 1 for of in figures.values())
