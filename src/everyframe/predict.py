"""From videos to label maps: reader -> `Stream.step` -> writers, with reading and writing beside the model.

`stream` yields label maps, `predict` writes files. Both run this loop:

    for frame in ReadAhead(source):      # decoded in a thread of its own, a few frames ahead
        labels = runner.step(frame)      # the model, in the calling thread
        write_behind.put(labels)         # label map, overlay video, areas: in a thread of their own
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from everyframe.errors import InputError
from everyframe.files import file_digest
from everyframe.frames import Frame
from everyframe.inference.job import Job, fingerprint
from everyframe.inference.job_sources import JobSources, open_sources
from everyframe.inference.labelmap import label_map
from everyframe.inference.lookahead import LookAhead, last_frame
from everyframe.inference.outputs import (
    AREAS,
    CONFIDENCE,
    OVERLAY,
    AreasWriter,
    ConfidenceWriter,
    Labelled,
    LabelWriter,
    Writer,
    output,
    save_classes,
)
from everyframe.inference.pipeline import QUEUE, ReadAhead
from everyframe.inference.predictor import Predictor
from everyframe.inference.run import OnFrame, Run
from everyframe.inference.stream import Stream, kept_mode, to_numpy
from everyframe.inference.summary import JobStopped, Summary, VideoResult
from everyframe.inference.views import (
    Views,
    check_specialists,
    check_views,
    loaded,
    view_notes,
    view_settings,
    with_views,
)
from everyframe.io.sources import PICTURE_RATE, CameraSource, Source, open_source
from everyframe.io.video import VideoWriter
from everyframe.io.video_open import is_pipe
from everyframe.labels import LabelSpace
from everyframe.report.overlay import overlay_with_legend

__all__ = ["JobStopped", "Summary", "VideoResult", "predict", "stream", "with_views"]


def stream(
    model: str | Path | Predictor,
    source: Any,
    *,
    device: str = "auto",
    dtype: str | None = None,
    **views: Unpack[Views],
) -> Iterator[tuple[Frame, NDArray[np.uint8]]]:
    """Yield every frame of a source with its label map, as they come; memory does not grow with their number.

    A built model is put into eval mode and moved to the device, and stays so, see `Stream`.

    Args:
        model: a saved model's folder, a run's folder, a hub id, or a built model or wrapper.
        source: what `everyframe.io.sources.open_source` takes: a video file, a folder or glob of pictures, a camera's
            number, a URL, or an iterable of frames.
        device: see `Stream`.
        dtype: see `Stream`.
        **views: how the model looks at a frame: short, window, stride, flip, scales, score_norm, offline,
            specialists, logit_adjustment, prior, smooth, smooth_window, smooth_vote, smooth_flow; see `with_views`.

    Yields:
        The frame, and its label map: uint8 [H, W] of the frame's size, train ids 0..K-1.

    Raises:
        InputError: the model or source cannot be used; for a damaged video after its last whole frame.
    """
    check_views(views, "stream")
    runner = Stream(with_views(model, **views), device, dtype)
    opened = open_source(source)
    with ReadAhead(opened, QUEUE) as frames:
        for frame, logits in LookAhead(runner, partial(last_frame, opened)).answers(frames):
            yield frame, to_numpy(label_map(logits, frame.size)[0])


def predict(
    model: str | Path | Predictor,
    sources: Any,
    out: str | Path,
    *,
    labels: bool = True,
    overlay: bool = True,
    areas: bool = True,
    confidence: bool = False,
    device: str = "auto",
    dtype: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_every: int = 50,
    on_frame: OnFrame | None = None,
    **views: Unpack[Views],
) -> Summary:
    """Label every frame of some videos and write the results as they are made.

    A video that cannot be read does not stop the others: it stands in the summary as failed, with what was labelled
    before. An interrupted job leaves whole files and goes on with `resume=True`; it gives the same files then. A built
    model is moved to the device, runs in eval mode, and has its own mode again afterwards.

    Args:
        model: a saved model's folder, a run's folder, a hub id, or a built model or wrapper.
        sources: one of what `stream` takes, or a list of them; globs and folders of videos stand for their videos.
        out: output folder, made when missing. Of each video: VIDEO/FRAME.png (label maps), VIDEO.overlay.mp4,
            VIDEO.areas.csv, VIDEO.confidence/FRAME.png; and labels.json, summary.json for all.
        labels: write label maps, palette PNGs of the frame's size that hold raw ids.
        overlay: write a video of the frames under their labels, with a legend, at the original times.
        areas: write the share of each class in each frame.
        confidence: write the winning class's probability as grey pictures.
        device: see `Stream`.
        dtype: see `Stream`.
        resume: go on where an earlier job in `out` with the same settings was interrupted.
        overwrite: replace an earlier job in `out` of other classes; its label maps are removed.
        checkpoint_every: frames between two records of the stream's state: what a resumed job repeats at most.
        on_frame: called after each frame with the video's name, its frames so far, and of how many, where known.
        **views: how the model looks at a frame: short, window, stride, flip, scales, score_norm, offline,
            specialists, logit_adjustment, prior, smooth, smooth_window, smooth_vote, smooth_flow; see `with_views`.

    Raises:
        InputError: the model cannot be used, no source can be opened, no output is asked for, or the earlier job had
            other settings or classes.
        OutputError: the output folder cannot be written; what is finished stays readable.
        JobStopped: a `KeyboardInterrupt`, with the summary of what was done.
    """
    asked = {"labels": labels, "overlay": overlay, "areas": areas, "confidence": confidence}
    wanted = [kind for kind, yes in asked.items() if yes]
    if not wanted:
        raise InputError(f"predict: expected at least one of the outputs {', '.join(asked)}, came none")
    if checkpoint_every < 1:
        raise InputError(f"predict: expected a record of the state every 1 frame or more, came {checkpoint_every}")
    check_views(views, "predict")
    check_specialists(model, views.get("specialists"))  # by its path: a built model no longer says what it is
    found = open_sources(sources)
    found.check_apart(Path(out))
    built = loaded(model)
    with kept_mode(built):
        runner = Stream(with_views(built, **views), device, dtype)
        settings = _settings(built, runner, views) | {"outputs": wanted}
        job = _open_job(Path(out), found, runner.label_space, settings, resume, overwrite)
        job.summary.notes += view_notes(model, runner.predictor)
        writers = partial(_writers, wanted, job.out, runner.label_space)
        _label(found, job, Run(runner, job, writers, confidence, checkpoint_every, on_frame))
    return job.summary


def _settings(model: Predictor, runner: Stream, views: Views) -> dict[str, Any]:
    """Return what the labels depend on, but for the frames."""
    settings = {"model": fingerprint(model), **view_settings(**views)}
    if "specialists" in settings or "prior" in settings:  # files whose content the labels depend on
        settings["predictor"] = fingerprint(runner.predictor)
    if str(settings.get("smooth_flow", "")).startswith("raft:"):
        settings["smooth_weights"] = file_digest(Path(settings["smooth_flow"].removeprefix("raft:")))
    return settings | {"dtype": str(runner.dtype).removeprefix("torch."), "device": runner.device.type}


def _open_job(
    out: Path, found: JobSources, space: LabelSpace, settings: dict[str, Any], resume: bool, overwrite: bool
) -> Job:
    """Open the record in the output folder, the classes beside it; what another job left is gone where it must."""
    with output(out):
        out.mkdir(parents=True, exist_ok=True)
    others = save_classes(out, space, overwrite and not resume, found.results(out))
    job = Job(out, settings, resume)
    if others:
        job.clear_replaced()
    return job


def _writers(wanted: Sequence[str], out: Path, space: LabelSpace, source: Source) -> list[Writer]:
    name = source.name
    made: dict[str, Callable[[], Writer]] = {
        "labels": lambda: LabelWriter(out / name, space),
        "overlay": lambda: OverlayWriter(out / f"{name}{OVERLAY}", space, source.rate or PICTURE_RATE),
        "areas": lambda: AreasWriter(out / f"{name}{AREAS}", space),
        "confidence": lambda: ConfidenceWriter(out / f"{name}{CONFIDENCE}"),
    }
    return [made[kind]() for kind in wanted]


def _label(found: JobSources, job: Job, run: Run) -> None:
    """Label the videos that the job has not finished yet."""
    job.summary.waiting = [source.name for source in found.sources]
    try:
        with job:
            found.record(job)
            for source in found.sources:
                with job.video(source.name, _origin(source)) as result:
                    if not job.finished(result, _is_live(source)):
                        run.label(source, result)
    except KeyboardInterrupt as stopped:
        cut = {video.name for video in job.summary.videos if video.status == "stopped"}
        goes_on = not any(source.name in cut and _is_live(source) for source in found.sources)
        raise JobStopped(job.summary, goes_on) from stopped


class OverlayWriter:
    """The frames under their labels, with a legend, as a video at the original times."""

    def __init__(self, path: Path, space: LabelSpace, rate: Fraction) -> None:
        self.path = path
        self.space = space
        self.rate = rate
        self._video: VideoWriter | None = None
        self._size = (0, 0)
        self._slots: list[int] = []

    def __enter__(self) -> Self:
        return self

    def write(self, item: Labelled) -> None:
        """Append one frame; the first one's size is the video's, and later ones are fitted into it."""
        image, labels = item.frame.image, torch.from_numpy(item.labels)
        if self._video is None:
            self._size = item.frame.size
        if item.frame.size != self._size:
            image = F.interpolate(image[None].float(), self._size, mode="bilinear", antialias=True)[0].round().byte()
            labels = F.interpolate(labels[None, None], self._size, mode="nearest-exact")[0, 0]
        if self._video is not None:
            self._video.check_time(item.frame.time)  # what is wrong with one video does not stop the job
        painted = overlay_with_legend(image, labels.numpy(), self.space, slots=self._slots)
        with output(self.path):
            if self._video is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._video = VideoWriter(self.path, (painted.shape[-2], painted.shape[-1]), self.rate)
            self._video.write(painted, item.frame.time)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._video is not None:
            with output(self.path):
                self._video.close()


def _origin(source: Source) -> str:
    """Name a source the same way from whatever folder the job is resumed."""
    path = Path(source.origin)
    return str(path.absolute()) if path.exists() else source.origin


def _is_live(source: Source) -> bool:
    live = ("rtsp://", "rtmp://", "udp://", "rtp://")
    return isinstance(source, CameraSource) or source.origin.startswith(live) or is_pipe(source.origin)
