"""Predictions or a model, and a data set with label maps -> numbers that carry their definition, and a report.

for pair in pairs:                   # predicted and true label map of a frame, decoded ahead in threads
    evaluation.update(...)           # counts; memory does not grow with the number of frames
results = evaluation.compute(...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everyframe.data.decoding import DecodingThreads
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.layouts import load_split
from everyframe.data.predictions import Ids, SavedPredictions, table_by_name
from everyframe.data.reading import iter_frames, read_frame, read_labels
from everyframe.errors import InputError, writing
from everyframe.flow import Flow, open_flow
from everyframe.frames import Frame
from everyframe.inference.outputs import save_classes
from everyframe.inference.predictor import Predictor
from everyframe.inference.stream import pick_device
from everyframe.inference.views import Views, view_notes, with_views
from everyframe.io.label_png import write_label
from everyframe.labels import LabelSpace
from everyframe.metrics.evaluation import Evaluation
from everyframe.metrics.results import Results
from everyframe.predict import stream
from everyframe.report.page import write_page
from everyframe.report.strips import Snapshot, WorstFrames

Labels = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]
"""Called with (video, frames done, frames in all)."""


@dataclass(slots=True)
class Pair:
    """One frame to measure.

    Attributes:
        video: where it belongs.
        frame: which one it is.
        prediction: uint8 [H, W], train ids of the data; 255 where the predicted class is none of them.
        target: uint8 [H, W], train ids and 255; None when the frame is not labelled.
        image: uint8 [3, H, W], RGB, where optical flow needs it.
    """

    video: VideoRef
    frame: FrameRef
    prediction: Labels
    target: Labels | None
    image: Tensor | None = None


def evaluate(
    pred: str | Path | None = None,
    data: str | Path = "",
    split: str = "val",
    *,
    model: str | Path | Predictor | None = None,
    out: str | Path | None = None,
    pred_ids: Ids = "raw",
    allow_missing: bool = False,
    save: str | Path | None = None,
    windows: Sequence[int] = (8, 16),
    flow: Flow | str | None = "dis",
    bootstrap: int = 1000,
    seed: int = 0,
    worst: int = 12,
    workers: int = 2,
    progress: Progress | None = None,
    **options: Any,
) -> Results:
    """Measure predictions on disk, or a model, against the label maps of a data set.

    Exactly one of `pred` and `model` is given. A model runs through `everyframe.stream`, as in prediction: evaluating
    the folder that `save` fills gives the same numbers. Frames without a label map count for flicker only.

    Args:
        pred: folder of label maps <video>/<frame>.png, as `everyframe predict` writes them.
        data: "LAYOUT:ROOT", such as "vspw:/data/VSPW_480p"; see `everyframe.data.layouts.load_split`.
        split: which videos of the data.
        model: a saved model's folder, a hub id, or a built model or wrapper.
        out: folder for `results.json` and `report.html`; None writes nothing.
        pred_ids: what the files of `pred` hold: "raw" ids of the masks, or "train" ids 0..K-1.
        allow_missing: evaluate although labelled frames lack a prediction, and say so beside the numbers.
        save: folder for the label maps of `model`.
        windows: lengths n of VC_n, in frames.
        flow: optical flow for TC and for flicker along it: "dis", "raft", "raft:WEIGHTS.pth", or anything with
            `between` (see `everyframe.metrics.flow`); None leaves TC out, compares pixels at the same position, and
            does not read the frames. RAFT runs on the model's device, else on a GPU if there is one.
        bootstrap: resamples of the videos behind the confidence intervals; 0 for none.
        seed: of the resampling.
        worst: worst frames that the report shows.
        workers: threads that decode.
        progress: called after each frame.
        **options: with `model`: device and dtype, see `everyframe.inference.stream.Stream`, and how it looks at a
            frame, see `everyframe.inference.views.with_views` (window, flip, scales, offline, smooth, ...).

    Returns:
        The numbers, each with its variant.

    Raises:
        InputError: data, predictions or model cannot be used, or do not fit each other.

    Example:
        >>> results = evaluate("predictions/", "vspw:/data/VSPW_480p", out="report/")  # doctest: +SKIP
        >>> print(results.score("mIoU"))  # doctest: +SKIP
    """
    videos, space = load_split(data, split)
    source = _source(pred, model, videos, space, pred_ids, allow_missing, save, options)
    if all(len(video.frames) == 1 for video in videos):  # still images: nothing moves
        flow = None
    evaluation = Evaluation(
        space, windows=windows, flow=_flow(flow, options.get("device", "auto")), resamples=bootstrap, seed=seed
    )
    if out is not None:  # an unwritable folder shows now, not after the work
        with writing(Path(out)):
            Path(out).mkdir(parents=True, exist_ok=True)
    bad = WorstFrames(worst if out is not None else 0, len(videos))
    total = sum(len(video.frames) for video in videos)
    with DecodingThreads(workers) as pool:
        for done, pair in enumerate(source.pairs(videos, pool, images=flow is not None), 1):
            video, frame = pair.video, pair.frame
            evaluation.update(video.name, frame.index, pair.prediction, pair.target, name=frame.name, image=pair.image)
            if pair.target is not None:
                bad.offer(video.name, frame.index, len(video.frames), pair.prediction, pair.target)
            if progress is not None:
                progress(video.name, done, total)
    results = evaluation.compute(f"{source.name} on {Path(str(data)).name}, {split}")
    results.notes += [*source.notes, *_partial(results)]
    if out is not None:
        settings = {
            "data": data,
            "split": split,
            **source.settings,
            "VC windows": ", ".join(map(str, windows)),
            "optical flow": flow if isinstance(flow, str) else type(flow).__name__ if flow is not None else "none",
            "intervals": f"{bootstrap} resamples of videos, seed {seed}",
        }
        _write(Path(out), results, _snapshots(bad, videos), settings)
    return results


def _write(out: Path, results: Results, snapshots: Iterable[Snapshot], settings: Mapping[str, Any]) -> None:
    with writing(out):
        results.to_json(out / "results.json")
        write_page(results, out / "report.html", snapshots, settings)


def _snapshots(bad: WorstFrames, videos: Sequence[VideoRef]) -> Iterator[Snapshot]:
    """Add their pictures to the worst frames."""
    by_name = {video.name: video for video in videos}
    for name, index, prediction, target in bad:
        video = by_name[name]
        image = read_frame(video, index).image.permute(1, 2, 0).contiguous().numpy()
        yield Snapshot(name, video.frames[index].name, image, prediction, target)


def _flow(flow: Flow | str | None, device: str) -> Flow | None:
    return None if flow is None else open_flow(flow, pick_device(device))


def _partial(results: Results) -> list[str]:
    """Notes on scores that some videos do not take part in."""
    notes = []
    for score in results.overall:
        known = results.defined_in(score) or 0
        if score.name.startswith("VC") and score is results.score(score.name) and 0 < known < len(results.videos):
            length = score.name.removeprefix("VC")
            notes.append(
                f"{score.name}: {known} of {len(results.videos)} videos; the others have no {length} consecutive "
                f"labelled frames"
            )
    return notes


# -- where predictions come from ---------------------------------------------------------------------------------------


def _source(
    pred: str | Path | None,
    model: str | Path | Predictor | None,
    videos: Sequence[VideoRef],
    space: LabelSpace,
    pred_ids: Ids,
    allow_missing: bool,
    save: str | Path | None,
    options: Mapping[str, Any],
) -> _Saved | _Live:
    if (pred is None) == (model is None):
        raise InputError(
            f"evaluate: expected either predictions or a model, came {'neither' if pred is None else 'both'}"
        )
    if model is not None:
        return _Live(model, space, save, options)
    if save is not None or options:
        wrong = ", ".join([*(["save"] if save is not None else []), *options])
        raise InputError(f"evaluate: {wrong} belongs to a model, came with predictions; leave it out or give a model")
    assert pred is not None
    return _Saved(SavedPredictions(pred, space, pred_ids), videos, space, allow_missing)


class _Saved:
    """Predictions on disk. Frames without one are passed over; `notes` says how many labelled ones."""

    def __init__(
        self, saved: SavedPredictions, videos: Sequence[VideoRef], space: LabelSpace, allow_missing: bool
    ) -> None:
        self.saved = saved
        self.space = space
        self.name = saved.folder.resolve().name
        self.settings = {"predictions": saved.folder, "ids in the files": saved.ids}
        self.notes = [*saved.notes, *saved.check(videos, allow_missing)]

    def pairs(self, videos: Sequence[VideoRef], pool: DecodingThreads, images: bool) -> Iterator[Pair]:
        """Yield what is there, in the order of the videos and their frames."""
        there = ((video, frame) for video in videos for frame in video.frames if self.saved.has(video, frame))
        loaded = pool.ahead(self._load, ((video, frame, images) for video, frame in there))
        for video, pairs in groupby(loaded, key=lambda pair: pair.video):
            # The frames of a video file have one decoder, so they come in order beside the label maps.
            frames = iter_frames(video) if images and video.file is not None else iter(())
            for pair in pairs:
                if images and pair.image is None:
                    pair.image = _image_at(frames, video, pair.frame.index)
                yield pair

    def _load(self, video: VideoRef, frame: FrameRef, images: bool) -> Pair:
        prediction = self.saved.read(video, frame)
        target = read_labels(video, frame.index, self.space)
        image = read_frame(video, frame.index).image if images and video.file is None else None
        return Pair(video, frame, prediction, target, image)


class _Live:
    """A model that predicts while it is measured, by the loop of `everyframe.stream`."""

    def __init__(
        self, model: str | Path | Predictor, space: LabelSpace, save: str | Path | None, options: Mapping[str, Any]
    ) -> None:
        views = {key: options[key] for key in Views.__annotations__ if key in options}
        self.options = {key: value for key, value in options.items() if key not in views}
        self.predictor = with_views(model, **views)
        self.space = space
        self.name = type(self.predictor).__name__
        if isinstance(model, str | Path):  # a folder by its last part, a hub id as it is
            self.name = Path(model).resolve().name if Path(model).exists() else str(model)
        self.save = None if save is None else Path(save)
        self.settings = {"model": model if isinstance(model, str | Path) else self.name, **options}
        self.table, notes = table_by_name(self.predictor.label_space, space, f"model {self.name}")
        self.notes = [*notes, *view_notes(model, self.predictor)]

    def pairs(self, videos: Sequence[VideoRef], pool: DecodingThreads, images: bool) -> Iterator[Pair]:
        """Yield every frame of every video, each video by a fresh stream."""
        if self.save is not None:
            with writing(self.save):
                self.save.mkdir(parents=True, exist_ok=True)
            save_classes(self.save, self.predictor.label_space)
        for video in videos:
            targets = pool.ahead(read_labels, ((video, frame.index, self.space) for frame in video.frames))
            count = 0
            for frame, labels in stream(self.predictor, _Frames(video), **self.options):
                if self.save is not None:
                    self._keep(self.save / video.name, frame.name, labels)
                image = frame.image if images else None
                yield Pair(video, video.frames[count], self.table[labels], next(targets), image)
                count += 1
            if count != len(video.frames):
                raise InputError(
                    f"{video.file or video.name}: expected {len(video.frames)} frames, only {count} decode; "
                    f"the file is truncated: replace it"
                )

    def _keep(self, folder: Path, name: str, labels: Labels) -> None:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_label(folder / f"{name}.png", labels, self.predictor.label_space)


class _Frames:
    """The frames of a video in order, and its last one, which offline prediction asks for first."""

    def __init__(self, video: VideoRef) -> None:
        self.video = video

    def __iter__(self) -> Iterator[Frame]:
        return iter_frames(self.video)

    def __len__(self) -> int:
        return len(self.video.frames)

    def __getitem__(self, index: int) -> Frame:
        return read_frame(self.video, index)


def _image_at(frames: Iterator[Frame], video: VideoRef, index: int) -> Tensor:
    """Go on in a video file to one of its frames."""
    for frame in frames:
        if frame.index == index:
            return frame.image
    raise InputError(
        f"{video.file}: expected {len(video.frames)} frames, frame {index} does not decode; the file is truncated: "
        f"replace it"
    )
