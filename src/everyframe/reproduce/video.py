"""Predictions of two rows side by side as a video."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

from everyframe.data.layout import VideoRef
from everyframe.data.predictions import SavedPredictions
from everyframe.data.reading import iter_frames
from everyframe.files import whole_file
from everyframe.io.video import VideoWriter
from everyframe.labels import LabelSpace
from everyframe.report.overlay import overlay, side_by_side


def write_side_by_side(
    videos: Sequence[VideoRef],
    space: LabelSpace,
    predictions: Sequence[tuple[str, Path]],
    path: Path,
    rate: Fraction | int = 15,
) -> None:
    """Write videos one after the other, each frame beside itself under every set of label maps.

    Args:
        videos: with their frames.
        space: of the data.
        predictions: (caption, folder of label maps with `labels.json`).
        path: of the video file; it is whole or not there.
        rate: frames per second.
    """
    saved = [(caption, SavedPredictions(folder, space)) for caption, folder in predictions]
    if not any(video.frames for video in videos):
        return
    writer: VideoWriter | None = None
    with whole_file(path, f".part{path.suffix}") as part, ExitStack() as stack:
        for video in videos:
            for frame in iter_frames(video):
                reference = video.frames[frame.index]
                panels = [frame.image.permute(1, 2, 0).numpy()]
                panels += [overlay(panels[0], maps.read(video, reference), space) for _, maps in saved]
                picture = side_by_side(panels, [video.name, *(caption for caption, _ in saved)])
                if writer is None:
                    writer = stack.enter_context(VideoWriter(part, picture.shape[:2], rate))
                writer.write(picture)
