"""Opening a video file or stream, with one clear line for each way in which that fails."""

from __future__ import annotations

import os
import stat
from fractions import Fraction
from io import FileIO
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from everyframe.errors import InputError
from everyframe.io.container_size import missing_bytes

FALLBACK_RATE = Fraction(25)
"""Frames per second of videos that state no rate."""
FRAME_THREADS_FROM = 1920 * 1080
"""Pixels from which on whole frames are decoded in parallel: it delays the first frame and gains nothing below."""
STDIN = "-"
"""What names standard input."""
PIPE_HINT = (
    "a pipe is read once, from front to end: write MPEG-TS, Matroska, y4m or MP4 with its index in front into it, "
    "such as `ffmpeg -i VIDEO -f matroska -c copy - | everyframe predict - ...`"
)
NETWORK_TIMEOUT = 15.0
"""Seconds to wait for a stream to open, and for each read from it."""


def is_url(path: str) -> bool:
    """Whether `path` names a network stream or another FFmpeg protocol rather than a file."""
    return "://" in path


def is_pipe(path: str) -> bool:
    """Whether `path` is standard input (`-`) or a pipe that has a name, also that of a shell's `<(command)`."""
    if path == STDIN:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def is_stream(path: str) -> bool:
    """Whether `path` can be read only in order: it has no length, and none of it comes again."""
    return is_url(path) or is_pipe(path)


def open_video(path: str) -> tuple[InputContainer, VideoStream]:
    """Open a video for reading and return it with its first video stream (cover pictures are none).

    Raises:
        InputError: missing, empty, cut off before its index, not a video, or without a video stream.
    """
    if is_pipe(path):
        container = _open_pipe(path)
    else:
        container = _open_other(path)
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            size = stream.codec_context.width * stream.codec_context.height
            stream.thread_type = "AUTO" if size >= FRAME_THREADS_FROM else "SLICE"
            return container, stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams}))
    holds = f"only {kinds}" if kinds else "none of any kind"
    container.close()
    raise InputError(f"{path}: expected a file with a video stream, it holds {holds}; give a video file")


def _open_other(path: str) -> InputContainer:
    """Open a file or an address."""
    if not is_url(path):
        _check_file(Path(path))
    try:
        if is_url(path):
            options = {"rtsp_transport": "tcp"} if path.startswith("rtsp") else {}
            return av.open(path, options=options, timeout=NETWORK_TIMEOUT)
        # "file:" keeps FFmpeg from reading a colon in a file name as a protocol.
        return av.open(f"file:{path}")
    except (av.FFmpegError, OSError) as error:
        raise InputError(_cannot_open(path, error)) from None


def time_base(stream: VideoStream) -> Fraction:
    """Return the seconds that one step of the stream's time stamps takes."""
    return stream.time_base or Fraction(1, 1000)


def frame_rate(stream: VideoStream) -> Fraction:
    """Return the average frames per second, `FALLBACK_RATE` where the file says nothing that can be true."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < rate <= 1000:
            return Fraction(rate)
    return FALLBACK_RATE


class _Pipe(FileIO):
    """A pipe, without a buffer, so that what has come is not held back.

    Attributes:
        stopped: what a signal raised while something was waited for. PyAV drops all that is raised within a read.
    """

    stopped: KeyboardInterrupt | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Read up to so many bytes; none at the end, and after a signal."""
        try:
            return b"" if self.stopped else super().read(size) or b""
        except KeyboardInterrupt as stopped:
            self.stopped = stopped
            return b""


def _open_pipe(path: str) -> InputContainer:
    """Open a pipe, which waits for somebody to write to it.

    Raises:
        InputError: standard input is a terminal, or no video comes.
    """
    if path == STDIN and os.isatty(0):
        raise InputError(f"{path}: expected a video on standard input, it is a terminal; {PIPE_HINT}")
    try:
        pipe = _Pipe(0, "r", closefd=False) if path == STDIN else _Pipe(path, "r")
    except OSError as error:
        raise InputError(_cannot_open(path, error)) from None
    try:
        # FFmpeg asks what it is given whether it can go back: a file given as standard input can.
        container = av.open(pipe, "r")
    except (av.FFmpegError, OSError) as error:
        raise (pipe.stopped or InputError(_cannot_open(path, error))) from None
    if pipe.stopped is not None:
        raise pipe.stopped
    return container


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path}: expected a video file, came a folder; give a file in it, or open it as pictures")
    if not path.exists():
        raise InputError(f"{path}: expected a video file, found no file; check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: expected a video file, came an empty file (0 bytes); get the file again")


def _cannot_open(path: str, error: av.FFmpegError | OSError) -> str:
    if is_pipe(path):
        return f"{path}: expected a video, it does not open ({error.strerror}); {PIPE_HINT}"
    if is_url(path):
        return f"{path}: expected a video stream, it does not open ({error.strerror}); check the address"
    if isinstance(error, PermissionError):
        return f"{path}: expected a readable file, came one without permission to read; change its permissions"
    short = missing_bytes(path)
    if short:
        return (
            f"{path}: expected a whole video, came a file cut off before its index was reached, {short} bytes are "
            f"missing; copy or download it again"
        )
    return f"{path}: expected a video file, came one that FFmpeg cannot read ({error.strerror}); check what it is"
