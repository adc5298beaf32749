"""Predicted and true label maps of a data set, frame by frame: predictions on disk, or a model that runs meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everyframe.data.decoding import DecodingThreads
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.predictions import Ids, SavedPredictions, foreign_classes, label_file, label_files, table_by_name
from everyframe.data.reading import iter_frames, read_frame, read_labels
from everyframe.errors import InputError, writing
from everyframe.frames import Frame
from everyframe.inference.outputs import save_classes
from everyframe.inference.predictor import Predictor
from everyframe.inference.views import Views, view_notes, with_views
from everyframe.io.label_png import write_label
from everyframe.labels import LabelSpace
from everyframe.predict import stream

Labels = NDArray[np.uint8]


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


def pair_source(
    pred: str | Path | None,
    model: str | Path | Predictor | None,
    videos: Sequence[VideoRef],
    space: LabelSpace,
    pred_ids: Ids,
    allow_missing: bool,
    save: str | Path | None,
    options: Mapping[str, Any],
) -> SavedPairs | LivePairs:
    """Return what yields the pairs of `evaluate`, whose arguments these are.

    Raises:
        InputError: not exactly one of predictions and a model, or options that do not fit it.
    """
    if (pred is None) == (model is None):
        raise InputError(
            f"evaluate: expected either predictions or a model, came {'neither' if pred is None else 'both'}"
        )
    if model is not None:
        return LivePairs(model, space, save, options)
    if save is not None or options:
        wrong = ", ".join([*(["save"] if save is not None else []), *options])
        raise InputError(f"evaluate: {wrong} belongs to a model, came with predictions; leave it out or give a model")
    assert pred is not None
    return SavedPairs(SavedPredictions(pred, space, pred_ids), videos, space, allow_missing)


class SavedPairs:
    """Predictions on disk. Frames without one are passed over; `notes` says how many labelled ones."""

    def __init__(
        self, saved: SavedPredictions, videos: Sequence[VideoRef], space: LabelSpace, allow_missing: bool
    ) -> None:
        self.saved = saved
        self.space = space
        self.name = saved.folder.resolve().name
        self.settings = {"predictions": saved.folder, "ids in the files": saved.ids}
        self.notes = [*saved.notes, *saved.check(videos, allow_missing)]
        self.foreign = saved.foreign

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


class LivePairs:
    """A model that predicts while it is measured, by the loop of `everyframe.stream`."""

    def __init__(
        self, model: str | Path | Predictor, space: LabelSpace, save: str | Path | None, options: Mapping[str, Any]
    ) -> None:
        from everyframe.models.checkpoint import model_path

        views = {key: options[key] for key in Views.__annotations__ if key in options}
        self.options = {key: value for key, value in options.items() if key not in views}
        self.predictor = with_views(model, **views)
        self.space = space
        self.name = type(self.predictor).__name__
        if isinstance(model, str | Path):  # a folder by its last part, a hub id as it is
            self.name = Path(model).resolve().name if Path(model).exists() else str(model)
        self.save = None if save is None else Path(save)
        self.settings = {"model": model_path(model) if isinstance(model, str | Path) else self.name, **options}
        own, what = self.predictor.label_space, f"model {self.name}"
        self.table, notes = table_by_name(own, space, what)
        # Of the built predictor, whose notes say how it looks at frames; which folder it came from is a setting.
        self.notes = [*notes, *view_notes(self.predictor, self.predictor)]
        self.foreign = foreign_classes(own, space, what)

    def pairs(self, videos: Sequence[VideoRef], pool: DecodingThreads, images: bool) -> Iterator[Pair]:
        """Yield every frame of every video, each video by a fresh stream."""
        if self.save is not None:
            with writing(self.save):
                self.save.mkdir(parents=True, exist_ok=True)
            save_classes(self.save, self.predictor.label_space, written=label_files(self.save, videos))
        for video in videos:
            targets = pool.ahead(read_labels, ((video, frame.index, self.space) for frame in video.frames))
            count = 0
            for frame, labels in stream(self.predictor, _Frames(video), **self.options):
                if self.save is not None:
                    self._keep(label_file(self.save, video, frame.name), labels)
                image = frame.image if images else None
                yield Pair(video, video.frames[count], self.table[labels], next(targets), image)
                count += 1
            if count != len(video.frames):
                raise InputError(
                    f"{video.file or video.name}: expected {len(video.frames)} frames, only {count} decode; "
                    f"the file is truncated: replace it"
                )

    def _keep(self, path: Path, labels: Labels) -> None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_label(path, labels, self.predictor.label_space)


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
