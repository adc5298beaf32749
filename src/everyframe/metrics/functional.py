"""The confusion matrix of label maps, and every score that follows from it. Arrays in, numbers out.

One confusion matrix counts all labelled pixels (label 0..K-1; `ignore` is left out). A prediction outside 0..K-1, such
as 255 from a model that may abstain, is counted as a miss: it lands in an extra last column, lowers the IoU of the true
class and adds to no other. A label that is neither a class nor `ignore` is refused.

Every score names over which classes it averages; see `docs/metrics.md`. Scores take a confusion matrix or the
`ClassCounts` of one, with any leading dimensions (videos, bootstrap samples), and average over the last.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.metrics.definitions import CLASS_RULES, ClassRule

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
LabelMap = NDArray[Any] | Tensor
"""Integers [..., H, W]: train ids."""

# Pixels a thread counts at a time: some frames of video. (cv2.calcHist returns float32, exact up to 2**24 pixels.)
_PIXELS_PER_CALL = 1 << 21


class ClassCounts(NamedTuple):
    """What the scores need of a confusion matrix: pixels of each class, all [..., K].

    Attributes:
        correct: predicted right.
        truth: in the ground truth.
        predicted: predicted, where the ground truth is not ignored.
    """

    correct: Counts
    truth: Counts
    predicted: Counts


# -- counting ----------------------------------------------------------------------------------------------------------


def confusion_matrix(preds: LabelMap, target: LabelMap, num_classes: int, ignore: int = IGNORE) -> Counts:
    """Count (label, prediction) pairs.

    Args:
        preds: predicted train ids, integers of any shape.
        target: labels of the same shape: 0..K-1, or `ignore`.
        num_classes: K.
        ignore: label of pixels that do not count.

    Returns:
        int64 [K, K+1]: row = label, column = prediction, last column = predictions outside 0..K-1.

    Raises:
        InputError: the shapes differ, or a label is neither a class nor `ignore`.

    Example:
        >>> confusion_matrix(np.array([0, 1, 1, 255]), np.array([0, 0, 1, 1]), num_classes=2).tolist()
        [[1, 1, 0], [0, 1, 1]]
    """
    if tuple(preds.shape) != tuple(target.shape):
        raise InputError(
            f"confusion_matrix: expected predictions and labels of one shape, came {list(preds.shape)} "
            f"and {list(target.shape)}; write predictions at the size of the labels"
        )
    joint = _joint_histogram(preds, target)
    if joint is not None and num_classes < 256 and 0 <= ignore < 256:
        _check_labels(joint.sum(1), num_classes, ignore)
        joint[ignore] = 0  # a class id may serve as ignore: its row stays empty
        matrix = joint[:num_classes, : num_classes + 1].astype(np.int64)
        matrix[:, num_classes] = joint[:num_classes, num_classes:].sum(1)
        return matrix
    return _count_pairs(torch.as_tensor(preds), torch.as_tensor(target), num_classes, ignore).cpu().numpy()


def _joint_histogram(preds: LabelMap, target: LabelMap) -> Floats | None:
    """[256, 256] whole numbers, of (label, prediction) of uint8 maps in main memory; None for any other kind."""
    maps = []
    for given in (target, preds):
        array = given.numpy() if isinstance(given, Tensor) and given.device.type == "cpu" else given
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            return None
        maps.append(np.ascontiguousarray(array).reshape(1, -1))
    import cv2

    # One pass over both maps, a third of the time of `bincount`, which first widens each pixel to 8 bytes. Neighbours
    # mostly fall into the same cell, where an addition waits for the one before; so four places take turns.
    def count(start: int) -> Floats:
        parts = [pixels[:, start : start + _PIXELS_PER_CALL] for pixels in maps]
        fourth = parts[0].size // 4
        joint = np.zeros((256, 256), np.float64)
        if fourth:
            turns = [cv2.merge(list(part[0, : 4 * fourth].reshape(4, 1, fourth))).reshape(1, -1) for part in parts]
            joint += cv2.calcHist(turns, [0, 1], None, [256, 256], [0, 256, 0, 256])
        np.add.at(joint, (parts[0][0, 4 * fourth :], parts[1][0, 4 * fourth :]), 1)
        return joint

    starts = range(0, max(maps[0].size, 1), _PIXELS_PER_CALL)
    if len(starts) == 1:
        return count(0)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return np.sum(list(pool.map(count, starts)), axis=0)


def _count_pairs(preds: Tensor, target: Tensor, num_classes: int, ignore: int) -> Tensor:
    """`confusion_matrix` for any integer type on any device, as a tensor there."""
    preds, target = preds.flatten().long(), target.flatten().long()
    unknown = ((target < 0) | (target >= num_classes)) & (target != ignore)
    if bool(unknown.any()):
        raise InputError(_unknown_labels(target[unknown].unique().tolist(), num_classes, ignore))
    keep = target != ignore
    preds, target = preds[keep], target[keep]
    preds = torch.where((preds < 0) | (preds >= num_classes), num_classes, preds)
    width = num_classes + 1
    return torch.bincount(target * width + preds, minlength=num_classes * width).view(num_classes, width)


def _check_labels(pixels: Floats, num_classes: int, ignore: int) -> None:
    unknown = [int(i) for i in np.flatnonzero(pixels) if i >= num_classes and i != ignore]
    if unknown:
        raise InputError(_unknown_labels(unknown, num_classes, ignore))


def _unknown_labels(ids: list[int], num_classes: int, ignore: int) -> str:
    return (
        f"confusion_matrix: expected labels 0..{num_classes - 1} or {ignore} (ignore), came "
        f"{', '.join(map(str, ids))}; turn raw ids into train ids with LabelSpace.encode"
    )


def class_counts(matrix: ArrayLike | Tensor) -> ClassCounts:
    """Reduce a confusion matrix, integers [..., K, K] or [..., K, K+1], to the counts that the scores need."""
    array = np.asarray(matrix.cpu() if isinstance(matrix, Tensor) else matrix)
    k = array.shape[-2] if array.ndim >= 2 else -1
    if array.shape[-1] not in (k, k + 1):
        raise ValueError(f"class_counts: expected a confusion matrix [..., K, K] or [..., K, K+1], came {array.shape}")
    return ClassCounts(
        correct=np.diagonal(array[..., :k], axis1=-2, axis2=-1).astype(np.int64),
        truth=array.sum(-1, dtype=np.int64),
        predicted=array[..., :k].sum(-2, dtype=np.int64),
    )


# -- per class ---------------------------------------------------------------------------------------------------------

Matrix = ArrayLike | Tensor | ClassCounts


def class_iou(matrix: Matrix) -> Floats:
    """Intersection over union of each class, [..., K]; NaN where a class is neither in the truth nor predicted."""
    correct, truth, predicted = _counts(matrix)
    return _ratio(correct, truth + predicted - correct)


def class_accuracy(matrix: Matrix) -> Floats:
    """Share of the pixels of each class that are predicted right (recall), [..., K]; NaN where it is absent."""
    correct, truth, _ = _counts(matrix)
    return _ratio(correct, truth)


def class_precision(matrix: Matrix) -> Floats:
    """Share of the pixels predicted as each class that are right, [..., K]; NaN where it is never predicted."""
    correct, _, predicted = _counts(matrix)
    return _ratio(correct, predicted)


# -- averages ----------------------------------------------------------------------------------------------------------


def mean_iou(matrix: Matrix, classes: ClassRule = "in-ground-truth") -> Floats:
    """Mean of the class IoUs.

    Args:
        matrix: confusion matrix or counts with any leading dimensions.
        classes: "in-ground-truth" leaves classes without ground-truth pixels out, as the VSPW authors do (predicting
            them still costs the other classes); "union>0" leaves out only those that are not predicted either, so a
            hallucinated class counts as 0 (mmseg's and torchmetrics' macro mean).

    Returns:
        [...]; NaN without any labelled pixel.
    """
    counts = _counts(matrix)
    if classes not in CLASS_RULES:
        raise InputError(f"mean_iou: expected classes to be one of {', '.join(CLASS_RULES)}, came {classes!r}")
    counted = counts.truth > 0 if classes == "in-ground-truth" else counts.truth + counts.predicted > 0
    return _mean(class_iou(counts), counted)


def weighted_iou(matrix: Matrix) -> Floats:
    """Class IoUs weighted by the ground-truth pixels of the class (frequency weighted IoU), [...]."""
    counts = _counts(matrix)
    weighted = np.where(counts.truth > 0, counts.truth * np.nan_to_num(class_iou(counts)), 0.0)
    return _ratio(weighted.sum(-1), counts.truth.sum(-1))


def pixel_accuracy(matrix: Matrix) -> Floats:
    """Share of the labelled pixels that are predicted right, [...]."""
    counts = _counts(matrix)
    return _ratio(counts.correct.sum(-1), counts.truth.sum(-1))


def mean_class_accuracy(matrix: Matrix) -> Floats:
    """Mean of `class_accuracy` over the classes in the ground truth, [...]."""
    counts = _counts(matrix)
    return _mean(class_accuracy(counts), counts.truth > 0)


def _counts(matrix: Matrix) -> ClassCounts:
    return matrix if isinstance(matrix, ClassCounts) else class_counts(matrix)


def _ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    top, bottom = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    return np.divide(top, bottom, out=np.full(bottom.shape, np.nan), where=bottom > 0)


def _mean(values: Floats, counted: NDArray[np.bool_]) -> Floats:
    return _ratio(np.where(counted, values, 0.0).sum(-1), counted.sum(-1))
