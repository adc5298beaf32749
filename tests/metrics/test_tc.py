"""TC against an oracle that walks over pixels, and the quirks of the authors' script one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everyframe.errors import InputError
from everyframe.metrics.flow import FlowPair
from everyframe.metrics.functional import mean_iou
from everyframe.metrics.tc import move_as_vspw_script, pair_confusion, temporal_consistency

K = 4


def oracle(pred: np.ndarray, after: np.ndarray, flow: np.ndarray, back: np.ndarray | None = None) -> np.ndarray:
    """Strict: one pixel after the other."""
    height, width = pred.shape
    matrix = np.zeros((K, K + 1), np.int64)
    for y in range(height):
        for x in range(width):
            u, v = flow[:, y, x]
            to_x, to_y = round(float(np.float32(x) + u)), round(float(np.float32(y) + v))
            if pred[y, x] >= K or not (0 <= to_x < width and 0 <= to_y < height):
                continue
            if back is not None:
                bu, bv = back[:, to_y, to_x]
                if (u + bu) ** 2 + (v + bv) ** 2 > 0.01 * (u * u + v * v + bu * bu + bv * bv) + 0.5:
                    continue
            matrix[pred[y, x], min(after[to_y, to_x], K)] += 1
    return matrix


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    preds = rng.integers(0, K + 1, (2, 9, 7)).astype(np.uint8)
    flow = rng.normal(0, 2, (2, 9, 7)).astype(np.float32)
    return preds[0], preds[1], flow, (-flow + rng.normal(0, 0.7, flow.shape)).astype(np.float32)


def test_strict_equals_the_oracle(pair: tuple[np.ndarray, ...]) -> None:
    pred, after, flow, back = pair
    assert pair_confusion(pred, after, FlowPair(flow), K).tolist() == oracle(pred, after, flow).tolist()
    with_occlusion = pair_confusion(pred, after, FlowPair(flow, back), K)
    assert with_occlusion.tolist() == oracle(pred, after, flow, back).tolist()
    assert with_occlusion.sum() < oracle(pred, after, flow).sum()


def test_a_moving_picture_is_perfectly_consistent() -> None:
    big = np.random.default_rng(1).integers(0, K, (12, 20)).astype(np.uint8)
    preds = np.stack([big[:, 5 - 2 * t : 15 - 2 * t] for t in range(3)])  # everything moves right by 2
    flows = np.zeros((2, 2, 12, 10), np.float32)
    flows[:, 0] = 2
    assert temporal_consistency([(preds, flows)], K) == 1.0
    assert temporal_consistency([(preds, flows, -flows)], K) == 1.0
    assert temporal_consistency([(preds, flows)], K, "vspw-script") < 1.0  # what left the picture counts as class 0
    assert temporal_consistency([(preds, np.zeros_like(flows))], K) < 0.5  # without the motion they disagree


def test_script_loses_a_row_even_without_motion() -> None:
    labels = np.full((480, 6), 3, np.uint8)
    moved = move_as_vspw_script(labels, np.zeros((2, 480, 6), np.float32))
    assert (moved == 0).any()  # grid scaled by size - 1, sampled with align_corners=False
    assert temporal_consistency([(np.stack([labels, labels]), np.zeros((1, 2, 480, 6)))], K) == 1.0


def test_script_sampling_pixel_by_pixel() -> None:
    labels = np.random.default_rng(2).integers(1, 9, (11, 13)).astype(np.uint8)
    flow = np.random.default_rng(3).normal(0, 3, (2, 11, 13)).astype(np.float32)
    moved = move_as_vspw_script(labels, flow)
    for y in range(11):
        for x in range(13):
            # (x + u) in 0..W-1 is stretched to -0.5..W-0.5
            sx = (float(x + flow[0, y, x]) / 12) * 13 - 0.5
            sy = (float(y + flow[1, y, x]) / 10) * 11 - 0.5
            if min(abs(s % 1 - 0.5) for s in (sx, sy)) < 1e-4:
                continue  # a tie in float32
            ix, iy = round(sx), round(sy)
            assert moved[y, x] == (labels[iy, ix] if 0 <= ix < 13 and 0 <= iy < 11 else 0)


def test_script_stops_after_a_hundred_videos() -> None:
    good, bad = np.zeros((2, 4, 4), np.uint8), np.stack([np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)])
    still = np.zeros((1, 2, 4, 4), np.float32)
    videos = [(good, still)] * 100 + [(bad, still)] * 100
    first, all_of_them = (temporal_consistency(videos, 2, variant) for variant in ("vspw-script", "strict"))
    assert first == 1.0
    assert all_of_them == 0.5


def test_predictions_outside_the_classes_are_left_out() -> None:
    pred = np.array([[0, 255, 1]], np.uint8)
    after = np.array([[0, 1, 255]], np.uint8)
    matrix = pair_confusion(pred, after, FlowPair(np.zeros((2, 1, 3), np.float32)), 2)
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert mean_iou(matrix) == 0.5


def test_one_frame_has_no_pair() -> None:
    assert math.isnan(temporal_consistency([(np.zeros((1, 4, 4), np.uint8), [])], K))


def test_bad_input() -> None:
    preds, still = np.zeros((3, 4, 4), np.uint8), np.zeros((1, 2, 4, 4), np.float32)
    with pytest.raises(InputError, match="each of 2 pairs of frames, came 1"):
        temporal_consistency([(preds, still)], K)
    with pytest.raises(InputError, match="strict, vspw-script"):
        pair_confusion(preds[0], preds[1], FlowPair(still[0]), K, "loose")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\[2, 4, 4\] like the frames, x then y, came \[2, 4, 5\]"):
        pair_confusion(preds[0], preds[1], FlowPair(np.zeros((2, 4, 5), np.float32)), K)
    with pytest.raises(InputError, match="of one size"):
        pair_confusion(preds[0], preds[1, :2], FlowPair(still[0]), K)
