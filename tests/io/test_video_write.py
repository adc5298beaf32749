"""What is written can be read back: sizes, times, colours; also after the writer was killed or the disk was full."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numbered_videos import number_of, numbered
from torch import Tensor

from everyframe.errors import InputError
from everyframe.io.video import VideoReader, VideoWriter

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (10, 10, 10), (245, 245, 245), (128, 64, 200)]


def flat(color: tuple[int, int, int], height: int = 48, width: int = 64) -> Tensor:
    return torch.tensor(color, dtype=torch.uint8)[:, None, None].expand(3, height, width)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_come_back_in_order_and_on_time(name: str, tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    with VideoWriter(tmp_path / name, (48, 64), rate) as video:
        for index in range(100):
            video.write(numbered(index))
    frames = list(VideoReader(tmp_path / name))
    assert [number_of(frame.image) for frame in frames] == list(range(100))
    # Matroska stores milliseconds
    assert [frame.time for frame in frames] == pytest.approx([float(i / rate) for i in range(100)], abs=6e-4)


@pytest.mark.parametrize("size", [(48, 64), (720, 1280)])
def test_colours_survive(size: tuple[int, int], tmp_path: Path) -> None:
    """Flat pictures lose only to rounding: RGB -> 8-bit limited-range YUV -> RGB costs up to 3 levels (219 steps of
    luma for 255 levels, and chroma steps of up to 2.2 levels), the codec at CRF 20 up to 1 more. Another matrix or
    range on either side would cost 15 and more. At 720 lines and below the untagged default would differ."""
    path = tmp_path / "a.mp4"
    with VideoWriter(path, size, 25) as video:
        for color in COLORS:
            video.write(flat(color, *size))
    for frame, color in zip(VideoReader(path), COLORS, strict=True):
        mean = frame.image.float().mean((1, 2))
        assert (mean - torch.tensor(color)).abs().max() <= 4, color
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        assert (first.colorspace, first.color_range, first.color_primaries, first.color_trc) == (1, 1, 1, 1)
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_textures_survive(tmp_path: Path) -> None:
    """A smooth picture keeps 35 dB at the default CRF, what is called visually close."""
    y, x = torch.meshgrid(torch.linspace(0, 6, 96), torch.linspace(0, 6, 128), indexing="ij")
    image = (torch.stack([y.sin(), x.cos(), (x * y / 4).sin()]) * 100 + 128).to(torch.uint8)
    with VideoWriter(tmp_path / "a.mp4", (96, 128)) as video:
        video.write(image)
    (frame,) = VideoReader(tmp_path / "a.mp4")
    error = (frame.image.float() - image.float()).square().mean()
    assert 10 * torch.log10(255**2 / error) > 35


def test_odd_sizes_grow_by_a_copy_of_the_edge(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", (31, 45)) as video:
        video.write(flat((200, 30, 30), 31, 45))
    (frame,) = VideoReader(tmp_path / "a.mp4")
    assert frame.size == (32, 46)
    assert (frame.image[:, -1, -1].int() - torch.tensor([200, 30, 30])).abs().max() <= 5


def test_one_pixel(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mkv", (1, 1)) as video:
        video.write(flat((200, 200, 200), 1, 1))
    (frame,) = VideoReader(tmp_path / "a.mkv")
    assert frame.size == (2, 2)


def test_variable_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.0401, 0.5, 2.0, 2.0, 2.0]  # the last ones closer than the clock can tell
    with VideoWriter(tmp_path / "a.mp4", (48, 64), 25) as video:
        for index, time in enumerate(times):
            video.write(numbered(index), time)
    frames = list(VideoReader(tmp_path / "a.mp4"))
    assert [number_of(frame.image) for frame in frames] == list(range(7))
    assert [frame.time for frame in frames] == pytest.approx(times, abs=3.4e-5)


def test_frames_of_another_size_are_scaled(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", (48, 64)) as video:
        video.write(flat((20, 90, 30)))
        video.write(flat((20, 90, 30), 100, 100))
    frames = list(VideoReader(tmp_path / "a.mp4"))
    assert [frame.size for frame in frames] == [(48, 64)] * 2
    assert (frames[1].image.float().mean((1, 2)) - torch.tensor([20, 90, 30])).abs().max() <= 4


def test_tensors_and_arrays_write_the_same(tmp_path: Path) -> None:
    for name, turn in {"a.mp4": lambda x: x, "b.mp4": lambda x: torch.from_numpy(x).permute(2, 0, 1)}.items():
        with VideoWriter(tmp_path / name, (48, 64)) as video:
            video.write(turn(numbered(77)))
    first, second = (next(iter(VideoReader(tmp_path / name))).image for name in ("a.mp4", "b.mp4"))
    assert torch.equal(first, second)


def test_an_exception_leaves_a_readable_file(tmp_path: Path) -> None:
    def job() -> None:
        with VideoWriter(tmp_path / "a.mp4", (48, 64)) as video:
            for index in range(7):
                video.write(numbered(index))
            raise KeyError("the model failed")

    with pytest.raises(KeyError):
        job()
    assert [number_of(frame.image) for frame in VideoReader(tmp_path / "a.mp4")] == list(range(7))


def test_no_frames_leave_no_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", (48, 64)):
        pass
    assert not (tmp_path / "a.mp4").exists()


def in_a_fork(job: Callable[[], None]) -> int:
    """Run `job` in a forked process; return the process id."""
    child = os.fork()
    if child == 0:
        try:
            job()
        finally:
            os._exit(0)
    return child


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_killed_writer_leaves_a_readable_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    reading, writing = os.pipe()

    def job() -> None:
        video = VideoWriter(path, (48, 64), 25)
        for index in range(100_000):
            video.write(numbered(index % 256))
            if index == 250:
                os.write(writing, b"!")

    child = in_a_fork(job)
    os.read(reading, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    numbers = []
    try:
        numbers.extend(number_of(frame.image) for frame in VideoReader(path))
    except InputError as error:
        assert "the decoded frames are kept" in str(error)  # noqa: PT017  (only when killed within a write)
    # Lost at most: one unfinished fragment of two seconds (50 frames), and what the encoder looks ahead (about 50).
    assert len(numbers) > 150
    assert numbers == [i % 256 for i in range(len(numbers))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_full_disk(tmp_path: Path) -> None:
    """A limit on the size of a file fails as a full disk does."""
    path, said = tmp_path / "a.mp4", tmp_path / "said.txt"

    def job() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        noise = np.random.default_rng(0)
        try:
            with VideoWriter(path, (240, 320), 25) as video:
                for _ in range(300):
                    video.write(noise.integers(0, 255, (240, 320, 3), np.uint8))
        except InputError as error:
            said.write_text(str(error))

    os.waitpid(in_a_fork(job), 0)
    assert str(path) in said.read_text()
    assert "cannot (" in said.read_text()
    assert "\n" not in said.read_text()


def test_bad_arguments(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="create it first"):
        VideoWriter(tmp_path / "nowhere" / "a.mp4", (48, 64))
    with pytest.raises(InputError, match="above 0"):
        VideoWriter(tmp_path / "a.mp4", (48, 64), 0)
    with pytest.raises(InputError, match="cannot"):
        VideoWriter(tmp_path / "a.unknown", (48, 64))
    with VideoWriter(tmp_path / "a.mp4", (48, 64)) as video:
        video.write(numbered(0), 1.0)
        with pytest.raises(InputError, match=r"rise from 0, came 0\.500000 s after 1\.000000 s"):
            video.write(numbered(0), 0.5)
        for wrong in (np.zeros((48, 64), np.uint8), np.zeros((48, 64, 3), np.float32), torch.zeros(3, 48, 64)):
            with pytest.raises(ValueError, match="expected a uint8"):
                video.write(wrong, 2.0)
    with pytest.raises(ValueError, match="closed"):
        video.write(numbered(0), 3.0)
