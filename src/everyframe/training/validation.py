"""Validation while training: whole videos through the `Stream` that also predicts."""

from __future__ import annotations

from typing import Any

import torch

from everyframe.data.layout import VideoRef
from everyframe.data.reading import iter_frames, read_labels
from everyframe.inference.stream import Stream
from everyframe.labels import LabelSpace
from everyframe.metrics.functional import class_iou, mean_iou, pixel_accuracy
from everyframe.metrics.stateful import MeanIoU
from everyframe.models.segmenter import Segmenter

MONITOR = "val/mIoU_in-ground-truth"
"""The score that decides which model is the best: mean IoU over the classes that occur in the ground truth."""


class VideoScores(MeanIoU):
    """`MeanIoU` that labels videos itself and says more: one confusion matrix over all labelled pixels of all videos.

    Args:
        label_space: the K classes.
    """

    def __init__(self, label_space: LabelSpace) -> None:
        super().__init__(len(label_space))
        self.label_space = label_space

    def observe(self, model: Segmenter, video: VideoRef, device: torch.device) -> None:
        """Label every frame of a video, in order, and count those that have a label map.

        Args:
            model: the segmenter, in eval mode.
            video: frames after the last labelled one are left out: nothing would count them.
            device: where the model lies.
        """
        stream = Stream(model, device)
        last = max(video.labelled, default=-1)
        for frame in iter_frames(video):
            if frame.index > last:
                break
            predicted = stream.step(frame)
            labels = read_labels(video, frame.index, self.label_space, frame.size)
            if labels is not None:
                self.update(torch.from_numpy(predicted), torch.from_numpy(labels))

    def compute(self) -> dict[str, Any]:  # type: ignore[override]
        """Return {name as logged: score} and, under "class_iou", the IoU of each class (NaN where it has no pixels)."""
        matrix = self.confusion.cpu().numpy()
        return {
            MONITOR: float(mean_iou(matrix, "in-ground-truth")),
            "val/mIoU_union": float(mean_iou(matrix, "union>0")),
            "val/pixel_accuracy": float(pixel_accuracy(matrix)),
            "class_iou": dict(zip(self.label_space.names, class_iou(matrix).tolist(), strict=True)),
        }
