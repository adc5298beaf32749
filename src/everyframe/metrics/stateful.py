"""The metrics as `torchmetrics.Metric`: state that sums over batches and processes, in front of the pure functions.

Call `update` and `compute`; the values of a batch alone, which torchmetrics' `forward` would return, are not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.metrics import functional as F
from everyframe.metrics.bootstrap import bootstrap_interval, class_sums
from everyframe.metrics.consistency import (
    ConsistencyRule,
    WindowSums,
    average_windows,
    consistency_rule,
)
from everyframe.metrics.definitions import ClassRule, ConsistencyVariant
from everyframe.metrics.functional import Floats
from everyframe.metrics.windows import checked_windows


class _UpdateOnly(Metric):
    """A metric whose `forward` only updates."""

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """As `update`."""
        self.update(*args, **kwargs)

    def _empty_states(self) -> dict[str, Tensor]:
        """What list states hold while nothing was fed: 0 rows of the right shape."""
        return {}

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Join the states of all processes; one that saw no video takes part with 0 rows."""
        for name, rows in self._empty_states().items():
            if not self._is_synced and not getattr(self, name):
                setattr(self, name, [rows.to(self.device)])
        super().sync(*args, **kwargs)


class ConfusionMatrix(_UpdateOnly):
    """One confusion matrix of everything that was fed, for every score of `everyframe.metrics.functional`.

    The order and the size of batches and the split over processes do not matter.

    Args:
        num_classes: K.
        ignore: label of pixels that do not count.

    Attributes:
        confusion: int64 [K, K+1], see `functional.confusion_matrix`; of this process alone.
    """

    confusion: Tensor

    def __init__(self, num_classes: int, ignore: int = IGNORE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.ignore = num_classes, ignore
        self.add_state("confusion", torch.zeros(num_classes, num_classes + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add label maps: predicted train ids and labels, integers of one shape."""
        self._count(preds, target)

    def compute(self) -> Any:
        """Return the matrix of all processes, int64 [K, K+1]; scores made of it in metrics derived from this one."""
        return self.confusion.clone()

    def _count(self, preds: Tensor, target: Tensor) -> F.Counts:
        """Add label maps, and return their own matrix."""
        matrix = F.confusion_matrix(preds, target, self.num_classes, self.ignore)
        self.confusion += torch.from_numpy(matrix).to(self.confusion.device)
        return matrix


class MeanIoU(ConfusionMatrix):
    """mIoU of everything that was fed.

    Args:
        num_classes: K.
        classes: over which classes to average, see `functional.mean_iou`.
        ignore: label of pixels that do not count.

    Example:
        >>> metric = MeanIoU(num_classes=2)
        >>> metric.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    def __init__(
        self, num_classes: int, classes: ClassRule = "in-ground-truth", ignore: int = IGNORE, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, ignore, **kwargs)
        self.classes = classes

    def compute(self) -> Tensor:
        """Return mIoU, float64 []; NaN without a labelled pixel."""
        return torch.tensor(float(F.mean_iou(self.confusion, self.classes)), dtype=torch.float64)


class SegmentationScores(ConfusionMatrix):
    """All scores of a confusion matrix, over everything and for each video, with intervals over videos.

    Frames of one video may come in any order, and on different processes: they are joined by the video's name.

    Args:
        num_classes: K.
        ignore: label of pixels that do not count.
        resamples: of the bootstrap; 0 leaves intervals out.
        seed: of the bootstrap.
    """

    video_ids: list[Tensor]
    video_counts: list[Tensor]

    def __init__(
        self, num_classes: int, ignore: int = IGNORE, resamples: int = 1000, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, ignore, **kwargs)
        self.resamples, self.seed = resamples, seed
        self.add_state("video_ids", [], dist_reduce_fx="cat")  # [1] each
        self.add_state("video_counts", [], dist_reduce_fx="cat")  # [1, 3, K] each
        self._row: dict[int, int] = {}

    def _empty_states(self) -> dict[str, Tensor]:
        counts = torch.zeros(0, 3, self.num_classes, dtype=torch.long)
        return {"video_ids": torch.zeros(0, dtype=torch.long), "video_counts": counts}

    def update(self, preds: Tensor, target: Tensor, video: str = "") -> None:
        """Add frames of one video: predicted train ids and labels, integers [..., H, W]."""
        matrix = self._count(preds, target)
        counts = torch.from_numpy(np.stack(F.class_counts(matrix)))[None].to(self.confusion.device)
        key = video_id(video)
        if key in self._row:
            self.video_counts[self._row[key]] += counts
        else:
            self._row[key] = len(self.video_ids)
            self.video_ids.append(torch.tensor([key], device=self.confusion.device))
            self.video_counts.append(counts)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._row = {}

    def per_video(self) -> tuple[list[int], F.Counts]:
        """`video_id` of each video, and its counts, int64 [V, 3, K]: correct, truth, predicted."""
        ids, counts = _joined(self.video_ids), _joined(self.video_counts)
        if ids is None or counts is None:
            return [], np.zeros((0, 3, self.num_classes), np.int64)
        unique, where = np.unique(ids, return_inverse=True)  # a video may have frames on several processes
        total = np.zeros((len(unique), *counts.shape[1:]), np.int64)
        np.add.at(total, where, counts)
        return unique.tolist(), total

    def compute(self) -> dict[str, Tensor]:
        """Return scores by title, such as "mIoU [in-ground-truth]" and its ends "... low", "... high"; float64 []."""
        counts = F.class_counts(self.confusion)
        _, videos = self.per_video()
        alone = F.ClassCounts(videos[:, 0], videos[:, 1], videos[:, 2])
        means = F.mean_iou(alone)
        scores = {
            "mIoU [in-ground-truth]": float(F.mean_iou(counts)),
            "mIoU [union>0]": float(F.mean_iou(counts, "union>0")),
            "mIoU [mean of videos]": float(np.nanmean(means)) if (~np.isnan(means)).any() else float("nan"),
            "weighted IoU [in-ground-truth]": float(F.weighted_iou(counts)),
            "pixel accuracy [labelled pixels]": float(F.pixel_accuracy(counts)),
            "class accuracy [in-ground-truth]": float(F.mean_class_accuracy(counts)),
        }
        if self.resamples and len(videos) > 1:
            interval = bootstrap_interval(videos, class_sums(F.mean_iou), resamples=self.resamples, seed=self.seed)
            scores["mIoU [in-ground-truth] low"], scores["mIoU [in-ground-truth] high"] = interval
        return {title: torch.tensor(value, dtype=torch.float64) for title, value in scores.items()}


class VideoConsistency(_UpdateOnly):
    """VC_n of the videos that were fed, each wholly on one process and its frames in order of time.

    Args:
        windows: lengths n.
        variant: "correct", "paper", "vspw-script", "dvis-pooled", or a rule.
        ignore: void label.
    """

    videos: list[Tensor]

    def __init__(
        self,
        windows: Sequence[int] = (8, 16),
        variant: ConsistencyVariant | ConsistencyRule = "correct",
        ignore: int = IGNORE,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.windows, self.rule, self.ignore = checked_windows(windows), consistency_rule(variant), ignore
        self.add_state("videos", [], dist_reduce_fx="cat")  # [1, len(windows), 2] each
        self._names: set[str] = set()
        self._open: tuple[str, WindowSums] | None = None

    def _empty_states(self) -> dict[str, Tensor]:
        return {"videos": torch.zeros(0, len(self.windows), 2, dtype=torch.float64)}

    def update(self, preds: Tensor, target: Tensor, video: str) -> None:
        """Add the next frames of a video: predicted ids and labels, integers [T, H, W] or [H, W].

        Raises:
            InputError: the sizes differ, or the video was ended by another one before.
        """
        if tuple(preds.shape) != tuple(target.shape) or preds.ndim not in (2, 3):
            raise InputError(
                f"VideoConsistency: expected predictions and labels [T, H, W] of one shape, came {list(preds.shape)} "
                f"and {list(target.shape)}"
            )
        if self._open is None or self._open[0] != video:
            if video in self._names:
                raise InputError(
                    f"VideoConsistency: expected the frames of {video!r} one after the other, came it twice"
                )
            self._names.add(video)
            self._open = video, WindowSums(self.windows, {"": self.rule}, self.ignore)
            self.videos.append(torch.zeros(1, len(self.windows), 2, dtype=torch.float64, device=self.device))
        sums = self._open[1]
        size = tuple(preds.shape[-2:])
        for pred, label in zip(preds.reshape(-1, *size), target.reshape(-1, *size), strict=True):
            sums.update(pred.cpu().numpy(), label.cpu().numpy())
        self.videos[-1] = torch.from_numpy(sums.sums[""].copy())[None].to(self.device)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._names, self._open = set(), None

    def compute(self) -> dict[str, Tensor]:
        """Return {"VC8": ..., "VC16": ...}, float64 []; NaN where no video is long enough."""
        per_video = _joined(self.videos)
        if per_video is None:
            per_video = np.zeros((0, len(self.windows), 2))
        values = average_windows(per_video, self.rule)
        return {
            f"VC{n}": torch.tensor(float(v), dtype=torch.float64) for n, v in zip(self.windows, values, strict=True)
        }


def video_id(name: str) -> int:
    """A number for a video's name, equal on all processes: names cannot travel between them as tensors."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _joined(state: list[Tensor] | Tensor) -> Floats | Any | None:
    """A "cat" state as one array: a list before the processes are joined, a tensor after; None while empty."""
    if isinstance(state, Tensor):
        return state.cpu().numpy() if state.numel() else None
    return torch.cat(state).cpu().numpy() if state else None
