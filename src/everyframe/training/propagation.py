"""Labels from neighbours: the label map of a frame, moved along optical flow to the frames before and after it.

Zhu et al., "Improving Semantic Segmentation via Video Propagation and Label Relaxation" (CVPR 2019), the form with real
frames and moved labels. The flow of a longer way is composed of that between neighbours, so that the label map is read
once, and not blurred frame by frame. Where a point was hidden on the way, the label is left out, or filled in by a
model (`filled`); `everyframe.training.warp_refine` goes further.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everyframe.data.layout import VideoRef
from everyframe.data.reading import read_frames, read_labels
from everyframe.errors import InputError
from everyframe.flow import DISFlow, Flow, FlowField, FlowPair, checked_pair
from everyframe.frames import IGNORE, Frame
from everyframe.inference.outputs import Labelled, LabelWriter
from everyframe.inference.scores import as_logits, normalized, own_norm
from everyframe.inference.stream import Stream, to_numpy
from everyframe.labels import LabelSpace
from everyframe.metrics.flow import follow, visible
from everyframe.semi.pseudo import pseudo_labels
from everyframe.training.labelling import count_pixels, write_labels

Labels = NDArray[np.uint8]
"""[H, W] train ids, 255 where none is known."""


class Neighbour(NamedTuple):
    """A frame on the way from a labelled one outwards.

    Attributes:
        frame: itself.
        inwards: flow from it to the frame before it on the way, which is nearer to the labelled one, and back.
        logits: what a model says of it, [1, K, h, w] of any resolution; None without a model.
    """

    frame: Frame
    inwards: FlowPair
    logits: Tensor | None


Carrier = Callable[[Labels, Iterable[Neighbour]], Iterator[Labels]]
"""(labels of a frame, its neighbours outwards) -> the labels that each of them gets."""

Look = Callable[[Sequence[Frame]], Sequence[Tensor]]
"""Frames in order of time -> a model's logits of each, [1, K, h, w]."""


class Way(NamedTuple):
    """How a frame's pixels lie in the labelled frame.

    Attributes:
        flow: displacement into the labelled frame, float32 [2, H, W].
        seen: bool [H, W], whether the point was in sight all the way.
    """

    flow: FlowField
    seen: NDArray[np.bool_]

    @classmethod
    def begin(cls, size: tuple[int, int]) -> Way:
        """Return the way of the labelled frame itself, of size (H, W)."""
        return cls(np.zeros((2, *size), np.float32), np.ones(size, np.bool_))

    def further(self, step: FlowPair) -> Way:
        """Return the way of the next frame, whose flow to this one (and back) is `step`."""
        # Flow at the nearest pixel: between pixels, that of two objects would be mixed at their border.
        carried = np.stack([follow(part, step.forward)[0] for part in self.flow])
        before, inside = follow(self.seen, step.forward)
        return Way(step.forward + carried, visible(step) & before & inside)

    def carry(self, labels: Labels, hidden: Labels | int = IGNORE) -> Labels:
        """Return the labels [H, W] of the labelled frame on this frame's pixels; `hidden` where they cannot be seen."""
        carried, inside = follow(labels, self.flow)
        return np.where(self.seen & inside, carried, np.asarray(hidden, np.uint8))


def moved(labels: Labels, neighbours: Iterable[Neighbour]) -> Iterator[Labels]:
    """Move labels along flow; 255 where a point was hidden on the way. A `Carrier`."""
    way = Way.begin(labels.shape)
    for neighbour in neighbours:
        way = way.further(neighbour.inwards)
        yield way.carry(labels)


def filled(threshold: float) -> Carrier:
    """Return the carrier that moves labels along flow, and asks the model about what was hidden on the way.

    Args:
        threshold: below this probability the model's answer is left out; 0 takes every one.
    """

    def carry(labels: Labels, neighbours: Iterable[Neighbour]) -> Iterator[Labels]:
        way = Way.begin(labels.shape)
        for neighbour in neighbours:
            assert neighbour.logits is not None, "a model looks"
            way = way.further(neighbour.inwards)
            predicted = pseudo_labels(neighbour.logits, labels.shape, threshold)
            yield way.carry(labels, to_numpy(predicted[0]))

    return carry


def look_with(stream: Stream) -> Look:
    """Return what tells a model's logits of frames, which it sees as a video of their own.

    Scores of heads that predict masks are turned into logits whose softmax they are.
    """

    def look(frames: Sequence[Frame]) -> Sequence[Tensor]:
        stream.reset()
        norm = own_norm(stream.predictor)
        scores = (stream.logits(frame) for frame in frames)
        return [each if norm == "softmax" else as_logits(normalized(each, norm), norm) for each in scores]

    return look


def propagate_labels(
    videos: Sequence[VideoRef],
    space: LabelSpace,
    out: Path,
    *,
    reach: int = 5,
    flow: Flow | None = None,
    carrier: Carrier = moved,
    look: Look | None = None,
    truth: Mapping[str, VideoRef] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Write OUT/<video>/<frame>.png for the frames near a labelled one, and OUT/labels.json.

    A frame between two labelled ones takes the nearer one's labels (the earlier one's when both are as near).

    Args:
        videos: some of their frames labelled.
        space: their classes.
        out: folder that `everyframe.data.pseudo_labels.with_pseudo_labels` reads.
        reach: frames before and after a labelled one that get labels.
        flow: estimator; OpenCV's DIS when left out. One that gives no flow back cannot tell what is hidden.
        carrier: how labels get from frame to frame: `moved`, `filled`, or `everyframe.training.warp_refine.Refined`.
        look: what tells a model's view of frames, see `look_with`; `moved` alone does without.
        truth: the same videos by name, with labels to measure by; they go nowhere else.
        stop: asked after every frame; True ends the call, with what is finished on disk.

    Returns:
        "frames" written, "coverage" (share of their pixels with a label), and where truth is known "precision".

    Raises:
        InputError: a reach below 1, a video that cannot be read, or the folder cannot be written.
    """
    if reach < 1:
        raise InputError(f"propagation: expected a reach of at least 1 frame, came {reach}")
    estimator = flow if flow is not None else DISFlow()

    def label(video: VideoRef, writer: LabelWriter) -> Counter[str] | None:
        counts: Counter[str] = Counter()
        source = (truth or {}).get(video.name)
        with writer:
            for frame, labels in carried_labels(video, space, reach, estimator, carrier, look):
                known = None if source is None else read_labels(source, frame.index, space, frame.size)
                found = count_pixels(labels, known)
                if found["frames"]:  # a map of nothing would be trained on as a labelled frame
                    writer.write(Labelled(frame, labels))
                counts.update(found)
                if stop():
                    return None
        return counts

    return write_labels([video for video in videos if video.labelled], space, out, label)


def carried_labels(
    video: VideoRef, space: LabelSpace, reach: int, flow: Flow, carrier: Carrier = moved, look: Look | None = None
) -> Iterator[tuple[Frame, Labels]]:
    """Yield the frames without a label map that are near one with, and the labels that they get: uint8 [H, W]."""
    for source, goals in goals_of(video.labelled, len(video.frames), reach).items():
        if not goals:
            continue
        first = min(*goals, source)  # the goals lie side by side around the source
        frames = read_frames(video, range(first, max(*goals, source) + 1))
        logits = [None] * len(frames) if look is None else look(frames)
        labels = read_labels(video, source, space, frames[0].size)
        assert labels is not None
        seen = list(zip(frames, logits, strict=True))
        for outwards in (seen[source - first :: -1], seen[source - first :]):
            neighbours = _neighbours(outwards, flow)
            for (frame, _), found in zip(outwards[1:], carrier(labels, neighbours), strict=True):
                yield frame, found


def _neighbours(outwards: Sequence[tuple[Frame, Tensor | None]], flow: Flow) -> Iterator[Neighbour]:
    """Yield the frames behind the first one; flow is computed when it is asked for."""
    for (near, _), (frame, logits) in pairwise(outwards):
        yield Neighbour(frame, checked_pair(flow.between(frame.image, near.image), frame.size), logits)


def goals_of(labelled: Sequence[int], length: int, reach: int) -> dict[int, list[int]]:
    """Return for each labelled frame of a video the frames that take its labels.

    Args:
        labelled: positions of the labelled frames, in order.
        length: number of frames.
        reach: see `propagate_labels`.
    """
    goals: dict[int, list[int]] = {}
    for at, source in enumerate(labelled):
        # Half-way to the labelled frames on both sides; the frame in the middle is the earlier one's.
        first = (labelled[at - 1] + source) // 2 + 1 if at else 0
        last = (source + labelled[at + 1]) // 2 if at + 1 < len(labelled) else length - 1
        near = range(max(first, source - reach), min(last, source + reach) + 1)
        goals[source] = [index for index in near if index != source]
    return goals
