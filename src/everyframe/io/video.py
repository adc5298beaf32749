"""Videos in and out: the public names of reading (`video_read`) and writing (`video_write`)."""

from __future__ import annotations

from everyframe.io.video_read import VideoInfo, VideoReader, frame_name
from everyframe.io.video_write import VideoWriter

__all__ = ["VideoInfo", "VideoReader", "VideoWriter", "frame_name"]
