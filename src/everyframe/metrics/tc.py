"""Temporal consistency TC: does a prediction agree with the next one, moved back along the optical flow?

TC is a mIoU in which the prediction of a frame plays the ground truth and the next prediction, sampled where the flow
says each pixel went, plays the prediction. It needs no labels and does not say whether the predictions are right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.metrics.definitions import CORRESPONDENCE_VARIANTS, CorrespondenceVariant
from everyframe.metrics.flow import FlowField, FlowPair, checked_pair, follow, visible
from everyframe.metrics.functional import Counts, LabelMap, confusion_matrix, mean_iou

FIRST_VIDEOS = 100
"""The authors' script looks at so many videos of the list and no more."""


def pair_confusion(
    pred: NDArray[Any],
    next_pred: NDArray[Any],
    flow: FlowPair,
    num_classes: int,
    variant: CorrespondenceVariant = "strict",
) -> Counts:
    """Confusion matrix of a prediction (rows) and the next one moved back to it (columns).

    Args:
        pred: predicted train ids, uint8 [H, W]; ids outside 0..K-1 are left out.
        next_pred: prediction of the next frame, uint8 [H, W].
        flow: from the frame to the next one.
        num_classes: K.
        variant: "strict" leaves out pixels that leave the picture or become occluded (the latter only if the flow back
            is known); "vspw-script" moves as the authors do.

    Returns:
        int64 [K, K+1], see `confusion_matrix`.

    Raises:
        InputError: no such variant, sizes that differ, or no flow.
    """
    if variant not in CORRESPONDENCE_VARIANTS:
        raise InputError(f"TC: expected a variant of {', '.join(CORRESPONDENCE_VARIANTS)}, came {variant!r}")
    if pred.shape != next_pred.shape or pred.ndim != 2:
        raise InputError(
            f"TC: expected two predictions [H, W] of one size, came {list(pred.shape)} and {list(next_pred.shape)}"
        )
    size = (pred.shape[0], pred.shape[1])
    flow = checked_pair(flow, size)
    reference = np.where(pred < num_classes, pred, IGNORE).astype(np.uint8)
    if variant == "vspw-script":
        return confusion_matrix(move_as_vspw_script(next_pred, flow.forward), reference, num_classes)
    moved, _ = follow(next_pred, flow.forward)
    return confusion_matrix(moved, np.where(visible(flow), reference, np.uint8(IGNORE)), num_classes)


def move_as_vspw_script(labels: NDArray[Any], flow: FlowField) -> NDArray[np.uint8]:
    """Sample `labels` [H, W] at the displaced pixels in the way of the VSPW authors' TC_cal.py.

    Coordinates are scaled to -1..1 by (size - 1), but sampled with `align_corners=False`, which takes -1..1 as the
    outer edges of the border pixels: points shift by up to half a pixel, more towards the border. What falls outside is
    0, the first class. Kept so that published figures can be reproduced; `follow` does it right.
    """
    height, width = labels.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([x, y]).float() + torch.from_numpy(np.ascontiguousarray(flow))
    grid = torch.stack([2.0 * points[0] / max(width - 1, 1) - 1.0, 2.0 * points[1] / max(height - 1, 1) - 1.0], -1)
    source = torch.from_numpy(np.ascontiguousarray(labels)).float()[None, None]
    moved = torch.nn.functional.grid_sample(
        source, grid[None], mode="nearest", padding_mode="zeros", align_corners=False
    )
    return moved[0, 0].numpy().astype(np.uint8)


def temporal_consistency(
    videos: Iterable[tuple[LabelMap, Sequence[Any]] | tuple[LabelMap, Sequence[Any], Sequence[Any]]],
    num_classes: int,
    variant: CorrespondenceVariant = "strict",
) -> float:
    """TC of videos whose flow is given; `Evaluation` does the same frame by frame with any `Flow`.

    Args:
        videos: (predictions [N, H, W], flow to the next frame N-1 x [2, H, W][, flow back N-1 x [2, H, W]]).
        num_classes: K.
        variant: "strict", or "vspw-script" (first 100 videos only).

    Returns:
        mIoU over the classes in the first predictions of all pairs, one matrix for everything; NaN without a pair.
    """
    total = np.zeros((num_classes, num_classes + 1), np.int64)
    for number, (preds, forward, *backward) in enumerate(videos):
        if variant == "vspw-script" and number == FIRST_VIDEOS:
            break
        maps = np.asarray(preds)
        back = backward[0] if backward else [None] * len(forward)
        if not len(forward) == len(back) == max(len(maps) - 1, 0):
            raise InputError(f"TC: expected a flow for each of {len(maps) - 1} pairs of frames, came {len(forward)}")
        for i, (ahead, behind) in enumerate(zip(forward, back, strict=True)):
            pair = FlowPair(np.asarray(ahead, np.float32), None if behind is None else np.asarray(behind, np.float32))
            total += pair_confusion(maps[i], maps[i + 1], pair, num_classes, variant)
    return float(mean_iou(total))
