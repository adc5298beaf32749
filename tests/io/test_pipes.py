"""Videos that come through a pipe: standard input, named pipes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from inference.predictors import Remember

from everyframe.errors import InputError
from everyframe.io.sources import expand_sources, open_source
from everyframe.io.video import VideoReader
from everyframe.predict import predict, stream
from everyframe.stopping import Stopped, stop_signals_raise

SIZE = (24, 32)
HEADER = b"YUV4MPEG2 W%d H%d F15:1 Ip A1:1 C420jpeg\n"


def y4m_frame(level: int, size: tuple[int, int] = SIZE) -> bytes:
    """One grey frame."""
    pixels = size[0] * size[1]
    return b"FRAME\n" + bytes([level]) * pixels + bytes([128]) * (pixels // 2)


def y4m(frames: int) -> bytes:
    return HEADER % (SIZE[1], SIZE[0]) + b"".join(y4m_frame(20 + 10 * i) for i in range(frames))


def feed(descriptor_of: int | Path, content: Iterator[bytes], sent: list[int]) -> threading.Thread:
    """Write into a pipe from a thread, until nobody reads any more."""

    def write() -> None:
        try:
            with open(descriptor_of, "wb", buffering=0) as pipe:
                for number, part in enumerate(content):
                    pipe.write(part)
                    sent.append(number)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "camera"
    os.mkfifo(path)
    return path


@pytest.fixture
def standard_input() -> Iterator[int]:
    """A pipe in place of standard input; yields where to write."""
    before = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    yield writing
    os.dup2(before, 0)
    os.close(before)


def test_a_named_pipe_gives_the_frames_of_the_file(tmp_path: Path, fifo: Path) -> None:
    (tmp_path / "same.y4m").write_bytes(y4m(6))
    expected = list(VideoReader(tmp_path / "same.y4m"))
    feed(fifo, iter([y4m(6)]), [])
    source = open_source(fifo)
    assert (source.name, source.size, source.rate, source.length) == ("camera", SIZE, 15, None)
    frames = list(source)
    assert [frame.name for frame in frames] == [f"{i:08d}" for i in range(6)]
    assert [frame.time for frame in frames] == pytest.approx([i / 15 for i in range(6)])
    assert all(torch.equal(a.image, b.image) for a, b in zip(frames, expected, strict=True))
    levels = [int(frame.image[0, 0, 0]) for frame in frames]
    assert levels == sorted(set(levels)), "a brighter frame each time"


def test_standard_input_is_labelled_as_the_file_is(tmp_path: Path, standard_input: int) -> None:
    (tmp_path / "same.y4m").write_bytes(y4m(5))
    predict(Remember(), tmp_path / "same.y4m", tmp_path / "file")
    feed(standard_input, iter([y4m(5)]), [])
    summary = predict(Remember(), "-", tmp_path / "piped")
    assert [(video.name, video.source, video.status, video.frames) for video in summary.videos] == [
        ("stdin", "-", "done", 5)
    ]
    for path in sorted((tmp_path / "file" / "same").iterdir()):
        assert (tmp_path / "piped" / "stdin" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "piped" / "stdin.areas.csv").read_bytes() == (tmp_path / "file" / "same.areas.csv").read_bytes()


def test_what_is_not_asked_for_yet_stays_in_the_pipe(fifo: Path) -> None:
    """200 frames of 115 kB: a reader that took what comes would hold them all."""
    sent: list[int] = []
    frame = y4m_frame(100, (240, 320))
    feed(fifo, iter([HEADER % (320, 240), *[frame] * 200]), sent)
    frames = stream(Remember(), fifo)
    for _ in range(3):
        next(frames)
    time.sleep(0.3)
    assert 3 <= len(sent) < 40
    frames.close()


def test_a_pipe_cannot_go_back(tmp_path: Path, fifo: Path) -> None:
    feed(fifo, iter([y4m(3)]), [])
    with VideoReader(fifo) as reader:
        with pytest.raises(InputError, match="can only be read in order; save it to a file first"):
            reader.read([1])
        with pytest.raises(TypeError, match="no length"):
            len(reader)
    out = tmp_path / "out"
    feed(fifo, iter([y4m(3)]), [])

    def stop(name: str, frames: int, length: int | None) -> None:
        if frames == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(Remember(), fifo, out, on_frame=stop)
    (failed,) = predict(Remember(), fifo, out, resume=True).failed
    assert "a live one has moved on" in str(failed.error)


@pytest.mark.parametrize("content", [b"", b"no video at all", b"\0\0\0\x20ftypisom" + b"\0" * 2000])
def test_what_cannot_be_read_from_front_to_end_says_what_can(fifo: Path, content: bytes) -> None:
    feed(fifo, iter([content]), [])
    with pytest.raises(InputError, match=r"a pipe is read once, from front to end: write MPEG-TS, Matroska, y4m") as e:
        open_source(fifo)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("begun", [b"", HEADER % (32, 24)], ids=["nothing came", "a header came"])
def test_a_signal_ends_the_wait_for_the_first_frames(standard_input: int, begun: bytes) -> None:
    os.write(standard_input, begun)
    threading.Timer(0.5, signal.pthread_kill, [threading.get_ident(), signal.SIGINT]).start()
    with pytest.raises(Stopped), stop_signals_raise():
        open_source("-")
    os.close(standard_input)


def test_a_terminal_is_no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor == 0)
    with pytest.raises(InputError, match="expected a video on standard input, it is a terminal"):
        open_source("-")
    assert len(expand_sources(["-", "-"])) == 1
