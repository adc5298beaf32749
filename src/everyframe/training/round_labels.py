"""What a self-training loop labels between its trainings: with a teacher's eyes, along flow, or by both."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.layout import VideoRef
from everyframe.errors import InputError
from everyframe.inference.stream import Stream
from everyframe.inference.views import with_views
from everyframe.models.label_refiner import load_refiner, save_refiner
from everyframe.training.labelling import label_videos
from everyframe.training.propagation import Carrier, filled, goals_of, look_with, propagate_labels
from everyframe.training.recipe import Config
from everyframe.training.warp_refine import Refined, train_refiner

LabelSource = Literal["predicted", "filled", "refined"]
"""Where a round's label maps come from: the teacher's predictions of every frame; label maps moved along flow, the
teacher filling in what was hidden; the same, refined at every frame (Warp-Refine)."""

StopAsked = Callable[[], signal.Signals | None]
"""Returns the signal that asks to stop, if one has come."""


@dataclass(frozen=True)
class Teacher:
    """The model of a round, and what it labels.

    Attributes:
        model: folder of the saved model, or a hub id.
        config: resolved options of the loop's training runs; says which videos.
        views: threshold, scales and flip of `self_train`.
        asked: whether a signal asks to stop.
    """

    model: str | Path
    config: Config
    views: Mapping[str, Any]
    asked: StopAsked

    def predict(self, folder: Path) -> dict[str, float]:
        """Label all training videos and those without labels by the model's predictions."""
        data = _data(self.config)
        videos = [*data.train_videos, *data.unlabeled_videos]
        found = label_videos(
            self.model, videos, folder, **self.views, truth=_truth(data), device=self._device, stop=self._stopped
        )
        if not found["frames"] and not self._stopped():
            raise InputError(
                f"{folder}: expected frames without a label of which {self.model} is sure somewhere (threshold "
                f"{self.views['threshold']:g}), came none; train that model longer or "
                f"lower --threshold, with another --out"
            )
        return found

    def train_refiner(self, path: Path, reach: int, steps: int) -> dict[str, float]:
        """Train what refines moved labels, and write it; a half-trained one, when asked to stop, is not kept.

        The model looks once at each frame here: averages over scales would take most of the training's time.
        """
        data, look = _data(self.config), look_with(Stream(with_views(self.model), self._device))
        refiner, score = train_refiner(
            look, data.train_videos, data.label_space, reach=reach, steps=steps, stop=self._stopped
        )
        if self._stopped():
            return {}
        save_refiner(refiner, path)
        return score._asdict()

    def carry(self, folder: Path, reach: int, refiner: Path | None) -> dict[str, float]:
        """Move the labels of the training videos to the frames around, with the model's help."""
        data = _data(self.config)
        threshold = self.views["threshold"]
        views = {name: self.views[name] for name in ("scales", "flip")}
        averaged = Stream(with_views(self.model, **views), self._device)
        carrier: Carrier = filled(threshold) if refiner is None else Refined(load_refiner(refiner), threshold)
        found = propagate_labels(
            data.train_videos, data.label_space, folder, reach=reach, carrier=carrier, look=look_with(averaged),
            truth=_truth(data), stop=self._stopped,
        )  # fmt: skip
        if not found["frames"] and not self._stopped():
            raise InputError(
                f"{folder}: expected frames in which something of the labelled ones near them is seen, came none; use "
                f"--labels predicted, with another --out"
            )
        return found

    @property
    def _device(self) -> str:
        return "cpu" if self.config["trainer"].get("accelerator") == "cpu" else "auto"

    def _stopped(self) -> bool:
        return self.asked() is not None


def check_teacher(config: Config, model: str | Path) -> None:
    """Refuse a teacher of other classes than the data's.

    Raises:
        InputError: it has others, or the same in another order; or it cannot be loaded.
    """
    own, other = _data(config).label_space, with_views(model).label_space
    if differ := other.unlike(own):
        raise InputError(
            f"self-train: expected a first teacher of the data's {len(own)} classes in their order, came one of "
            f"{len(other)} ({model}): {differ}; train it on the same classes, or start a training from it (--init)"
        )


def check_around(config: Config, reach: int) -> None:
    """Refuse videos in which labels cannot be carried anywhere, before a teacher is trained for it.

    Raises:
        InputError: no frame without a label is within `reach` of a labelled one.
    """
    data = _data(config)
    goals = (goals_of(video.labelled, len(video.frames), reach) for video in data.train_videos)
    if not any(near for of_video in goals for near in of_video.values()):
        raise InputError(
            f"self-train: expected frames without a label within {reach} of a labelled one (--reach), came none; label "
            f"fewer frames (--data.budget), or use --labels predicted"
        )


def label_around(config: Config, folder: Path, reach: int, asked: StopAsked) -> dict[str, float]:
    """Move the labels of the training videos to the frames around them, without a model."""
    data = _data(config)
    return propagate_labels(
        data.train_videos, data.label_space, folder, reach=reach, truth=_truth(data), stop=lambda: asked() is not None
    )


def _truth(data: ClipDataModule) -> dict[str, VideoRef]:
    """Return the videos that have labels which the budget hides, by name; the data say what their ids mean."""
    videos = data.hidden_videos or ()
    return {video.name: replace(video, space=video.space or data.label_space) for video in videos}


def _data(config: Config) -> ClipDataModule:
    """Return the data of a run without its pseudo-labels."""
    return ClipDataModule(**{**config["data"], "pseudo_labels": None})
