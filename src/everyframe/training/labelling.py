"""Pseudo-labels on disk: every frame without a label map gets one, from the `Stream` that also predicts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everyframe.data.layout import VideoRef
from everyframe.data.reading import iter_frames, read_labels
from everyframe.errors import writing
from everyframe.files import write_whole
from everyframe.frames import IGNORE, Frame
from everyframe.inference.labelmap import confidence_map, label_map
from everyframe.inference.outputs import Labelled, LabelWriter
from everyframe.inference.pipeline import ReadAhead, WriteBehind
from everyframe.inference.predictor import Predictor
from everyframe.inference.scores import own_confidence
from everyframe.inference.stream import Stream, to_numpy
from everyframe.inference.views import with_views
from everyframe.labels import LabelSpace

RECORD = "pseudo_labels.json"
"""Which videos are done, with counts of pixels: what a loop that goes on reads."""


def label_videos(
    model: str | Path | Predictor,
    videos: Sequence[VideoRef],
    out: Path,
    *,
    threshold: float = 0.9,
    scales: Sequence[float] = (0.75, 1.0, 1.25),
    flip: bool = True,
    truth: Mapping[str, VideoRef] | None = None,
    device: str = "auto",
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Write OUT/<video>/<frame>.png for all frames that have no label map, and OUT/labels.json.

    Frames of which the model is sure nowhere get none. A video that an earlier call has finished is left as it is; one
    that it left half done starts over.

    Args:
        model: a saved model's folder, or a built one.
        videos: their labelled frames are seen by the model and not written.
        out: folder of the pseudo-labels.
        threshold: pixels whose probability is below become 255; 0 keeps all. The probability is that of Mean
            Teacher: of heads that predict masks it is "bounded", see `Confidence`.
        scales: see `everyframe.inference.tta.Scales`; empty: the frame as it is.
        flip: average with the mirrored frame.
        truth: the same videos by name, with labels to measure by; they go nowhere else.
        device: see `Stream`.
        stop: asked after every frame; True ends the call, with what is finished on disk.

    Returns:
        "frames" written, "coverage" (share of their pixels with a label), and where truth is known "precision".

    Raises:
        InputError: the model or a video cannot be used, or the folder cannot be written.
    """
    stream = Stream(with_views(model, scales=scales, flip=flip), device)

    def label(video: VideoRef, writer: LabelWriter) -> Counter[str] | None:
        return _label_video(stream, video, writer, threshold, (truth or {}).get(video.name), stop)

    return write_labels(videos, stream.label_space, out, label)


def write_labels(
    videos: Sequence[VideoRef],
    space: LabelSpace,
    out: Path,
    label: Callable[[VideoRef, LabelWriter], Counter[str] | None],
) -> dict[str, float]:
    """Write label maps of many videos and OUT/labels.json; videos that an earlier call has finished are left alone.

    Args:
        videos: to label.
        space: of the labels; extended by ignored pixels where its files could not hold them.
        out: folder.
        label: writes the label maps of a video and returns its summed `count_pixels`, or None when it was stopped,
            which ends the call.

    Returns:
        See `label_videos`.

    Raises:
        InputError: the folder cannot be written.
    """
    space = with_ignore(space)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        space.save(out / "labels.json")
    record = out / RECORD
    done: dict[str, dict[str, int]] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    for video in videos:
        if video.name in done:
            continue
        counts = label(video, LabelWriter(out / video.name, space))
        if counts is None:
            break
        done[video.name] = dict(counts)
        with writing(record):
            write_whole(record, json.dumps(done, indent=1))
    total = sum((Counter(counts) for counts in done.values()), Counter[str]())
    results: dict[str, float] = {"frames": total["frames"], "coverage": total["kept"] / max(total["pixels"], 1)}
    if total["known"]:
        results["precision"] = total["right"] / total["known"]
    return results


def with_ignore(space: LabelSpace) -> LabelSpace:
    """Return a label space whose files can hold ignored pixels: the same, or with 255 for them."""
    if any(train == IGNORE for train in space.raw_to_train.values()):
        return space
    if IGNORE in space.raw_to_train:  # taken by a class: plain train ids then
        return LabelSpace(space.names, space.palette)
    return LabelSpace(space.names, space.palette, {**space.raw_to_train, IGNORE: IGNORE}, space.colors)


def _label_video(
    stream: Stream,
    video: VideoRef,
    writer: LabelWriter,
    threshold: float,
    truth: VideoRef | None,
    stop: Callable[[], bool],
) -> Counter[str] | None:
    """Label one video; None when asked to stop before its end."""
    counts: Counter[str] = Counter()
    labelled = set(video.labelled)

    def write(item: Labelled) -> None:
        known = None if truth is None else read_labels(truth, item.frame.index, stream.label_space, item.frame.size)
        found = count_pixels(item.labels, known)
        if found["frames"]:  # a map of nothing would be trained on as a labelled frame
            writer.write(item)
        counts.update(found)

    stream.reset()
    with writer, ReadAhead(iter_frames(video)) as frames, WriteBehind(write) as behind:
        for frame in frames:
            labels = _sure_labels(stream, frame, threshold)  # labelled frames too: a memory needs every frame
            if frame.index not in labelled:
                behind.put(Labelled(frame, labels))
            if stop():
                return None
    return counts


def _sure_labels(stream: Stream, frame: Frame, threshold: float) -> NDArray[np.uint8]:
    scores = stream.logits(frame)
    labels = label_map(scores, frame.size)
    if threshold > 0:
        measure = own_confidence(stream.predictor, scores)
        sure = confidence_map(scores, frame.size, measure) >= threshold  # no number is not sure
        labels[~sure] = IGNORE
    return to_numpy(labels[0])


def count_pixels(labels: NDArray[np.uint8], truth: NDArray[np.uint8] | None) -> dict[str, int]:
    """Return what a label map adds to the record: frames (none if empty), pixels, those with a label, right ones.

    Args:
        labels: uint8 [H, W], train ids.
        truth: likewise, where it is known.
    """
    kept = labels != IGNORE
    counts = {"frames": int(kept.any()), "pixels": labels.size, "kept": int(kept.sum())}
    if truth is not None:
        known = kept & (truth != IGNORE)
        counts |= {"known": int(known.sum()), "right": int((known & (labels == truth)).sum())}
    return counts
