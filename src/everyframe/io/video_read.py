"""Reading videos: every frame in order, or any frames by their index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Self

import av
from av.video.frame import VideoFrame
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.io.video_index import Clock, Damage, VideoIndex, build_index, build_index_by_decoding
from everyframe.io.video_open import PIPE_HINT, frame_rate, is_pipe, is_stream, time_base
from everyframe.io.video_pass import DecodingPass

INDEXES_KEPT = 1024
"""Videos of which a process remembers the index."""


def frame_name(index: int) -> str:
    """Return the name under which results of frame `index` of a video file are written: 8 digits."""
    return f"{index:08d}"


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the header and the first frame of a video say.

    Attributes:
        width: pixels, upright.
        height: pixels, upright.
        rate: average frames per second; frames may still lie at uneven times.
        frames: number of frames that the container declares, None where it declares none. It may be wrong;
            `len(VideoReader)` is the number that decodes.
        duration: seconds that the container declares, None where it declares none.
        rotation: degrees counterclockwise by which frames were turned to be upright: -180, -90, 0, 90 or 180.
    """

    width: int
    height: int
    rate: Fraction
    frames: int | None
    duration: float | None
    rotation: int


class VideoReader:
    """Frames of a video file or network stream, as `Frame`: RGB, upright, with their true times.

    Iterating decodes the file from its start, each time anew. Packets that do not decode are passed over; after the
    last frame that decodes an `InputError` then says what is missing, so that everything before it can be kept.
    `read` gives any frames of a file by index, exactly those that iterating gives. (A packet that does not decode in an
    otherwise sound file is noticed, and its frame counted no more, when that part is decoded first.) A reader can be
    pickled, and used in a forked or spawned process, which opens the file again.

    Args:
        path: a video file, a URL that FFmpeg can open (rtsp://, http://, ...), a named pipe, or "-" for standard input.

    Raises:
        InputError: missing, empty, cut off before its index, not a video, without a video stream or without frames.

    Example:
        >>> with VideoReader("street.mp4") as video:  # doctest: +SKIP
        ...     first, last = video.read([0, len(video) - 1])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._index: VideoIndex | None = None
        self._pass: DecodingPass | None = None
        self.info = self._probe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Reading again opens it again."""
        if self._pass is not None:
            self._pass.close()
        self._pass = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pass": None}

    def __len__(self) -> int:
        if is_stream(self.path):
            raise TypeError(f"{self.path}: a stream has no length")  # TypeError: list() goes on without one
        return len(self.index)

    @property
    def index(self) -> VideoIndex:
        """Time stamps of all frames that decode; made at the first use and shared by the readers of a process."""
        if self._index is None:
            if is_stream(self.path):
                raise InputError(f"{self.path}: a stream can only be read in order; save it to a file first")
            key = _index_key(self.path)
            build = build_index_by_decoding if key in _DAMAGED else build_index
            self._index = _INDEXES.get(key) or self._remember(build(self.path))
        return self._index

    def _remember(self, index: VideoIndex) -> VideoIndex:
        self._index = _INDEXES[_index_key(self.path)] = index
        while len(_INDEXES) > INDEXES_KEPT:
            del _INDEXES[next(iter(_INDEXES))]
        return index

    def __iter__(self) -> Iterator[Frame]:
        """Yield all frames in presentation order.

        Raises:
            InputError: after the last frame that decodes, when some of the video does not.
        """
        position, time, broke_at = 0, 0.0, 0.0
        run = self._from_start()
        try:
            clock = Clock.of(run.stream)
            for frame in run.frames:
                time = clock.seconds(frame.pts)
                yield Frame(run.convert(frame), position, time, frame_name(position))
                position += 1
                if not run.damage.reasons:
                    broke_at = time
        finally:
            run.close()
        if run.damage.reasons:
            if not is_stream(self.path):
                # From now on `read` counts the same frames, not the packets.
                _DAMAGED.add(_index_key(self.path))
                _INDEXES.pop(_index_key(self.path), None)
                self._index = None
            raise InputError(self._damaged(run.damage, position, broke_at))

    def _from_start(self) -> DecodingPass:
        if is_stream(self.path) and self._pass is not None:
            run, self._pass = self._pass, None  # the connection that the first frame came from
            return run
        return DecodingPass(self.path)

    def read(self, indices: Sequence[int]) -> list[Frame]:
        """Read frames by index, in the order given; an index may occur more than once.

        Each run of nearby frames is decoded once, from the keyframe before it; a read that goes on where the last one
        stopped continues without seeking.

        Raises:
            InputError: an index is not one of a decodable frame.
        """
        wanted = sorted(set(indices))
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self.index):
            wrong = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise InputError(f"{self.path}: expected frame indices 0..{len(self) - 1}, came {wrong}")
        if self._pass is not None and not self._pass.own:
            self._pass = None  # a forked worker shares the file position with its parent, and must not move it
        frames = {position: self._read_one(position) for position in wanted}
        return [frames[position] for position in indices]

    def _read_one(self, position: int) -> Frame:
        # Keyframes that do not lead where the packets say (rare, and only seen when it happens): decode from the
        # start. When that fails too the index itself was wrong: make it again from the frames that come out.
        for remedy in (None, VideoIndex.without_keys, lambda _: build_index_by_decoding(self.path).without_keys()):
            if remedy is not None:
                self._remember(remedy(self.index))
            image = self._reach(position) if position < len(self.index) else None
            if image is not None:
                return Frame(image, position, float(self.index.times[position]), frame_name(position))
        raise InputError(f"{self.path}: frame {position} of {len(self)} does not decode; re-encode the file")

    def _reach(self, position: int) -> Tensor | None:
        """Decode up to `position`; None when what comes out is not what the index says."""
        index, run = self.index, self._pass
        key, stamp = index.key_before(position)
        if run is None or position < run.position or key > run.position:
            if run is None or key == 0:
                self.close()
                run = self._pass = DecodingPass(self.path)
            if key > 0:
                run.seek(stamp, index)
        for frame in run.frames:
            here = run.position
            run.position += 1
            if here > position or (-1 if frame.pts is None else frame.pts) != index.pts[here]:
                break
            if here == position:
                return run.convert(frame)
        self.close()
        return None

    def _probe(self) -> VideoInfo:
        run = DecodingPass(self.path)
        first = next(run.frames, None)
        if first is None:
            run.close()
            why = f" ({run.damage.reasons[0]})" if run.damage.reasons else ""
            remedy = PIPE_HINT if is_pipe(self.path) else "replace the file"
            raise InputError(f"{self.path}: expected a video with frames, none of its frames decodes{why}; {remedy}")
        info = _info(run, first)
        if is_stream(self.path):
            run.frames = chain([first], run.frames)  # connecting twice is slow, and frames would be lost
            self._pass = run
        else:
            run.close()
        return info

    def _damaged(self, damage: Damage, frames: int, time: float) -> str:
        declared = f" of {self.info.frames}" if self.info.frames else ""
        more = f" and {len(damage.reasons) - 1} more such places" if len(damage.reasons) > 1 else ""
        short = f", {damage.short_by} bytes are missing from its end" if damage.short_by else ""
        return (
            f"{self.path}: expected a whole video, decoded {frames}{declared} frames; it breaks after {time:.2f} s: "
            f"{damage.reasons[0]}{more}{short}; the decoded frames are kept, get the file again or re-encode it"
        )


_INDEXES: dict[tuple[str, int, int], VideoIndex] = {}
_DAMAGED: set[tuple[str, int, int]] = set()


def _index_key(path: str) -> tuple[str, int, int]:
    """Return what a file's index is known by: a file that was written anew gets a new one."""
    state = Path(path).stat()
    return path, state.st_size, state.st_mtime_ns


def _info(run: DecodingPass, first: VideoFrame) -> VideoInfo:
    turned = abs(first.rotation) == 90
    duration = None
    if run.stream.duration is not None:
        duration = float(run.stream.duration * time_base(run.stream))
    elif run.container.duration is not None:
        duration = run.container.duration / av.time_base
    return VideoInfo(
        width=first.height if turned else first.width,
        height=first.width if turned else first.height,
        rate=frame_rate(run.stream),
        frames=run.stream.frames or None,
        duration=duration,
        rotation=first.rotation,
    )
