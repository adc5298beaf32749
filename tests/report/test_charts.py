from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from everyframe.report.charts import MAX_POINTS, confusion_svg, data_uri, row_shares, timeline_svg

CONFUSION = np.array([[90, 10, 0], [0, 0, 0], [1, 0, 3]])


def matrix_picture(svg: str) -> np.ndarray:
    packed = re.search(r'href="data:image/png;base64,([^"]+)"', svg)
    assert packed
    return np.array(Image.open(io.BytesIO(base64.b64decode(packed[1]))))


def numbers(svg: str, kind: str) -> list[tuple[float, float]]:
    """Corner points of a line of the drawing."""
    path = re.search(rf'<path class="{kind}" d="M([^"]+)"', svg)
    assert path
    return [tuple(map(float, point.split())) for point in path[1].split("L")]  # type: ignore[misc]


def test_row_shares_divide_by_the_ground_truth_and_leave_absent_rows_zero() -> None:
    np.testing.assert_allclose(row_shares(CONFUSION), [[0.9, 0.1, 0], [0, 0, 0], [0.25, 0, 0.75]])


def test_data_uri_round_trips_losslessly() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    text = data_uri(Image.fromarray(pixels), lossless=True)
    assert text.startswith("data:image/webp;base64,")
    back = Image.open(io.BytesIO(base64.b64decode(text.split(",")[1])))
    np.testing.assert_array_equal(np.array(back.convert("RGB")), pixels)


def test_confusion_cells_are_transparent_in_proportion_and_tell_right_from_wrong() -> None:
    picture = matrix_picture(confusion_svg(CONFUSION, ["road", "car", "sky"]))
    assert picture.shape == (3, 3, 4)
    np.testing.assert_array_equal(picture[..., 3] == 0, row_shares(CONFUSION) == 0)
    assert picture[0, 0, 3] == round(255 * 0.9**0.6)
    assert picture[0, 0, 2] > picture[0, 0, 0], "right answers are blue"
    assert picture[0, 1, 0] > picture[0, 1, 2], "wrong answers are orange"


def test_confusion_prints_percentages_up_to_16_classes_and_a_row_name_each() -> None:
    svg = confusion_svg(CONFUSION, ["road", "car", "<sky>"])
    texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]  # also: is well formed
    assert [t for t in texts if t and t[0].isdigit()] == ["90", "10", "25", "75"]
    assert texts.count("<sky>") == 2
    many = confusion_svg(np.eye(124, dtype=int) * 5, [f"c{i}" for i in range(124)])
    texts = [element.text for element in ElementTree.fromstring(many).iter("text")]
    assert len(texts) == 248
    assert float(ElementTree.fromstring(many).get("width") or 0) <= 1085


def test_confusion_may_have_a_column_more_than_rows() -> None:
    svg = confusion_svg(np.array([[3, 0, 1], [0, 4, 0]]), ["a", "b"], ["a", "b", "no class"])
    assert matrix_picture(svg).shape == (2, 3, 4)
    assert "no class" in svg


def test_timeline_puts_values_where_they_belong() -> None:
    svg = timeline_svg([None, 0.0, 0.1, 0.2], [None] * 4, tops=(0.2, 1.0), labels=["a", "b", "c", "d"])
    ElementTree.fromstring(svg)
    points = numbers(svg, "flicker")
    x, y = zip(*points, strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11), "equal frames, equal steps"
    assert y[0] == 76.0
    assert y[2] == 14.0
    assert y[1] == pytest.approx((14 + 76) / 2, abs=0.06)
    assert "d: 20 %" in svg, "the peak is named"
    assert 'class="wrong"' not in svg


def test_timeline_draws_sparse_labels_as_dots_and_breaks_lines_at_gaps() -> None:
    svg = timeline_svg([None, 0.1, 0.1, None, 0.1, 0.1], [0.5, None, None, 0.5, None, None], tops=(1, 1))
    assert svg.count('class="wrong-dot"') == 2
    assert svg.count('class="flicker"') == 2


def test_timeline_of_a_long_video_keeps_its_spike() -> None:
    values: list[float | None] = [None] + [0.001] * 9999
    values[7777] = 0.9
    svg = timeline_svg(values, [None] * 10_000, tops=(0.9, 1), labels=[f"{i:05d}" for i in range(10_000)])
    points = numbers(svg, "flicker")
    assert len(points) <= MAX_POINTS
    assert min(y for _, y in points) == 14.0
    assert "07777: 90 %" in svg


def test_timeline_of_one_frame_and_of_none_still_draws() -> None:
    for values in ([], [None], [0.0, 0.0]):
        ElementTree.fromstring(timeline_svg(values, [None] * len(values), tops=(0, 0)))
