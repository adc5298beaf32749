"""Frames in, answers out, for predictors that answer late because they look ahead (see `Timing`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.inference.predictor import timing
from everyframe.inference.stream import Stream
from everyframe.io.images import read_image
from everyframe.io.source_kinds import ArraySource, PictureSource, Source, VideoSource
from everyframe.io.video import VideoReader
from everyframe.io.video_open import is_stream

Answer = tuple[Frame, Tensor]
"""A frame and its logits [1, K, h, w], on the stream's device."""


class LookAhead:
    """Feed one video to a stream, and pair the answers with the frames they belong to.

    A predictor without a lookahead answers each frame at once. For one with it, as many frames wait here; at the end of
    the video, and before a change of size, the last frame is repeated until all have their answer.

    Args:
        stream: fresh, or restored to where `steady` was True.
        last: gives the last frame of the video; called for predictors with a preview alone.
    """

    def __init__(self, stream: Stream, last: Callable[[], Frame]) -> None:
        self.stream = stream
        self.lookahead, self._preview = timing(stream.predictor)
        self._last = last
        self._waiting: deque[Frame] = deque()

    @property
    def steady(self) -> bool:
        """Whether the stream has seen the waiting frames and nothing beyond: its state may be stored."""
        return len(self._waiting) == self.lookahead

    def answers(self, frames: Iterable[Frame]) -> Iterator[Answer]:
        """Yield every frame of a video with its logits."""
        for frame in frames:
            yield from self.push(frame)
        yield from self.finish()

    def push(self, frame: Frame) -> list[Answer]:
        """Take the next frame, and return the frames that have their answer now."""
        answers = []
        if self.stream.size != frame.size:
            answers = self.finish() if self.stream.size is not None else []
            if self._preview:
                last = self._last()
                # Where the size changes on the way there is no telling the last frame of this part: the first serves.
                self.stream.logits(last if last.size == frame.size else frame)
        logits = self.stream.logits(frame)
        self._waiting.append(frame)
        if len(self._waiting) > self.lookahead:
            answers.append((self._waiting.popleft(), logits))
        return answers

    def hold(self, frame: Frame) -> None:
        """Let a frame wait that the restored stream has seen already."""
        self._waiting.append(frame)

    def finish(self) -> list[Answer]:
        """Return the frames that still waited, after the last one."""
        answers: list[Answer] = []
        if not self._waiting:
            return answers
        end = self._waiting[-1]
        missing = self.lookahead - len(self._waiting)  # a video shorter than the lookahead
        for repeat in range(self.lookahead):
            logits = self.stream.logits(end)
            if repeat >= missing:
                answers.append((self._waiting.popleft(), logits))
        return answers


def last_frame(source: Source) -> Frame:
    """Read the last frame of a video; of a damaged file the last one that decodes.

    Raises:
        InputError: a live source, or one that can be gone through only once.
    """
    if isinstance(source, VideoSource) and not is_stream(source.origin):
        with VideoReader(source.origin) as reader:
            count = len(reader)
            try:
                return reader.read([count - 1])[0]
            except InputError:
                if len(reader) == count:
                    raise
                return reader.read([len(reader) - 1])[0]  # the reader has found out where it breaks
    if isinstance(source, PictureSource):
        count = len(source.files)
        return Frame(read_image(source.files[-1]), count - 1, float((count - 1) / source.rate), source.files[-1].stem)
    frames: Any = source.frames if isinstance(source, ArraySource) else None
    if hasattr(frames, "__getitem__") and hasattr(frames, "__len__"):
        return next(iter(ArraySource([frames[len(frames) - 1]])))
    raise InputError(
        f"{source.origin}: offline prediction by this model needs the last frame of the video first, expected a file, "
        f"pictures or a list of frames, came a source whose end is not known; label it as a stream, without --offline"
    )
