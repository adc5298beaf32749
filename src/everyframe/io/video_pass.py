"""One decoding pass through a video file: from its start or from a keyframe to where the reader has come."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from itertools import chain, dropwhile
from weakref import WeakSet

import av
import numpy as np
from av.video.frame import VideoFrame

from everyframe.io.container_size import missing_bytes
from everyframe.io.video_index import Damage, VideoIndex, decode
from everyframe.io.video_open import is_stream, open_video
from everyframe.io.video_pixels import RgbConverter


class DecodingPass:
    """An open file and how far it has been decoded.

    Attributes:
        stream: the video stream.
        damage: what went wrong so far.
        convert: turns the frames into RGB tensors.
        frames: the decoded frames that are still to come.
        position: index of the next one.
    """

    def __init__(self, path: str) -> None:
        self._process = os.getpid()
        _OPEN.add(self)
        self.container, self.stream = open_video(path)
        self.damage = Damage(0 if is_stream(path) else missing_bytes(path))
        self.convert = RgbConverter()
        self.position = 0
        self.frames: Iterator[VideoFrame] = decode(self.container.demux(self.stream), self.stream, self.damage)

    def seek(self, stamp: int, index: VideoIndex) -> None:
        """Go to the last keyframe stored not after `stamp`; nothing is left to come where that cannot be done."""
        self.position, self.frames = len(index), iter(())
        try:
            self.container.seek(stamp, stream=self.stream)
        except av.FFmpegError:
            return  # the reader goes through the file from its start instead
        packets = self.container.demux(self.stream)
        first = next(packets)
        landed = first.pts if first.is_keyframe and first.pts is not None else index.pts[-1]
        self.position = int(np.searchsorted(index.pts, landed))
        # Frames shown before the keyframe but stored after it (an open group of pictures) refer to frames that were
        # not decoded, so they are passed over.
        frames = decode(chain([first], packets), self.stream, self.damage)
        self.frames = dropwhile(lambda frame: frame.pts is None or frame.pts < landed, frames)

    @property
    def own(self) -> bool:
        """Whether this process opened the file, and may thus move its file position."""
        return self._process == os.getpid()

    def close(self) -> None:
        """Close the file."""
        if self.own:
            self.container.close()


_OPEN: WeakSet[DecodingPass] = WeakSet()
_INHERITED: list[DecodingPass] = []


def _keep_inherited() -> None:
    _INHERITED.extend(_OPEN)
    gc.freeze()  # decoders that nothing refers to any more, but that the parent's collector had not come to yet


if hasattr(os, "register_at_fork"):
    # A decoder waits for its threads when it is freed, and a forked process has none of them: it would wait forever.
    # So what is open at a fork stays in the memory of the child until that ends.
    os.register_at_fork(after_in_child=_keep_inherited)
