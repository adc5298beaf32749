"""Validation while training: whole videos through the `Stream` that also predicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from everyframe.data.layout import VideoRef
from everyframe.data.reading import iter_frames, read_labels
from everyframe.inference.stream import Stream
from everyframe.inference.views import with_views
from everyframe.metrics.functional import mean_iou, pixel_accuracy
from everyframe.metrics.stateful import ConfusionMatrix
from everyframe.models.segmenter import Segmenter

MONITOR = "val/mIoU_in-ground-truth"
"""The score that decides which model is the best: mean IoU over the classes that occur in the ground truth."""


def observe(confusion: ConfusionMatrix, model: Segmenter, video: VideoRef, device: torch.device) -> None:
    """Label every frame of a video, in order, and count those that have a label map.

    In float32 and at the size of training, as prediction and `everyframe evaluate` do, whatever training computes in: a
    score that is logged here is the one that they give of the saved model.

    Args:
        confusion: where they are counted.
        model: the segmenter, in eval mode.
        video: frames after the last labelled one are left out: nothing would count them.
        device: where the model lies.
    """
    stream = Stream(with_views(model), device)
    last = max(video.labelled, default=-1)
    for frame in iter_frames(video):
        if frame.index > last:
            break
        with _full_precision(device):
            predicted = stream.step(frame)
        labels = read_labels(video, frame.index, model.label_space, frame.size)
        if labels is not None:
            confusion.update(torch.from_numpy(predicted), torch.from_numpy(labels))


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Suspend mixed precision, and the faster products of matrices that `train` allows on GPUs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def share_buffers(model: nn.Module) -> None:
    """Give the processes of a distributed run the buffers of the first one, whose model is saved.

    After a step each has the running statistics of its own clips; they meet at the next step's forward alone, and
    validation comes before that: each video would be scored by a slightly other model, none but the first one's the
    one that is written.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    for buffer in model.buffers():
        shared = buffer.contiguous()
        dist.broadcast(shared, 0)
        buffer.copy_(shared)


def logged_scores(matrix: Tensor) -> dict[str, float]:
    """Return the scores of a confusion matrix [K, K+1] by the names under which they are logged."""
    return {
        MONITOR: float(mean_iou(matrix)),
        "val/mIoU_union": float(mean_iou(matrix, "union>0")),
        "val/pixel_accuracy": float(pixel_accuracy(matrix)),
    }
