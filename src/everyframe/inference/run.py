"""One video through the pipeline: read ahead -> model -> label map -> write behind, going on where a run stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.inference.job import Job
from everyframe.inference.labelmap import confidence_map, label_map
from everyframe.inference.lookahead import Answer, LookAhead, last_frame
from everyframe.inference.outputs import Labelled, LabelWriter, Writer
from everyframe.inference.pipeline import ReadAhead, Stopwatch, WriteBehind
from everyframe.inference.scores import own_confidence
from everyframe.inference.state_file import UnsavableStateError, snapshot
from everyframe.inference.stream import Stream, to_numpy
from everyframe.inference.summary import VideoResult
from everyframe.io.sources import Source

OnFrame = Callable[[str, int, int | None], None]
"""Told after each frame: the video's name, how many of its frames are through, and of how many, where known."""


class _CannotReadBackError(Exception):
    """A frame that an earlier run finished cannot be read."""


class SizeChanges:
    """At which frames of a video the size changes: a temporal model begins anew there, and an overlay is scaled."""

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        self._first = ""
        self._count = 0

    def see(self, frame: Frame) -> None:
        """Take the next frame."""
        if self._size not in {None, frame.size}:
            (height, width), (new_height, new_width) = self._size or (0, 0), frame.size
            self._first = self._first or f"frame {frame.name} ({width}x{height} to {new_width}x{new_height})"
            self._count += 1
        self._size = frame.size

    def notes(self, video: str) -> list[str]:
        """Return a note where there are any."""
        if not self._count:
            return []
        more = f", and at {self._count - 1} more" if self._count > 1 else ""
        return [
            f"{video}: the size of the frames changes at {self._first}{more}; a model with a memory begins anew there, "
            f"and the overlay video keeps the first size"
        ]


@dataclass
class Run:
    """Labels videos one after the other with one stream and one record.

    Attributes:
        runner: the model; its state is replaced at each video.
        job: the record of what is done.
        writers: video -> its outputs, not yet opened.
        confidence: compute confidence maps as well.
        checkpoint_every: frames between two records of the state.
        on_frame: told after each frame.
    """

    runner: Stream
    job: Job
    writers: Callable[[Source], list[Writer]]
    confidence: bool = False
    checkpoint_every: int = 50
    on_frame: OnFrame | None = None

    def label(self, video: Source, result: VideoResult) -> None:
        """Label a video to its end.

        Raises:
            InputError: it cannot be read to its end; what was labelled before is on disk.
            OutputError: the output folder cannot be written.
        """
        self.job.clear(result)
        try:
            self._label(video, result, self.job.restore(result, self.runner))
        except _CannotReadBackError:  # a label map of the earlier run is gone or damaged: all of the video again
            self.runner.reset()
            self._label(video, result, 0)
        self.job.forget(result)

    def _label(self, video: Source, result: VideoResult, done: int) -> None:
        """Read back the first `done` frames, label the others, write all."""
        feed = LookAhead(self.runner, partial(last_frame, video))
        held = done + feed.lookahead if done else 0  # a restored stream has seen the frames up to here
        writers, watch = self.writers(video), Stopwatch()
        can_resume = any(isinstance(writer, LabelWriter) for writer in writers)
        result.frames, result.labelled_now, result.notes = 0, 0, []
        sizes = SizeChanges()

        def write(task: Callable[[], None]) -> None:
            with watch.measure("write"):
                task()

        with ExitStack() as stack:
            stack.callback(self.job.add_stages, watch)
            stack.callback(lambda: result.notes.extend(sizes.notes(result.name)))
            for writer in writers:
                stack.enter_context(writer)
            frames = stack.enter_context(ReadAhead(watch.iterate(video, "decode")))
            behind = stack.enter_context(WriteBehind(write))
            count = 0  # frames that are through

            def put(item: Labelled, new: bool) -> None:
                nonlocal count
                count += 1
                with watch.measure("wait for writers"):
                    behind.put(partial(self._write, item, writers, result))
                    if can_resume and new and feed.steady and count % self.checkpoint_every == 0:
                        behind.put(self._checkpoint(result, count, self.runner.size or item.frame.size))
                result.labelled_now += new
                if self.on_frame is not None:
                    self.on_frame(result.name, count, video.length)

            for come, frame in enumerate(watch.iterate(frames, "wait for frames"), 1):
                sizes.see(frame)
                if come <= done:
                    put(_read_back(frame, writers), new=False)
                elif come <= held:
                    feed.hold(frame)
                else:
                    for answer in self._model(partial(feed.push, frame), watch):
                        put(self._predict(*answer, watch), new=True)
            for answer in self._model(feed.finish, watch):
                put(self._predict(*answer, watch), new=True)
            if not count:
                raise InputError(f"{video.origin}: expected a video with frames, came none; check what makes it")

    def _model(self, run: Callable[[], list[Answer]], watch: Stopwatch) -> list[Answer]:
        with watch.measure("model"):
            answers = run()
            self.runner.synchronize()
        return answers

    def _predict(self, frame: Frame, logits: Tensor, watch: Stopwatch) -> Labelled:
        with watch.measure("label map"):
            labels = to_numpy(label_map(logits, frame.size)[0])
            confidence = None
            if self.confidence:
                measure = own_confidence(self.runner.predictor, logits)
                confidence = confidence_map(logits, frame.size, measure)[0].cpu().numpy()
        return Labelled(frame, labels, confidence)

    def _write(self, item: Labelled, writers: list[Writer], result: VideoResult) -> None:
        for writer in writers:
            writer.write(item)
        result.frames += 1

    def _checkpoint(self, result: VideoResult, frames: int, size: tuple[int, int]) -> Callable[[], None]:
        """Copy the state now; the writing thread stores it once the frames before are on disk."""
        try:
            copied = snapshot(self.runner.state)
        except UnsavableStateError:  # such a model starts a half-done video over
            return lambda: None
        return partial(self.job.checkpoint, result, copied, frames, size)


def _read_back(frame: Frame, writers: list[Writer]) -> Labelled:
    try:
        return next(Labelled(frame, writer.read(frame)) for writer in writers if isinstance(writer, LabelWriter))
    except (InputError, StopIteration) as error:
        raise _CannotReadBackError from error
