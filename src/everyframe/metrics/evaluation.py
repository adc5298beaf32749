"""Evaluation: label maps go in frame by frame, `Results` come out. Memory does not grow with the length of a video.

(Apart from the timelines: a few numbers a frame.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.metrics import functional as F
from everyframe.metrics.bootstrap import bootstrap_interval
from everyframe.metrics.consistency import WindowSums, consistency_rule
from everyframe.metrics.definitions import CORRESPONDENCE_VARIANTS, ConsistencyVariant
from everyframe.metrics.flicker import FlickerMeter
from everyframe.metrics.flow import Flow, checked_pair
from everyframe.metrics.measures import Measure, VideoCounts, measures
from everyframe.metrics.results import ClassResult, Results, Score, VideoResult
from everyframe.metrics.results_text import counted
from everyframe.metrics.tc import FIRST_VIDEOS, pair_confusion
from everyframe.metrics.windows import checked_windows


class Evaluation:
    """Compares predictions with labels, video by video, and computes every score at once.

    Args:
        label_space: the classes of predictions and labels.
        windows: lengths n of VC_n.
        variants: definitions of VC, the first one on top of the tables.
        flow: finds the optical flow for TC and for flicker along the flow; without it there is no TC, and flicker
            compares pixels at the same position. Needs the pictures.
        resamples: of the bootstrap over videos; 0 leaves intervals out.
        confidence: share of the resampled values inside an interval.
        seed: of the bootstrap.

    Example:
        >>> evaluation = Evaluation(LabelSpace(("road", "car")))
        >>> label = np.array([[0, 0, 1, 255]], np.uint8)
        >>> pred = np.array([[0, 1, 1, 0]], np.uint8)
        >>> evaluation.update("street", 0, pred, label)
        >>> evaluation.compute().score("mIoU").value
        0.5
    """

    def __init__(
        self,
        label_space: LabelSpace,
        *,
        windows: Sequence[int] = (8, 16),
        variants: Sequence[ConsistencyVariant] = ("correct", "paper", "vspw-script"),
        flow: Flow | None = None,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.label_space = label_space
        self.windows = checked_windows(windows)
        self.rules = {str(variant): consistency_rule(variant) for variant in variants}
        self.flow = flow
        self.resamples, self.confidence, self.seed = resamples, confidence, seed
        classes = len(label_space)
        self.confusion = np.zeros((classes, classes + 1), np.int64)
        self._videos: dict[str, VideoCounts] = {}
        self._open: VideoCounts | None = None

    # -- feeding -----------------------------------------------------------------------------------------------------

    def update(
        self,
        video: str,
        frame: int,
        pred: NDArray[Any] | Tensor,
        label: NDArray[Any] | Tensor | None,
        *,
        name: str | None = None,
        image: Tensor | None = None,
    ) -> None:
        """Add the next frame of a video; frames come in order of time, one video after the other.

        Args:
            video: its name; a new one ends the video before.
            frame: position in the video. Where it does not follow the one before, frames are missing in between: no
                VC window, flicker or TC reaches across.
            pred: predicted train ids, uint8 [H, W].
            label: train ids and 255, uint8 [H, W]; None for a frame without a label map. VC windows do not reach across
                such a frame.
            name: frame name for the timeline; the position when left out.
            image: uint8 [3, H, W] RGB; needed with `flow` only.

        Raises:
            InputError: sizes that differ, a label id that is no class, a video that comes twice, or a missing picture.
        """
        if self._open is None or self._open.name != video:
            self._begin(video)
        current = self._open
        assert current is not None
        where = f"{video}, frame {name if name is not None else frame}"
        pred = np.asarray(pred.cpu() if isinstance(pred, Tensor) else pred)
        if pred.ndim != 2:
            raise InputError(f"{where}: expected a predicted label map [H, W], came {list(pred.shape)}")
        timeline, accuracy, miou = current.timeline, math.nan, math.nan
        if timeline.frame and frame != timeline.frame[-1] + 1:
            self._break()
        if label is None:
            self._sums.gap()
        else:
            label = np.asarray(label.cpu() if isinstance(label, Tensor) else label)
            if label.shape != pred.shape:
                raise InputError(
                    f"{where}: expected a prediction and a label map of the frame's size, came {_pixels(pred)} and "
                    f"{_pixels(label)} pixels; make the one anew that has not the size of the frame"
                )
            try:
                matrix = F.confusion_matrix(pred, label, len(self.label_space))
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            self._sums.update(pred, label)
            self.confusion += matrix
            counts = F.class_counts(matrix)
            current.counts += np.stack(counts)
            current.labelled += 1
            accuracy, miou = float(F.pixel_accuracy(counts)), float(F.mean_iou(counts))
        flicker, flip_back, tc = self._compare_with_before(current, where, pred, image)
        current.frames += 1
        timeline.frame.append(int(frame))
        timeline.name.append(name if name is not None else str(frame))
        timeline.miou.append(miou)
        timeline.pixel_accuracy.append(accuracy)
        timeline.flicker.append(flicker)
        timeline.flip_back.append(flip_back)
        timeline.tc.append(tc)

    def _begin(self, video: str) -> None:
        self.end_video()
        if video in self._videos:
            raise InputError(
                f"{video}: expected the frames of a video one after the other, came a second time; give every video a "
                f"name of its own"
            )
        self._sums = WindowSums(self.windows, self.rules)
        self._open = VideoCounts(video, len(self.label_space), self._sums.sums)
        self._flicker = FlickerMeter()
        self._before: tuple[Tensor, NDArray[Any]] | None = None

    def _break(self) -> None:
        """Frames are missing here: what follows has no frame before it."""
        self._sums.gap()
        self._flicker.reset()
        self._before = None

    def _compare_with_before(
        self, current: VideoCounts, where: str, pred: NDArray[Any], image: Tensor | None
    ) -> tuple[float, float, float]:
        """(flicker, flip-back, TC) of this frame against the one before."""
        if self.flow is None:
            return *self._flicker.step(pred), math.nan
        if image is None:
            raise InputError(f"{where}: expected the frame's picture for optical flow, came none; give it, or no flow")
        if tuple(image.shape[-2:]) != pred.shape:
            raise InputError(
                f"{where}: expected a prediction of {image.shape[-1]}x{image.shape[-2]} pixels like its frame, came "
                f"{_pixels(pred)}; write predictions at the size of the frames"
            )
        before, self._before = self._before, (image.clone(), pred.copy())
        if before is None or before[1].shape != pred.shape:
            return *self._flicker.step(pred), math.nan
        pair = checked_pair(self.flow.between(before[0], image), (pred.shape[0], pred.shape[1]))
        value = math.nan
        for variant in CORRESPONDENCE_VARIANTS:
            if variant == "vspw-script" and len(self._videos) >= FIRST_VIDEOS:
                continue
            matrix = pair_confusion(before[1], pred, pair, len(self.label_space), variant)
            current.tc[variant] += np.stack(F.class_counts(matrix))
            if variant == "strict":
                value = float(F.mean_iou(matrix))
        return *self._flicker.step(pred, pair), value

    def end_video(self) -> None:
        """End the video; the next frame begins another one. Called by itself when the name changes."""
        if self._open is not None:
            self._videos[self._open.name] = self._open
            self._open = None

    def merge(self, other: Evaluation) -> Self:
        """Add the videos of another evaluation, from another process for instance; a video lies wholly in one.

        TC [vspw-script] has then seen the first 100 videos of each part.
        """
        self.end_video()
        other.end_video()
        twice = sorted(self._videos.keys() & other._videos.keys())
        if twice:
            raise InputError(f"merge: expected each video in one part, came twice: {', '.join(twice[:5])}")
        self._videos |= other._videos
        self.confusion += other.confusion
        return self

    # -- results -----------------------------------------------------------------------------------------------------

    def compute(self, title: str = "", foreign: str = "") -> Results:
        """All scores of the frames so far. The video that is open counts as it stands.

        Args:
            title: what was evaluated on what.
            foreign: which classes predictions may have beyond the label space (as ids outside it), for the note.
        """
        videos = [*self._videos.values(), *([self._open] if self._open is not None else [])]
        if not videos:
            raise InputError("evaluation: expected at least one frame, came none; check the paths and the split")
        overall = [self._score(measure) for measure in self._measures(videos, whole=True)]
        results = [
            VideoResult(
                video.name,
                video.frames,
                video.labelled,
                [Score(m.name, m.variant, m.value()) for m in self._measures([video], whole=False)],
                video.timeline,
            )
            for video in videos
        ]
        return Results(
            overall, self._class_results(), results, self.confusion.tolist(), title, self._notes(videos, foreign)
        )

    def _score(self, measure: Measure) -> Score:
        value = measure.value()
        if self.resamples < 1 or math.isnan(value):
            return Score(measure.name, measure.variant, value)
        low, high = bootstrap_interval(
            measure.per_video, measure.statistic,
            resamples=self.resamples, confidence=self.confidence, seed=self.seed,
        )  # fmt: skip
        known = not math.isnan(low)
        return Score(measure.name, measure.variant, value, low if known else None, high if known else None)

    def _measures(self, videos: Sequence[VideoCounts], whole: bool) -> list[Measure]:
        return measures(videos, self.windows, self.rules, self.flow is not None, whole)

    def _class_results(self) -> list[ClassResult]:
        counts = F.class_counts(self.confusion)
        iou, accuracy, precision = F.class_iou(counts), F.class_accuracy(counts), F.class_precision(counts)
        return [
            ClassResult(
                name, color, int(counts.truth[k]), int(counts.predicted[k]),
                float(iou[k]), float(accuracy[k]), float(precision[k]),
            )
            for k, (name, color) in enumerate(zip(self.label_space.names, self.label_space.palette, strict=True))
        ]  # fmt: skip

    def _notes(self, videos: Sequence[VideoCounts], foreign: str) -> list[str]:
        frames, labelled = sum(video.frames for video in videos), sum(video.labelled for video in videos)
        notes = [f"{counted(len(videos), 'video')}, {counted(frames, 'frame')}, {labelled} of them with a label map"]
        missed = int(self.confusion[:, -1].sum())
        if missed:
            what = foreign or "no class (an id outside the table)"
            notes.append(f"{counted(missed, 'labelled pixel')} predicted as {what}: counted as wrong")
        if labelled and not any(sums[0, 1] for video in videos for sums in video.windows.values()):
            notes.append(f"VC is not defined: no {self.windows[0]} consecutive frames have label maps")
        if not labelled:
            notes.append("no label maps: only scores that need none")
        return notes


def _pixels(labels: NDArray[Any]) -> str:
    return f"{labels.shape[1]}x{labels.shape[0]}"
