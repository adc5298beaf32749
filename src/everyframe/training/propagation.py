"""Labels from neighbours: the label map of a frame, moved along optical flow to the frames before and after it.

Zhu et al., "Improving Semantic Segmentation via Video Propagation and Label Relaxation" (CVPR 2019), the form with real
frames and moved labels. The flow of a longer way is composed of that between neighbours, so that the label map is read
once, and not blurred frame by frame. Where a point was hidden on the way, the label is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyframe.data.layout import VideoRef
from everyframe.data.reading import read_frames, read_labels
from everyframe.errors import InputError
from everyframe.flow import DISFlow, Flow, FlowField, FlowPair, checked_pair
from everyframe.frames import IGNORE, Frame
from everyframe.inference.outputs import Labelled, LabelWriter
from everyframe.labels import LabelSpace
from everyframe.metrics.flow import follow, visible
from everyframe.training.labelling import count_pixels, write_labels


class Way(NamedTuple):
    """How a frame's pixels lie in the labelled frame.

    Attributes:
        flow: displacement into the labelled frame, float32 [2, H, W].
        seen: bool [H, W], whether the point was in sight all the way.
    """

    flow: FlowField
    seen: NDArray[np.bool_]

    def further(self, step: FlowPair) -> Way:
        """Return the way of the next frame, whose flow to this one (and back) is `step`."""
        # Flow at the nearest pixel: between pixels, that of two objects would be mixed at their border.
        carried = np.stack([follow(part, step.forward)[0] for part in self.flow])
        before, inside = follow(self.seen, step.forward)
        return Way(step.forward + carried, visible(step) & before & inside)

    def carry(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the labels [H, W] of the labelled frame on this frame's pixels; 255 where none is known."""
        moved, inside = follow(labels, self.flow)
        return np.where(self.seen & inside, moved, np.uint8(IGNORE))


def propagate_labels(
    videos: Sequence[VideoRef],
    space: LabelSpace,
    out: Path,
    *,
    reach: int = 5,
    flow: Flow | None = None,
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
            for frame, labels in moved_labels(video, space, reach, estimator):
                known = None if source is None else read_labels(source, frame.index, space, frame.size)
                found = count_pixels(labels, known)
                if found["frames"]:  # a map of nothing would be trained on as a labelled frame
                    writer.write(Labelled(frame, labels))
                counts.update(found)
                if stop():
                    return None
        return counts

    return write_labels([video for video in videos if video.labelled], space, out, label)


def moved_labels(
    video: VideoRef, space: LabelSpace, reach: int, flow: Flow
) -> Iterator[tuple[Frame, NDArray[np.uint8]]]:
    """Yield the frames without a label map that are near one with, and the labels that they get: uint8 [H, W]."""
    for source, goals in goals_of(video.labelled, len(video.frames), reach).items():
        for side in (-1, 1):
            count = sum((goal - source) * side > 0 for goal in goals)  # they lie side by side, from the source on
            if not count:
                continue
            frames = read_frames(video, range(source, source + side * (count + 1), side))
            labels = read_labels(video, source, space, frames[0].size)
            assert labels is not None
            way = Way(np.zeros((2, *labels.shape), np.float32), np.ones(labels.shape, np.bool_))
            for near, frame in pairwise(frames):
                way = way.further(checked_pair(flow.between(frame.image, near.image), frame.size))
                yield frame, way.carry(labels)


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
