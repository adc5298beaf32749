"""Confusion matrix and scores against a per-pixel oracle and cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from everyframe.errors import InputError
from everyframe.metrics import functional as F

K = 4


def oracle_matrix(preds: np.ndarray, target: np.ndarray, k: int, ignore: int = 255) -> list[list[int]]:
    matrix = [[0] * (k + 1) for _ in range(k)]
    for p, g in zip(preds.ravel().tolist(), target.ravel().tolist(), strict=True):
        if g != ignore:
            matrix[g][p if 0 <= p < k else k] += 1
    return matrix


def oracle_iou(preds: np.ndarray, target: np.ndarray, c: int) -> float:
    valid = [(p, g) for p, g in zip(preds.ravel().tolist(), target.ravel().tolist(), strict=True) if g != 255]
    both = sum(p == c and g == c for p, g in valid)
    either = sum(c in (p, g) for p, g in valid)
    return both / either if either else math.nan


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    preds = rng.integers(0, K + 1, (3, 7, 5)).astype(np.uint8)
    preds[preds == K] = 255
    target = rng.integers(0, K, (3, 7, 5)).astype(np.uint8)
    target[0, :3] = 255
    return preds, target


@pytest.mark.parametrize("kind", ["uint8", "int64", "tensor uint8", "tensor int64", "strided"])
def test_matrix_equals_counting_pixel_by_pixel(maps: tuple[np.ndarray, np.ndarray], kind: str) -> None:
    preds, target = maps
    want = oracle_matrix(preds, target, K)
    if kind == "int64":
        preds, target = preds.astype(np.int64), target.astype(np.int64)
    elif kind.startswith("tensor"):
        kind_of = getattr(torch, kind.split()[1])
        preds, target = torch.from_numpy(preds).to(kind_of), torch.from_numpy(target).to(kind_of)
    elif kind == "strided":
        preds = np.repeat(preds, 2, axis=2)[..., ::2]
    matrix = F.confusion_matrix(preds, target, K)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == want


def test_large_maps_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch, maps: tuple[np.ndarray, np.ndarray]) -> None:
    monkeypatch.setattr(F, "_PIXELS_PER_CALL", 10)
    assert F.confusion_matrix(*maps, K).tolist() == oracle_matrix(*maps, K)


def test_class_iou_against_the_oracle(maps: tuple[np.ndarray, np.ndarray]) -> None:
    got = F.class_iou(F.confusion_matrix(*maps, K))
    assert got == pytest.approx([oracle_iou(*maps, c) for c in range(K)], abs=1e-15)


def test_by_hand() -> None:
    # Classes a b c d; c is predicted but never true, d neither. Label: a a a b b void; prediction: a a c b a d.
    matrix = F.confusion_matrix(np.array([0, 0, 2, 1, 0, 3]), np.array([0, 0, 0, 1, 1, 255]), K)
    # IoU a = 2 / (3 + 3 - 2), b = 1 / (2 + 1 - 1), c = 0 / 1, d = 0 / 0
    assert F.class_iou(matrix)[:3].tolist() == [0.5, 0.5, 0.0]
    assert math.isnan(F.class_iou(matrix)[3])
    assert F.mean_iou(matrix, "in-ground-truth") == 0.5
    assert F.mean_iou(matrix, "union>0") == pytest.approx(1 / 3)
    assert F.weighted_iou(matrix) == 0.5
    assert F.pixel_accuracy(matrix) == 0.6
    assert F.mean_class_accuracy(matrix) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert F.class_precision(matrix)[:3].tolist() == [2 / 3, 1.0, 0.0]


def test_a_prediction_that_is_no_class_is_a_miss() -> None:
    label = np.array([[0, 0, 1, 1]], np.uint8)
    abstaining = F.confusion_matrix(np.array([[0, 255, 1, 200]], np.uint8), label, 2)
    assert abstaining.tolist() == [[1, 0, 1], [0, 1, 1]]
    assert F.class_iou(abstaining).tolist() == [0.5, 0.5]  # the truth loses, no other class gains
    assert F.pixel_accuracy(abstaining) == 0.5


def test_all_ignored() -> None:
    matrix = F.confusion_matrix(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8), K)
    assert not matrix.any()
    for score in (F.mean_iou, F.weighted_iou, F.pixel_accuracy, F.mean_class_accuracy):
        assert math.isnan(score(matrix))
    assert np.isnan(F.class_iou(matrix)).all()


def test_empty_and_one_pixel() -> None:
    empty = np.zeros((0, 5), np.uint8)
    assert F.confusion_matrix(empty, empty, 2).sum() == 0
    assert F.confusion_matrix(np.array([[1]], np.uint8), np.array([[0]], np.uint8), 2).tolist() == [
        [0, 1, 0],
        [0, 0, 0],
    ]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_a_label_that_is_no_class_is_refused(dtype: type) -> None:
    with pytest.raises(InputError, match=r"expected labels 0\.\.1 or 255 \(ignore\), came 7"):
        F.confusion_matrix(np.zeros(2, dtype), np.array([0, 7], dtype), 2)


def test_shapes_must_agree() -> None:
    with pytest.raises(InputError, match=r"came \[2, 3\] and \[3, 2\]"):
        F.confusion_matrix(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2)


def test_unknown_class_rule() -> None:
    with pytest.raises(InputError, match="in-ground-truth, union>0"):
        F.mean_iou(np.eye(2, dtype=int), "macro")  # type: ignore[arg-type]


def test_leading_dimensions_are_kept(maps: tuple[np.ndarray, np.ndarray]) -> None:
    frames = np.stack([F.confusion_matrix(p, g, K) for p, g in zip(*maps, strict=True)])
    assert F.mean_iou(frames).tolist() == [float(F.mean_iou(frame)) for frame in frames]
    assert F.confusion_matrix(*maps, K).tolist() == frames.sum(0).tolist()


def test_another_ignore_id() -> None:
    label, pred = np.array([0, 1, 2], np.uint8), np.array([0, 1, 1], np.uint8)
    assert F.confusion_matrix(pred, label, 3, ignore=2).sum() == 2
    assert F.confusion_matrix(pred.astype(int), label.astype(int) - (label == 2) * 3, 2, ignore=-1).sum() == 2


def test_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

    generator = torch.Generator().manual_seed(1)
    preds = torch.randint(0, 5, (2, 20, 30), generator=generator)
    target = torch.randint(0, 5, (2, 20, 30), generator=generator)
    target[0, :4] = 255
    matrix = F.confusion_matrix(preds, target, 5)
    theirs = multiclass_confusion_matrix(preds, target, 5, ignore_index=255)
    assert matrix[:, :5].tolist() == theirs.tolist()
    macro = multiclass_jaccard_index(preds, target, 5, ignore_index=255).item()
    assert F.mean_iou(matrix, "union>0") == pytest.approx(macro, abs=1e-6)
