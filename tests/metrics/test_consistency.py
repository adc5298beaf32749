"""VC_n against an oracle that looks at every pixel of every window, and cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from everyframe.errors import InputError
from everyframe.metrics import windows
from everyframe.metrics.consistency import (
    RULES,
    ConsistencyRule,
    WindowSums,
    average_windows,
    video_consistency,
    video_windows,
)
from everyframe.metrics.definitions import CONSISTENCY_VARIANTS, DEFINITIONS

WINDOWS = (1, 2, 3, 5, 8)


def oracle_windows(preds: np.ndarray, labels: np.ndarray, n: int, rule: ConsistencyRule) -> list[float]:
    """Score of each window, straight from the definition."""
    frames, height, width = labels.shape
    scores = []
    for start in range(frames - n + (1 if rule.last_window else 0)):
        kept = hit = 0
        for y in range(height):
            for x in range(width):
                truth = labels[start : start + n, y, x].tolist()
                pred = preds[start : start + n, y, x].tolist()
                if len(set(truth)) > 1 or (truth[0] == 255 and not rule.void):
                    continue
                kept += 1
                hit += pred == truth if rule.right else len(set(pred)) == 1
        scores.append(hit / kept if kept else math.nan)
    return scores


Videos = list[tuple[np.ndarray, np.ndarray]]


def oracle(videos: Videos, n: int, rule: ConsistencyRule, shorter: tuple[int, ...]) -> float:
    lengths = [m for m in shorter if m <= n] if rule.pooled else [n]
    each = [[s for m in lengths for s in oracle_windows(*v, m, rule) if not math.isnan(s)] for v in videos]
    if rule.average == "videos":
        means = [sum(scores) / len(scores) for scores in each if scores]
        return sum(means) / len(means) if means else math.nan
    pooled = [s for scores in each for s in scores]
    return sum(pooled) / len(pooled) if pooled else math.nan


def moving_video(frames: int, height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels that mostly stay, with void; predictions that mostly follow."""
    rng = np.random.default_rng(seed)
    labels = np.empty((frames, height, width), np.uint8)
    current = rng.integers(0, 3, (height, width))
    for t in range(frames):
        current = np.where(rng.random((height, width)) < 0.08, rng.integers(0, 3, (height, width)), current)
        labels[t] = current
    labels[:, 0, :3] = 255
    preds = np.where(rng.random(labels.shape) < 0.1, rng.integers(0, 4, labels.shape), labels).astype(np.uint8)
    return preds, labels


@pytest.fixture(scope="module")
def videos() -> list[tuple[np.ndarray, np.ndarray]]:
    # Odd sizes, one that is no multiple of 8, one of 64 pixels, shorter and longer than the windows, one frame.
    return [moving_video(12, 5, 7, 0), moving_video(8, 8, 8, 1), moving_video(9, 3, 11, 2), moving_video(1, 4, 4, 3)]


@pytest.mark.parametrize("variant", CONSISTENCY_VARIANTS)
def test_equals_the_oracle(videos: Videos, variant: str) -> None:
    got = video_consistency(videos, WINDOWS, variant)
    for n in WINDOWS:
        assert got[n] == pytest.approx(oracle(videos, n, RULES[variant], WINDOWS), abs=1e-14, nan_ok=True)


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("void", [False, True])
def test_rules_of_your_own(videos: Videos, right: bool, void: bool) -> None:
    rule = ConsistencyRule(right=right, void=void, last_window=False, average="videos")
    assert video_consistency(videos, [4], rule)[4] == pytest.approx(oracle(videos, 4, rule, (4,)), abs=1e-14)
    assert video_windows(*videos[0], [4], rule)[4] == pytest.approx(oracle_windows(*videos[0], 4, rule), abs=1e-15)


@pytest.mark.parametrize("lengths", [(1,), (2,), (7,), (8, 16), (3, 30), tuple(range(1, 40)), (64,)])
def test_frame_by_frame_equals_the_whole_video_exactly(lengths: tuple[int, ...]) -> None:
    preds, labels = moving_video(90, 6, 13, 7)
    names = dict(RULES)
    sums = WindowSums(lengths, names)
    for pred, label in zip(preds, labels, strict=True):
        sums.update(pred, label)
    for variant, rule in names.items():
        assert average_windows(sums.sums[variant][None], rule).tolist() == list(
            video_consistency([(preds, labels)], lengths, variant).values()
        )


def test_a_long_window_against_the_oracle() -> None:
    preds, labels = moving_video(50, 4, 5, 9)
    labels[:] = labels[:1]  # nothing moves: windows of 33 frames exist
    assert video_windows(preds, labels, [33], "paper")[33] == pytest.approx(
        oracle_windows(preds, labels, 33, RULES["paper"]), abs=1e-15
    )


def test_constant_wrong_prediction() -> None:
    labels = np.zeros((20, 4, 4), np.uint8)
    wrong = np.ones_like(labels)
    assert video_consistency([(wrong, labels)], variant="vspw-script") == {8: 1.0, 16: 1.0}
    assert video_consistency([(wrong, labels)], variant="paper") == {8: 1.0, 16: 1.0}
    assert video_consistency([(wrong, labels)], variant="correct") == {8: 0.0, 16: 0.0}
    assert video_consistency([(labels, labels)], variant="correct") == {8: 1.0, 16: 1.0}


def test_by_hand() -> None:
    # Two pixels, three frames. Pixel 0 keeps its label, pixel 1 changes at the last frame; the prediction of pixel 0
    # blinks at the last frame. n = 2: window 1 has G = {0, 1}, both constant -> 1; window 2 has G = {0}, blinking -> 0.
    labels = np.array([[[0, 0]], [[0, 0]], [[0, 1]]], np.uint8)
    preds = np.array([[[0, 1]], [[0, 1]], [[1, 1]]], np.uint8)
    assert video_windows(preds, labels, [2], "paper")[2].tolist() == [1.0, 0.0]
    assert video_windows(preds, labels, [2], "vspw-script")[2].tolist() == [1.0]  # the last window is left out
    assert video_windows(preds, labels, [2], "correct")[2].tolist() == [0.5, 0.0]  # pixel 1 is constant but wrong
    assert video_consistency([(preds, labels)], [2], "paper") == {2: 0.5}


def test_averages_differ_when_lengths_differ() -> None:
    def video(frames: int, right: bool) -> tuple[np.ndarray, np.ndarray]:
        labels = np.zeros((frames, 1, 1), np.uint8)
        preds = labels.copy()
        if not right:
            preds[::2] = 1
        return preds, labels

    pair = [video(3, True), video(9, False)]  # windows of 2: two of score 1, eight of score 0
    assert video_consistency(pair, [2], "paper")[2] == 0.5
    assert video_consistency(pair, [2], "vspw-script")[2] == pytest.approx(1 / 8)  # one of 1, seven of 0


def test_dvis_pools_the_shorter_windows() -> None:
    preds, labels = moving_video(20, 5, 5, 4)
    script = video_windows(preds, labels, [8, 16], "vspw-script")
    pooled = video_consistency([(preds, labels)], [8, 16], "dvis-pooled")
    assert pooled[8] == pytest.approx(np.nanmean(script[8]))
    assert pooled[16] == pytest.approx(np.nanmean(np.concatenate([script[8], script[16]])))


def test_videos_no_longer_than_the_window() -> None:
    seven, eight = (moving_video(frames, 4, 4, 5) for frames in (7, 8))
    assert math.isnan(video_consistency([seven], [8], "paper")[8])
    assert not math.isnan(video_consistency([eight], [8], "paper")[8])  # N = n: one window
    assert math.isnan(video_consistency([eight], [8], "vspw-script")[8])  # skipped by the script
    assert math.isnan(video_consistency([], [8])[8])


def test_all_void() -> None:
    labels = np.full((10, 3, 3), 255, np.uint8)
    assert math.isnan(video_consistency([(np.zeros_like(labels), labels)], [8], "correct")[8])
    assert video_consistency([(np.zeros_like(labels), labels)], [8], "paper")[8] == 1.0


def test_void_predicted_as_void_is_not_right() -> None:
    labels = np.array([[[255, 0]]] * 3, np.uint8)
    assert video_consistency([(labels.copy(), labels)], [2], "correct")[2] == 1.0
    rule = ConsistencyRule(right=True, void=False, last_window=True, average="videos")
    wrong = np.array([[[255, 1]]] * 3, np.uint8)
    assert video_consistency([(wrong, labels)], [2], rule)[2] == 0.0


def test_no_window_reaches_across_a_gap() -> None:
    preds, labels = moving_video(12, 4, 6, 6)
    sums = WindowSums([3], {"paper": RULES["paper"]})
    for t in range(12):
        if t == 5:
            sums.gap()  # frame 5 has no label map
        else:
            sums.update(preds[t], labels[t])
    scores = oracle_windows(preds[:5], labels[:5], 3, RULES["paper"]) + oracle_windows(
        preds[6:], labels[6:], 3, RULES["paper"]
    )
    assert sums.sums["paper"][0].tolist() == pytest.approx([sum(scores), len(scores)])


def test_the_caller_may_reuse_its_buffers() -> None:
    preds, labels = moving_video(10, 4, 6, 8)
    sums, pred, label = WindowSums([4], {"": RULES["correct"]}), np.empty_like(preds[0]), np.empty_like(labels[0])
    for t in range(10):
        pred[:], label[:] = preds[t], labels[t]
        sums.update(pred, label)
    assert average_windows(sums.sums[""][None], RULES["correct"])[0] == video_consistency([(preds, labels)], [4])[4]


def test_memory_does_not_grow() -> None:
    import tracemalloc

    preds, labels = moving_video(2, 64, 64, 0)
    sums = WindowSums([8, 16], {"": RULES["correct"]})
    for t in range(40):
        sums.update(preds[t % 2], labels[t % 2])
    tracemalloc.start()
    for t in range(200):
        sums.update(preds[t % 2], labels[t % 2])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 64 * 64 * 8


def test_tensors_and_wide_ids() -> None:
    preds, labels = moving_video(10, 4, 6, 8)
    want = video_consistency([(preds, labels)], [4])
    assert video_consistency([(torch.from_numpy(preds), torch.from_numpy(labels))], [4]) == want
    assert video_consistency([(preds.astype(np.int64), labels.astype(np.int64))], [4]) == want


def test_bad_input() -> None:
    labels = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(InputError, match=r"came \[3, 4, 4\] and \[3, 4, 5\]"):
        video_consistency([(labels, np.zeros((3, 4, 5), np.uint8))])
    with pytest.raises(InputError, match="1 frame or more"):
        video_consistency([(labels, labels)], [0])
    with pytest.raises(InputError, match="correct, paper, vspw-script, dvis-pooled"):
        video_consistency([(labels, labels)], [2], "official")  # type: ignore[arg-type]


def test_every_variant_has_a_definition() -> None:
    assert {variant for name, variant in DEFINITIONS if name == "VC"} == set(CONSISTENCY_VARIANTS) == set(RULES)


def test_counting_bits_without_numpy_2() -> None:
    bits = np.array([[0, 1, 2**63 + 5], [2**64 - 1, 0, 0]], np.uint64)
    assert windows._popcount_by_table(bits).tolist() == windows._popcount(bits).tolist() == [4, 64]
