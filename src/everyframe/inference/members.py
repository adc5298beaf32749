"""Members of an ensemble that runs over a data set: models that look at frames, and score maps that were stored."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.inference.predictor import Predictor, Scored, scores_of
from everyframe.inference.scores import ScoreNorm, check_norm
from everyframe.inference.stream import Stream, check_answers_at_once, pick_device
from everyframe.inference.views import with_views
from everyframe.io.score_maps import ScoreFolder
from everyframe.labels import LabelSpace


class Member(Protocol):
    """One voice in an ensemble.

    Attributes:
        name: for tables.
        label_space: its classes.
        predicts: what its scores are, or were before they were stored; None where nobody wrote it.
        needs_frames: whether the frames must be decoded for it.
        device: where its logits come to lie.
    """

    name: str
    label_space: LabelSpace
    predicts: Scored | None
    needs_frames: bool
    device: torch.device

    def start(self, video: str) -> None:
        """Begin a video."""
        ...

    def logits(self, name: str, frame: Frame | None) -> tuple[Tensor, tuple[int, int]]:
        """Return logits [1, K, h, w] of the next frame, on `device`, and its size (H, W)."""
        ...


class LiveMember:
    """A predictor on a stream of its own. Its logits stay on the stream's device, where they are joined.

    Args:
        name: for tables.
        predictor: a model or wrapper; frames are brought to the short side of its training, see `with_views`.
        device: see `Stream`.
        dtype: see `Stream`.
    """

    needs_frames = True

    def __init__(self, name: str, predictor: Predictor, device: str = "auto", dtype: str | None = None) -> None:
        check_answers_at_once(predictor)
        self.name = name
        self.label_space = predictor.label_space
        self.predictor = with_views(predictor)
        self.predicts: Scored | None = scores_of(predictor)
        self._stream = Stream(self.predictor, device, dtype)
        self.device = self._stream.device

    def start(self, video: str) -> None:
        """See `Member.start`."""
        self._stream.reset()

    def logits(self, name: str, frame: Frame | None) -> tuple[Tensor, tuple[int, int]]:
        """See `Member.logits`."""
        if frame is None:
            raise ValueError(f"LiveMember: expected the frame {name}, came None")
        return self._stream.logits(frame), frame.size


class StoredMember:
    """A folder of score maps, see `everyframe.io.score_maps`.

    Args:
        root: the folder.
        score_norm: what the ensemble averages; must be the one that the maps were stored with, unless they hold scores
            as they come, or shares of logits, which are the same under "softmax" and "l1".
        device: where the maps go once they are read; see `Stream`.

    Raises:
        InputError: no such folder, another norm, or no such device.
    """

    needs_frames = False

    def __init__(self, root: str | Path, score_norm: ScoreNorm = "softmax", device: str = "auto") -> None:
        check_norm(score_norm)
        self.device = pick_device(device)
        self.folder = ScoreFolder(root)
        self.name = self.folder.root.resolve().name
        self.label_space = self.folder.label_space
        self.predicts: Scored | None = self.folder.format.kind
        stored = self.folder.format.norm
        either = stored == "none" or (self.predicts == "logits" and score_norm != "none")
        if stored != score_norm and not either:
            raise InputError(
                f"{root}: expected score maps of norm {score_norm} or none, came {stored}; say --score-norm {stored}"
            )
        self._shares = stored != "none"
        self._l1 = score_norm == "l1"
        self._video = ""

    def start(self, video: str) -> None:
        """See `Member.start`."""
        self._video = video

    def logits(self, name: str, frame: Frame | None) -> tuple[Tensor, tuple[int, int]]:
        """See `Member.logits`. Shares stored under "l1" come as shares, which dividing by their sum leaves alone."""
        with torch.inference_mode():
            scores, size = self.folder.read(self._video, name, self.device)
            return (scores.exp() if self._shares and self._l1 else scores), size
