from __future__ import annotations

import math
import re
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from everyframe.metrics.results import ClassResult, Results, Score, Timeline, VideoResult
from everyframe.report.page import OPEN_TIMELINES, write_page
from everyframe.report.strips import Snapshot

NAN = math.nan


def results(videos: int = 2, labelled: bool = True) -> Results:
    """Two frames per video; numbers that occur only once, so that a test finds them on the page."""
    lines = [
        Timeline(
            frame=[0, 1], name=["f0", "f1"], miou=[0.5, NAN], pixel_accuracy=[0.75 if labelled else NAN, NAN],
            flicker=[NAN, 0.01 * (i + 1)], flip_back=[NAN, NAN], tc=[NAN, NAN],
        )
        for i in range(videos)
    ]  # fmt: skip
    entries = [
        VideoResult(
            f"video{i}", 2, int(labelled),
            [Score("mIoU", "in-ground-truth", 0.4321 + i / 100), Score("VC8", "correct", 0.8765 if i == 0 else NAN)],
            line,
        )
        for i, line in enumerate(lines)
    ]  # fmt: skip
    return Results(
        overall=[
            Score("mIoU", "in-ground-truth", 0.61234, 0.5, 0.7),
            Score("mIoU", "union>0", 0.59876),
            Score("VC8", "correct", 0.8765),
            Score("TC", "strict", NAN),
        ],
        classes=[
            ClassResult("road", (128, 64, 128), 100, 91, 0.8317, 0.9, 0.989),
            ClassResult("<car>", (1, 2, 3), 4, 13, 0.2143, 0.75, 0.231),
            ClassResult("moon", (9, 9, 9), 0, 0, NAN, NAN, NAN),
        ],
        videos=entries,
        confusion=[[90, 10, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0]] if labelled else [[0] * 4] * 3,
        title="model-x on camvid, test",
        notes=["one <note>"],
    )


def written(tmp_path: Path, what: Results, **options: object) -> str:
    return write_page(what, tmp_path / "report.html", **options).read_text(encoding="utf-8")  # type: ignore[arg-type]


class Checker(HTMLParser):
    """Collects the text, and refuses unbalanced tags and anything fetched from elsewhere."""

    VOID = frozenset({"meta", "img", "br", "image", "path", "rect", "circle"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for key, value in attrs:
            if key in {"src", "href"}:
                assert (value or "").startswith(("data:", "#")), f"{tag} fetches {value}"
        assert tag not in {"link", "iframe", "object"}

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", html)
    return checker


def test_page_holds_every_number_beside_its_variant_and_definition(tmp_path: Path) -> None:
    html = written(tmp_path, results(), settings={"split": "test"}, date=datetime(2031, 2, 3, 4, 5))
    text = [piece for piece in checked(html).text if piece]
    for expected in ("model-x on camvid, test", "61.23 %", "59.88 %", "87.65 %", "in-ground-truth", "union>0",
                     "50.0 – 70.0", "83.2", "21.4", "43.21", "44.21", "1 of 2 videos",
                     "one <note>", "<car>", "test"):  # fmt: skip
        assert expected in text, expected
    assert "2031-02-03 04:05" in html
    for score in results().overall:
        assert any(score.definition in piece for piece in text), score.title
    assert any("everyframe 0" in piece and "torch 2" in piece for piece in text)


def test_page_reads_the_confusion_both_ways(tmp_path: Path) -> None:
    html = written(tmp_path, results())
    assert '"share": [[900, 100, 0], [250, 750, 0], [0, 0, 0]]' in html
    row = re.search(r"<tr><td>road → &lt;car&gt;</td><td>10.0</td><td>90.9</td></tr>", html)
    assert row, "10 of 100 road pixels, 10 of 11 wrong pixels"
    assert "no class" not in html.split('id="cells"')[1]


def test_page_shows_the_column_of_pixels_without_a_class_only_when_it_counts(tmp_path: Path) -> None:
    what = results()
    what.confusion[0] = [80, 10, 0, 10]
    html = written(tmp_path, what)
    assert '"columns": ["road", "\\u003ccar\\u003e", "moon", "no class"]' in html
    assert "road → no class" in html


def test_page_without_labels_keeps_what_needs_none(tmp_path: Path) -> None:
    html = written(tmp_path, results(labelled=False))
    tags = checked(html)
    assert 'id="flicker"' in html
    assert 'id="classes"' not in html
    assert 'id="confusion"' not in html
    assert "svg" in tags.tags


def test_most_restless_video_comes_first_and_many_fold_away(tmp_path: Path) -> None:
    html = written(tmp_path, results(videos=OPEN_TIMELINES + 3))
    drawn = re.findall(r"<figcaption><b>(video\d+)</b>", html)
    assert drawn == [f"video{i}" for i in reversed(range(OPEN_TIMELINES + 3))]
    assert "3 more videos" in html


def test_worst_frames_lie_inside_the_page(tmp_path: Path) -> None:
    labels = np.zeros((4, 6), np.uint8)
    bad = labels.copy()
    bad[:2] = 1
    shot = Snapshot("video0", "f0", np.zeros((4, 6, 3), np.uint8), bad, labels)
    html = written(tmp_path, results(), snapshots=[shot])
    checked(html)
    assert html.count("data:image/webp;base64,") == 4
    assert "50.0 % of the labelled pixels wrong" in html
    assert "road → &lt;car&gt; 50 %" in html


def test_pictures_stay_within_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((64, 64), np.uint8)
    shots = [Snapshot("v", str(i), rng.integers(0, 256, (64, 64, 3), np.uint8), labels, labels) for i in range(8)]
    one = sum(map(len, shots[0].pictures([(0, 0, 0)])))
    monkeypatch.setattr("everyframe.report.page.PICTURE_BYTES", int(3.5 * one))
    html = written(tmp_path, results(), snapshots=shots)
    assert 2 <= html.count('class="strip"') <= 4


def test_nothing_measured_is_still_a_page(tmp_path: Path) -> None:
    checked(written(tmp_path, Results([], [], [], [])))
