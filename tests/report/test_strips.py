from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from everyframe.report.strips import PICTURE_WIDTH, Snapshot, WorstFrames

PALETTE = [(255, 0, 0), (0, 255, 0)]


def opened(uri: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


def snapshot() -> Snapshot:
    target = np.array([[0, 0, 1, 255]], np.uint8).repeat(4, 0)
    prediction = np.array([[0, 1, 1, 0]], np.uint8).repeat(4, 0)
    return Snapshot("v", "00001", np.full((4, 4, 3), 100, np.uint8), prediction, target)


def test_wrong_counts_labelled_pixels_only() -> None:
    assert snapshot().wrong == pytest.approx(1 / 3)
    shot = snapshot()
    void = Snapshot("v", "0", shot.image, shot.prediction, np.full((4, 4), 255, np.uint8))
    assert void.wrong == 0.0
    assert void.mistakes(["a", "b"]) == []


def test_mistakes_name_the_confusion_and_its_share() -> None:
    assert snapshot().mistakes(["road", "car"]) == ["road → car 33 %"]
    shot = snapshot()
    none = Snapshot("v", "0", shot.image, np.full((4, 4), 255, np.uint8), shot.target)
    assert none.mistakes(["road", "car"]) == ["road → no class 67 %", "car → no class 33 %"]


def test_pictures_show_palette_colours_chequer_and_errors() -> None:
    frame, prediction, target, errors = map(opened, snapshot().pictures(PALETTE))
    assert frame.shape == prediction.shape == target.shape == errors.shape == (4, 4, 3)
    np.testing.assert_array_equal(prediction[0], [(255, 0, 0), (0, 255, 0), (0, 255, 0), (255, 0, 0)])
    np.testing.assert_array_equal(target[0, :3], [(255, 0, 0), (255, 0, 0), (0, 255, 0)])
    assert len(set(target[0, 3].tolist())) == 1, "no class: grey chequer"


def test_errors_are_orange_and_unlabelled_pixels_dark() -> None:
    target = np.zeros((64, 96), np.uint8)
    target[:, 64:] = 255
    prediction = target.copy()
    prediction[:, 32:64] = 1
    errors = opened(Snapshot("v", "0", np.full((64, 96, 3), 120, np.uint8), prediction, target).pictures(PALETTE)[3])
    right, wrong, void = errors[32, 16], errors[32, 48], errors[32, 80]
    assert int(wrong[0]) - int(wrong[2]) > 100
    assert abs(int(right[0]) - int(right[2])) < 12
    assert int(right.mean()) > 140 > 80 > int(void.mean())


def test_large_frames_shrink_and_odd_sizes_and_one_pixel_work() -> None:
    labels = np.zeros((301, 1001), np.uint8)
    pictures = Snapshot("v", "0", np.zeros((301, 1001, 3), np.uint8), labels, labels).pictures(PALETTE)
    assert {opened(picture).shape for picture in pictures} == {(144, PICTURE_WIDTH, 3)}
    one = np.zeros((1, 1), np.uint8)
    assert opened(Snapshot("v", "0", np.zeros((1, 1, 3), np.uint8), one, one).pictures(PALETTE)[1]).shape == (1, 1, 3)


def offer(worst: WorstFrames, video: str, index: int, frames: int, bad: int) -> None:
    target = np.zeros((16, 16), np.uint8)
    prediction = target.copy()
    prediction.flat[:bad] = 1
    worst.offer(video, index, frames, prediction, target)


def test_worst_frames_are_those_of_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    bad = {("abcdefgh"[k // 30], k % 30): int(n) + 1 for k, n in enumerate(rng.permutation(240))}
    worst = WorstFrames(5, 8)
    for (video, i), n in bad.items():
        offer(worst, video, i, 30, n)
    best_of_part: dict[tuple[str, int], tuple[int, int]] = {}
    for (video, i), n in bad.items():
        key = (video, i // 10)
        best_of_part[key] = max(best_of_part.get(key, (0, 0)), (n, i))
    expected = sorted(best_of_part.items(), key=lambda item: -item[1][0])[:5]
    kept = list(worst)
    assert [(v, int((p != t).sum())) for v, _, p, t in kept] == [(v, n) for (v, _), (n, _) in expected]
    assert all(bad[v, i] == (p != t).sum() for v, i, p, t in kept), "the label maps are those of the frame"


def test_worst_frames_spread_over_a_video_and_skip_perfect_and_unlabelled_ones() -> None:
    worst = WorstFrames(12, 1)
    for i in range(120):
        offer(worst, "v", i, 120, 50 if 60 <= i < 70 else (i % 7 == 0))
    assert sorted(i // 10 for _, i, _, _ in worst) == list(range(12))
    nothing = WorstFrames(3, 1)
    offer(nothing, "v", 0, 2, 0)
    void = np.full((4, 4), 255, np.uint8)
    nothing.offer("v", 1, 2, np.zeros_like(void), void)
    assert list(nothing) == []
    none = WorstFrames(0, 1)
    offer(none, "v", 0, 1, 9)
    assert list(none) == []
