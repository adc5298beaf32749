"""Videos made by PyAV, in any codec and container."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import numbered
from numpy.typing import NDArray


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    def make(
        name: str,
        frames: int | Sequence[NDArray[np.uint8]] = 40,
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        pix_fmt: str = "yuv420p",
        rate: Fraction | int = 25,
        ticks: Sequence[int] | None = None,
        muxer: dict[str, str] | None = None,
    ) -> Path:
        """`ticks`: presentation times in milliseconds; else evenly spaced by `rate`."""
        if codec not in av.codecs_available:
            pytest.skip(f"this FFmpeg has no {codec}")
        pictures = [numbered(i) for i in range(frames)] if isinstance(frames, int) else frames
        path = tmp_path / name
        with av.open(str(path), "w", options=muxer or {}) as container:
            stream = container.add_stream(codec, rate=rate, options=options or {})
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = pix_fmt
            time_base = 1 / Fraction(rate) if ticks is None else Fraction(1, 1000)
            stream.codec_context.time_base = time_base
            for index, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
                frame.pts = index if ticks is None else ticks[index]
                frame.time_base = time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make
