"""Flicker and flip-back: by hand, against an oracle, and along a flow that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from everyframe.metrics.flicker import FlickerMeter, flicker_timeline
from everyframe.metrics.flow import FlowPair


def test_by_hand() -> None:
    # One pixel stays, one moves on A B C, one blinks A B A.
    preds = np.array([[[0, 0, 0]], [[0, 1, 1]], [[0, 2, 0]]], np.uint8)
    flicker, flip_back = flicker_timeline(preds)
    assert flicker[1:] == [2 / 3, 2 / 3]
    assert math.isnan(flicker[0])
    assert flip_back[2] == 1 / 3
    assert math.isnan(flip_back[0])
    assert math.isnan(flip_back[1])


def test_equals_the_oracle() -> None:
    preds = np.random.default_rng(0).integers(0, 3, (8, 5, 6)).astype(np.uint8)
    flicker, flip_back = flicker_timeline(preds)
    for t in range(1, 8):
        pixels = [(y, x) for y in range(5) for x in range(6)]
        assert flicker[t] == sum(preds[t, y, x] != preds[t - 1, y, x] for y, x in pixels) / 30
        if t > 1:
            events = [preds[t, y, x] == preds[t - 2, y, x] != preds[t - 1, y, x] for y, x in pixels]
            assert flip_back[t] == sum(events) / 30


def moving(frames: int, step: int) -> tuple[np.ndarray, list[FlowPair]]:
    big = np.random.default_rng(1).integers(0, 5, (7, 60)).astype(np.uint8)
    preds = np.stack([big[:, 30 - step * t : 42 - step * t] for t in range(frames)])
    ahead = np.zeros((2, 7, 12), np.float32)
    ahead[0] = step
    return preds, [FlowPair(ahead, -ahead)] * (frames - 1)


def test_motion_is_flicker_without_flow_and_none_along_it() -> None:
    preds, flows = moving(6, 2)
    assert min(flicker_timeline(preds)[0][1:]) > 0.5
    flicker, flip_back = flicker_timeline(preds, flows)
    assert flicker[1:] == [0.0] * 5
    assert flip_back[2:] == [0.0] * 4


def test_a_blink_is_seen_along_the_flow() -> None:
    preds, flows = moving(5, 2)
    preds[2, 3, 5] = 9  # one point blinks in one frame
    flicker, flip_back = flicker_timeline(preds, flows)
    seen = 7 * 10  # 2 of 12 columns leave at each step
    assert flicker[1:] == pytest.approx([0, 1 / seen, 1 / seen, 0])
    assert flip_back[2:] == pytest.approx([0, 1 / (7 * 8), 0])  # 4 columns are gone after two steps


def test_constant_and_single_frame() -> None:
    assert flicker_timeline(np.zeros((4, 3, 3), np.uint8))[0][1:] == [0.0] * 3
    assert math.isnan(flicker_timeline(np.zeros((1, 1, 1), np.uint8))[0][0])


def test_reset_forgets_and_a_new_size_begins_anew() -> None:
    meter = FlickerMeter()
    meter.step(np.zeros((2, 2), np.uint8))
    meter.reset()
    assert math.isnan(meter.step(np.ones((2, 2), np.uint8))[0])
    assert math.isnan(meter.step(np.ones((3, 2), np.uint8))[0])
    assert meter.step(np.zeros((3, 2), np.uint8)) == (1.0, pytest.approx(math.nan, nan_ok=True))


def test_no_point_in_view() -> None:
    away = FlowPair(np.full((2, 2, 2), 50, np.float32))
    preds = np.zeros((2, 2, 2), np.uint8)
    assert math.isnan(flicker_timeline(preds, [away])[0][1])


def test_the_caller_may_reuse_its_buffer() -> None:
    meter, buffer = FlickerMeter(), np.zeros((2, 2), np.uint8)
    meter.step(buffer)
    buffer[0, 0] = 1
    assert meter.step(buffer)[0] == 0.25
