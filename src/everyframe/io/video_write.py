"""Writing videos that any player shows and that an interrupted run leaves readable."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from torch import Tensor

from everyframe.errors import InputError

CODECS = ("libx264", "libopenh264", "mpeg4")
"""Encoders in order of preference; FFmpeg builds differ in what they hold."""
FINE_TIME_BASE = Fraction(1, 90_000)
"""Step of the time stamps where frames come with their own times, the customary clock of video."""
SECONDS_PER_FRAGMENT = 2
"""An interrupted run loses at most this much of the video."""


class VideoWriter:
    """Writes frames as H.264 in 8-bit 4:2:0, BT.709, limited range, tagged as such; `.mp4` or `.mkv` by the name.

    MP4 files are written in fragments of about two seconds and turned into an ordinary MP4 on closing, so that the
    file is readable up to its last fragment when the run is killed. 4:2:0 knows even sizes only: an odd height or
    width grows by one row or column, a repetition of the last. A video has one size: a frame of another size (a stream
    that changes it, pictures of several sizes) is scaled to it. The file is closed by leaving the `with` block, also
    when an exception leaves it.

    Args:
        path: the file; its folder must exist.
        size: (H, W) of the frames.
        rate: frames per second.
        crf: constant rate factor, 0 (lossless) to 51 (worst); 20 is visually close to the original.
        preset: x264's trade of time against size, ultrafast to veryslow.

    Raises:
        InputError: the file cannot be written: no folder, no permission, a full disk.

    Example:
        >>> with VideoWriter("out.mp4", size=(480, 854), rate=Fraction(30)) as video:  # doctest: +SKIP
        ...     for frame in frames:
        ...         video.write(frame.image, frame.time)
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        rate: Fraction | int | float = Fraction(25),
        *,
        crf: int = 20,
        preset: str = "veryfast",
    ) -> None:
        self.path = Path(path)
        self.size = size
        self.rate = Fraction(rate).limit_denominator(1_001_000)
        if self.rate <= 0 or min(size) < 1:
            raise InputError(f"{path}: expected a size and rate above 0, came {size[1]}x{size[0]} at {rate} frames/s")
        if not self.path.parent.is_dir():
            raise InputError(f"{path}: expected to write into a folder, {self.path.parent} is none; create it first")
        self._even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._crf, self._preset = crf, preset
        self._converter = VideoReformatter()
        self._stream: VideoStream | None = None
        self._last_pts, self._last_time = -1, 0.0
        try:
            self._container: OutputContainer | None = av.open(f"file:{path}", "w", options=self._muxer_options())
        except (av.FFmpegError, OSError, ValueError) as error:
            raise InputError(self._cannot_write(error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except InputError:
            if error is None:  # else the reason for leaving the block is the one to report
                raise

    def write(self, image: Tensor | NDArray[np.uint8], time: float | None = None) -> None:
        """Append one frame.

        Args:
            image: uint8 [3, H, W] tensor or [H, W, 3] array, RGB.
            time: seconds from the start, none below the one before; None for frames evenly spaced at the rate. The
                first frame decides which of the two holds for the whole file.

        Raises:
            InputError: the disk is full or the file went away, or see `check_time`.
            ValueError: not such an image, or the writer is closed.
        """
        if self._container is None:
            raise ValueError(f"{self.path}: expected an open writer, it is closed")
        self.check_time(time)
        pixels = self._pixels(image)
        try:
            if self._stream is None:
                self._stream = self._add_stream(1 / self.rate if time is None else FINE_TIME_BASE)
            frame = self._converter.reformat(
                av.VideoFrame.from_ndarray(pixels, format="rgb24"),
                width=self._even[1],
                height=self._even[0],
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            frame.time_base = self._stream.codec_context.time_base
            frame.pts = self._last_pts = self._pts(time, frame.time_base)
            self._container.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError) as error:
            raise InputError(self._cannot_write(error)) from None

    def check_time(self, time: float | None) -> None:
        """Refuse a time that lies before that of the frame before; frames of one time follow each other at once.

        Raises:
            InputError: such a time, or one below 0.
        """
        if time is not None and time < self._last_time:
            raise InputError(
                f"{self.path}: expected frame times that rise from 0, came {time:.6f} s after {self._last_time:.6f} s"
            )

    def close(self) -> None:
        """Write what the encoder still holds and the end of the file; closing twice does nothing.

        Raises:
            InputError: the disk is full or the file went away.
        """
        container, self._container = self._container, None
        if container is None:
            return
        try:
            try:
                if self._stream is not None:
                    container.mux(self._stream.encode(None))
            finally:
                container.close()
        except (av.FFmpegError, OSError) as error:
            raise InputError(self._cannot_write(error)) from None
        if self._stream is None:
            self.path.unlink(missing_ok=True)  # a video without frames is a file that nothing can open

    def _muxer_options(self) -> dict[str, str]:
        if self.path.suffix.lower() in {".mp4", ".m4v", ".mov"}:
            return {"movflags": "+hybrid_fragmented+frag_keyframe+default_base_moof", "flush_packets": "1"}
        return {"flush_packets": "1"}

    def _add_stream(self, time_base: Fraction) -> VideoStream:
        assert self._container is not None
        codec = next((name for name in CODECS if name in av.codecs_available), None)
        if codec is None:
            raise InputError(f"{self.path}: expected FFmpeg with one of {', '.join(CODECS)}; reinstall the package av")
        stream = cast(VideoStream, self._container.add_stream(codec, rate=self.rate))
        stream.height, stream.width = self._even
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = time_base
        context.gop_size = max(1, round(SECONDS_PER_FRAGMENT * self.rate))
        context.max_b_frames = 0  # frames leave in the order they come in, and the first has time 0
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        if codec == "libx264":
            stream.options = {"crf": str(self._crf), "preset": self._preset}
        else:
            stream.bit_rate = round(self._even[0] * self._even[1] * self.rate / 5)
        return stream

    def _pts(self, time: float | None, time_base: Fraction) -> int:
        if time is None:
            return self._last_pts + max(1, round(1 / self.rate / time_base)) if self._last_pts >= 0 else 0
        self._last_time = time
        return max(round(time / time_base), self._last_pts + 1)

    def _pixels(self, image: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
        tensor = isinstance(image, Tensor)
        pixels = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) and image.ndim == 3 else image
        if isinstance(pixels, Tensor) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ValueError(
                f"{self.path}: expected a uint8 {'tensor [3, H, W]' if tensor else 'array [H, W, 3]'}, "
                f"came {image.dtype} {list(image.shape)}"
            )
        if pixels.shape[:2] == self.size and self._even != self.size:
            pixels = np.pad(pixels, ((0, self.size[0] % 2), (0, self.size[1] % 2), (0, 0)), mode="edge")
        return np.ascontiguousarray(pixels)

    def _cannot_write(self, error: Exception) -> str:
        reason = getattr(error, "strerror", None) or str(error)
        return f"{self.path}: expected to write a video here, cannot ({reason}); choose another place or free the disk"
