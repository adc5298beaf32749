"""The record of a prediction job: what is done, what failed, and where an interrupted video goes on.

OUT/summary.json holds the settings and one entry per video and is rewritten after each. While a video is being
labelled, OUT/.resume/<video>.safetensors holds the stream's state after some frame, written only once all files of
the frames before are whole. Labels and state together are all that the rest of the video depends on: a resumed job
decodes the finished frames again, reads their label maps back for the overlay and the table, and runs the model from
there on. Without a usable state the video starts over, which gives the same files and costs more time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from everyframe.errors import InputError
from everyframe.files import whole_file, write_whole
from everyframe.inference.outputs import OutputError, output, results_of
from everyframe.inference.pipeline import Stopwatch
from everyframe.inference.predictor import Predictor
from everyframe.inference.state_file import load_state, save_state
from everyframe.inference.stream import Stream
from everyframe.inference.summary import Summary, VideoResult

Snapshot = tuple[dict[str, torch.Tensor], Any]


class Job:
    """The record in the output folder, see the top of this file.

    Args:
        out: the output folder; made when it is missing.
        settings: what the labels depend on, as JSON holds it.
        resume: keep what an earlier job with the same settings has done.

    Raises:
        InputError: the earlier job had other settings.
        OutputError: the folder cannot be written.
    """

    def __init__(self, out: Path, settings: dict[str, Any], resume: bool = False) -> None:
        self.out = out
        self.summary = Summary(str(out), json.loads(json.dumps(settings)))
        self._begin = time.perf_counter()
        self._spent = 0.0  # seconds on writing summary.json
        self._path = out / "summary.json"
        self._states = out / ".resume"
        self._earlier: dict[str, VideoResult] = {}
        self._replaced: frozenset[str] = frozenset()
        with output(out):
            self._states.mkdir(parents=True, exist_ok=True)
        if resume:
            self._earlier = self._read_earlier()
        else:
            self._replaced = self._recorded_names()
            for file in self._states.glob("*.safetensors"):
                file.unlink()
        self.save()

    @contextmanager
    def video(self, name: str, source: str) -> Iterator[VideoResult]:
        """Keep the record of one video: done, failed with its one line, or stopped by what is raised."""
        begin = time.perf_counter()
        result = VideoResult(name, source)
        self.summary.videos.append(result)
        if name in self.summary.waiting:
            self.summary.waiting.remove(name)
        self._save_soon()  # a job that is killed leaves word of what was running
        try:
            yield result
            result.status = "done"
        except OutputError:
            result.status = "stopped"
            raise
        except InputError as error:
            result.fail(error)
        except BaseException:
            result.status = "stopped"
            raise
        finally:
            result.seconds = time.perf_counter() - begin
            self._save_soon()

    def refuse(self, source: str, error: InputError) -> None:
        """Record a source that names nothing to label."""
        self.summary.videos.append(VideoResult(source, source, "failed", error=str(error)))
        self.save()

    def finished(self, result: VideoResult, live: bool) -> bool:
        """Tell whether an earlier run has finished this video, and take over its count of frames and its notes.

        Args:
            result: as `video` gives it.
            live: the source cannot be gone through twice.

        Raises:
            InputError: a second video of the same name, another source than before, or a live source that has moved on.
        """
        name, source = result.name, result.source
        for other in self.summary.videos[:-1]:
            if other.name == name:
                raise InputError(
                    f"{source}: expected videos of different names, {name} is also that of {other.source}; rename "
                    f"one, or label them into different folders"
                )
        earlier = self._earlier.get(name)
        if earlier is not None and earlier.source != source:
            raise InputError(
                f"{self._path}: expected video {name} to be {earlier.source} as before, came {source}; resume with "
                f"the same sources, or choose another folder"
            )
        if earlier is None or earlier.status == "failed":
            return False
        result.frames = earlier.frames
        if earlier.status != "done" and live:
            raise InputError(
                f"{source}: expected a source that can be gone through again, a live one has moved on; label it into "
                f"another folder, without --resume"
            )
        if earlier.status != "done":
            return False
        result.notes = earlier.notes
        return True

    def add_stages(self, watch: Stopwatch) -> None:
        """Add a video's stopwatch to the summary."""
        for stage, seconds in watch.seconds.items():
            self.summary.stages[stage] = self.summary.stages.get(stage, 0.0) + seconds

    def _save_soon(self) -> None:
        """Write summary.json unless that takes more than a tenth of the time, as for thousands of short videos.

        Videos of which a kill then leaves no word are labelled again by a resumed job.
        """
        if self._spent <= 1 + 0.1 * (time.perf_counter() - self._begin):
            self.save()

    def save(self) -> None:
        """Write summary.json."""
        begin = time.perf_counter()
        self.summary.seconds = begin - self._begin
        # A video that was refused as another one of the same name does not displace the first one's record.
        seen = {(video.name, video.source) for video in self.summary.videos}
        pending = [video for video in self._earlier.values() if (video.name, video.source) not in seen]
        record = self.summary.to_dict()
        record["videos"] += [asdict(video) for video in pending]
        with output(self._path):
            write_whole(self._path, json.dumps(record, indent=1))
        self._spent += time.perf_counter() - begin

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Write the last summary; the folder of states goes when it is empty."""
        try:
            self.save()
            if not any(self._states.iterdir()):
                self._states.rmdir()
        except (OutputError, OSError):
            if error is None:  # else the reason for leaving the block is the one to report
                raise

    # -- where an interrupted video goes on --------------------------------------------------------------------------

    def checkpoint(self, result: VideoResult, snapshot: Snapshot, frames: int, size: tuple[int, int]) -> None:
        """Write the stream's state after the first `frames` frames, all of whose files are whole."""
        path = self._state_path(result.name)
        with output(path), whole_file(path) as part:
            save_state(part, snapshot, {"frames": frames, "size": list(size), "source": result.source})

    def restore(self, result: VideoResult, stream: Stream) -> int:
        """Put the stream where an earlier run stopped, and return how many frames it had done; else reset it: 0."""
        stream.reset()
        path = self._state_path(result.name)
        if not path.exists():
            return 0
        try:
            state, notes = load_state(path, stream.device)
        except ValueError:  # damaged, or of classes that are gone: start over, the result is the same
            return 0
        if notes["source"] != result.source:  # of another video: "a/b" and "a__b" share a file name
            return 0
        stream.restore(state, (notes["size"][0], notes["size"][1]))
        return int(notes["frames"])

    def clear(self, result: VideoResult) -> None:
        """Remove what an earlier job, which this one replaces, wrote for a video of this name.

        Otherwise label maps of frames that do not come again would stand among the new ones, and an overlay that is
        not asked for now beside them. Files of videos that the earlier job does not list are not its work, and stay.
        """
        if result.name in self._replaced:
            self._remove_results(result.name)

    def clear_replaced(self) -> None:
        """Remove the results of all videos of the job that this one replaces: their classes are no longer recorded."""
        for name in self._replaced:
            self._remove_results(name)

    def _remove_results(self, name: str) -> None:
        with output(self.out):
            for file in list(results_of(self.out, name)):
                file.unlink()
                if file.parent != self.out and not any(file.parent.iterdir()):
                    file.parent.rmdir()

    def forget(self, result: VideoResult) -> None:
        """Remove a video's state: it is done, or it starts over."""
        with output(self.out):
            self._state_path(result.name).unlink(missing_ok=True)

    def _state_path(self, name: str) -> Path:
        return self._states / f"{name.replace('/', '__')}.safetensors"

    def _read_earlier(self) -> dict[str, VideoResult]:
        if not self._path.exists():
            return {}
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            settings, videos = record["settings"], [VideoResult(**video) for video in record["videos"]]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._path}: expected the record of an earlier job, came {error!r}; remove the file to start anew"
            ) from None
        ours = self.summary.settings
        keys = [key for key in {**settings, **ours} if settings.get(key) != ours.get(key)]
        if keys:
            differ = "; ".join(f"{key} {_short(settings.get(key))} there, {_short(ours.get(key))} now" for key in keys)
            raise InputError(
                f"{self.out}: expected the settings of the interrupted job, came others ({differ}); resume with the "
                f"same settings, or choose another folder"
            )
        by_name: dict[str, VideoResult] = {}
        for video in videos:
            if video.name not in by_name or video.status != "failed":
                by_name[video.name] = video
        return by_name

    def _recorded_names(self) -> frozenset[str]:
        """Names of the videos that the record in the folder lists; none where it cannot be read."""
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            return frozenset(video["name"] for video in record["videos"])
        except (OSError, ValueError, KeyError, TypeError):
            return frozenset()


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def fingerprint(predictor: Predictor) -> str:
    """Return a digest of a predictor: its structure as `print` shows it, and every weight and buffer."""
    digest = hashlib.sha256()
    if not isinstance(predictor, nn.Module):
        return f"{type(predictor).__module__}.{type(predictor).__qualname__}"
    digest.update(repr(predictor).encode())
    for name, tensor in [*predictor.named_parameters(), *predictor.named_buffers()]:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
