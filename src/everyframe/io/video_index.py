"""Which frames a video file really holds, and from which keyframe each can be reached.

The index maps a frame's position in presentation order to its time stamp. Where the file gives no reason for doubt it
is built from the packets alone, without decoding (milliseconds); where packets and frames may differ in number (AVI,
packed B-frames, edit lists, damaged or cut-off files) the file is decoded once, because a wrong index would train a
model on the wrong picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from everyframe.io.container_size import missing_bytes
from everyframe.io.video_open import frame_rate, open_video, time_base

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "png", "ffv1", "prores", "rawvideo"})
"""Codecs of which every packet decodes to exactly one frame, when stored in `TIMED_CONTAINERS`."""
TIMED_CONTAINERS = ("mp4", "matroska")
"""Containers that store a presentation time for each frame."""


@dataclass(slots=True)
class Damage:
    """What went wrong while decoding.

    Attributes:
        short_by: bytes that the file is shorter than its container says.
        reasons: one line for each thing that went wrong, in the order in which it happened.
    """

    short_by: int = 0
    reasons: list[str] = field(default_factory=list)


class Clock:
    """Turns time stamps into strictly rising seconds from the first frame.

    A decoder hands out frames in presentation order. Old containers guess their time stamps, so that a frame may carry
    none, or one that does not lie after the frame before it; such a frame is placed one frame duration later.
    """

    def __init__(self, base: Fraction, rate: Fraction) -> None:
        self._base = base
        self._step = max(1, round(1 / (rate * base)))
        self._first: int | None = None
        self._last = 0

    @classmethod
    def of(cls, stream: VideoStream) -> Self:
        """Return a clock for the time stamps of `stream`."""
        return cls(time_base(stream), frame_rate(stream))

    def seconds(self, pts: int | None) -> float:
        """Return the time of the next frame."""
        if self._first is None:
            self._first = self._last = pts or 0
        else:
            self._last = pts if pts is not None and pts > self._last else self._last + self._step
        return float((self._last - self._first) * self._base)


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """Time stamps of all frames that decode, in presentation order.

    Attributes:
        pts: int64 [N], as the decoder gives them.
        times: float64 [N], seconds from the first frame, strictly rising.
        keys: int64 [M], rising positions of frames at which decoding can start; the first is 0.
        seek_to: int64 [M], the time stamp to seek to for each of `keys`; unused for the first, which is reached by
            opening the file again.
    """

    pts: NDArray[np.int64]
    times: NDArray[np.float64]
    keys: NDArray[np.int64]
    seek_to: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pts)

    def key_before(self, position: int) -> tuple[int, int]:
        """Return (position, time stamp to seek to) of the last keyframe shown not later than `position`."""
        nearest = int(np.searchsorted(self.keys, position, side="right")) - 1
        return int(self.keys[nearest]), int(self.seek_to[nearest])

    def without_keys(self) -> VideoIndex:
        """Return this index with the first frame as the only place where decoding may start."""
        return VideoIndex(self.pts, self.times, self.keys[:1], self.seek_to[:1])


@dataclass(frozen=True, slots=True)
class _Packet:
    pts: int | None
    dts: int | None
    key: bool
    doubtful: bool


def decode(packets: Iterator[Packet[VideoStream]], stream: VideoStream, damage: Damage) -> Iterator[VideoFrame]:
    """Decode to the end, past packets that do not decode; what went wrong is added to `damage`."""
    count = 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except av.FFmpegError as error:
            damage.reasons.append(f"reading fails ({error.strerror})")
            yield from stream.codec_context.decode(None)  # what the decoder still holds
            return
        if packet.is_corrupt and damage.short_by:
            damage.reasons.append("the last packet is cut off")  # decoding it would invent half a picture
            continue
        try:
            frames = packet.decode()
        except av.error.EOFError:
            continue
        except av.FFmpegError as error:
            damage.reasons.append(f"a packet does not decode ({error.strerror})")
            continue
        count += len(frames)
        yield from frames
    if damage.short_by and not damage.reasons and not (stream.frames and count >= stream.frames):
        damage.reasons.append("the file ends")


def build_index(path: str) -> VideoIndex:
    """Index a video file; decodes it only where the packets alone leave doubt.

    Raises:
        InputError: the file does not open.
    """
    container, stream = open_video(path)
    with container:
        packets, broken = _demux(container, stream)
        if not broken and not missing_bytes(path) and _trusted(container, stream, packets):
            return _index(sorted(p.pts for p in packets if p.pts is not None), packets, Clock.of(stream))
    return build_index_by_decoding(path, packets)


def build_index_by_decoding(path: str, packets: Iterable[_Packet] | None = None) -> VideoIndex:
    """Index the frames that really come out of the decoder."""
    if packets is None:
        container, stream = open_video(path)
        with container:
            packets, _ = _demux(container, stream)
    container, stream = open_video(path)
    with container:
        stream.thread_type = "AUTO"
        frames = decode(container.demux(stream), stream, Damage(missing_bytes(path)))
        return _index([frame.pts for frame in frames], packets, Clock.of(stream))


def _demux(container: InputContainer, stream: VideoStream) -> tuple[list[_Packet], bool]:
    packets = []
    try:
        for packet in container.demux(stream):
            if packet.pts is None and packet.dts is None and packet.size == 0:
                continue  # the flush packet at the end
            doubtful = packet.is_corrupt or packet.is_discard or packet.size == 0
            packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, doubtful))
    except av.FFmpegError:
        return packets, True  # the decoding pass meets the same error and reports it
    return packets, False


def _trusted(container: InputContainer, stream: VideoStream, packets: list[_Packet]) -> bool:
    """Whether packets sorted by time stamp are the frames of the video, one for one."""
    stamps = {packet.pts for packet in packets}
    return (
        bool(packets)
        and any(name in container.format.name for name in TIMED_CONTAINERS)
        and stream.codec_context.codec.canonical_name in ONE_PACKET_ONE_FRAME
        and None not in stamps
        and len(stamps) == len(packets)
        and not any(packet.doubtful for packet in packets)
        and packets[0].key
        and packets[0].pts == min(p.pts for p in packets if p.pts is not None)  # no frame refers to before the start
        and (not stream.frames or stream.frames == len(packets))
    )


def _index(stamps: list[int | None] | list[int], packets: Iterable[_Packet], clock: Clock) -> VideoIndex:
    times = np.array([clock.seconds(pts) for pts in stamps], np.float64)
    pts = np.array([-1 if p is None else p for p in stamps], np.int64)
    keys, seek_to = [0], [int(pts[0]) if len(pts) else 0]
    if None not in stamps and bool((np.diff(pts) > 0).all()):  # else a time stamp does not tell which frame it is
        position = {int(stamp): i for i, stamp in enumerate(pts)}
        places = {position[p.pts]: p for p in packets if p.key and p.pts in position and position[p.pts] > 0}
        for i in sorted(places):
            keys.append(i)
            # MP4 looks seek targets up by decoding time, which is never later than the presentation time: seeking to
            # the smaller of the two lands on this keyframe or on one before it, never after it.
            seek_to.append(min(t for t in (places[i].pts, places[i].dts) if t is not None))
    return VideoIndex(pts, times, np.array(keys, np.int64), np.array(seek_to, np.int64))
