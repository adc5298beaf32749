"""Every frame under its own index, in order and at random, whatever the codec does with the order of frames."""

from __future__ import annotations

import gc
import os
import pickle
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numbered_videos import number_of

from everyframe.errors import InputError
from everyframe.io.video import VideoReader
from everyframe.io.video_index import build_index_by_decoding
from everyframe.io.video_open import open_video

GOP = {"g": "12", "bf": "3"}
KINDS = {
    "closed groups, mp4": ("a.mp4", "libx264", GOP),
    "open groups, mp4": ("a.mp4", "libx264", GOP | {"x264-params": "open-gop=1:keyint=12:scenecut=0:b-pyramid=normal"}),
    "open groups, mkv": ("a.mkv", "libx264", GOP | {"x264-params": "open-gop=1:keyint=12:scenecut=0"}),
    "intra refresh": ("a.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
    "every frame a key": ("a.mp4", "libx264", {"g": "1"}),
    "key every second frame, reordered": ("a.mp4", "libx264", {"g": "2", "bf": "1"}),
    "transport stream": ("a.ts", "libx264", GOP),
    "fragmented": ("a.mp4", "libx264", GOP),
    "hevc": ("a.mp4", "libx265", {"x265-params": "keyint=12:bframes=3:open-gop=1:log-level=none:pools=1"}),
    "vp9": ("a.webm", "libvpx-vp9", {"g": "12", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}),
    "mpeg4, b-frames in avi": ("a.avi", "mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4 in mp4": ("a.mp4", "mpeg4", {"g": "12", "bf": "2"}),
    "mpeg2": ("a.mpg", "mpeg2video", {"g": "12", "bf": "2"}),
    "motion jpeg": ("a.avi", "mjpeg", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_index_gives_its_own_frame(kind: str, make_video: Callable[..., Path]) -> None:
    name, codec, options = KINDS[kind]
    muxer = {"movflags": "frag_keyframe+empty_moov"} if kind == "fragmented" else None
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = make_video(name, 40, codec, options, pix_fmt, muxer=muxer)
    reader = VideoReader(path)
    in_order = list(reader)
    assert [number_of(frame.image) for frame in in_order] == list(range(40))
    assert [frame.index for frame in in_order] == list(range(40))
    assert len(reader) == 40

    shuffled = [*random.Random(1).choices(range(40), k=30), 39, 0, 12, 11, 13, 0]
    together = reader.read(shuffled)
    one_by_one = [reader.read([index])[0] for index in shuffled]
    for index, frame, alone in zip(shuffled, together, one_by_one, strict=True):
        assert frame.index == alone.index == index
        assert frame.time == pytest.approx(in_order[index].time, abs=1e-9)
        assert frame.name == f"{index:08d}"
        assert torch.equal(frame.image, in_order[index].image)
        assert torch.equal(alone.image, in_order[index].image)


def test_the_cheap_index_equals_the_decoded_one(make_video: Callable[..., Path]) -> None:
    path = make_video("a.mp4", 40, options=KINDS["open groups, mp4"][2])
    cheap, decoded = VideoReader(path).index, build_index_by_decoding(str(path))
    assert np.array_equal(cheap.pts, decoded.pts)
    assert np.allclose(cheap.times, decoded.times)
    assert np.array_equal(cheap.keys, decoded.keys)
    assert len(cheap.keys) >= 3


def test_a_read_that_goes_on_does_not_start_again(make_video: Callable[..., Path], monkeypatch) -> None:
    reader = VideoReader(make_video("a.mp4", 40, options={"g": "250"}))
    len(reader)
    opened = []
    real = av.open
    monkeypatch.setattr("av.open", lambda *args, **kwargs: (opened.append(args), real(*args, **kwargs))[1])
    for index in range(10, 40):
        reader.read([index])
    assert len(opened) == 1


def test_wrong_keyframes_are_survived(make_video: Callable[..., Path]) -> None:
    """Containers may mark frames as keyframes that are none: the reader then decodes from the start."""
    reader = VideoReader(make_video("a.mp4", 40, options={"g": "12", "bf": "0", "x264-params": "scenecut=0"}))
    index = reader.index
    object.__setattr__(index, "seek_to", index.seek_to + 10_000_000)  # leads past the end
    assert [number_of(frame.image) for frame in reader.read([30, 5, 39])] == [30, 5, 39]
    assert len(reader.index.keys) == 1


def test_variable_frame_rate(make_video: Callable[..., Path]) -> None:
    ticks = [0, 40, 45, 300, 1000, 1033, 2500]
    path = make_video("a.mp4", 7, ticks=ticks, options={"bf": "2"})
    reader = VideoReader(path)
    assert [frame.time for frame in reader] == pytest.approx([t / 1000 for t in ticks], abs=1e-6)
    assert reader.read([3])[0].time == pytest.approx(0.3, abs=1e-6)


def test_time_starts_at_zero(make_video: Callable[..., Path]) -> None:
    path = make_video("a.mkv", 3, ticks=[5000, 5100, 5300])
    assert [frame.time for frame in VideoReader(path)] == pytest.approx([0, 0.1, 0.3], abs=1e-6)


def test_odd_size_single_frame_and_info(make_video: Callable[..., Path]) -> None:
    picture = np.full((31, 45, 3), 128, np.uint8)
    path = make_video("a.mkv", [picture], codec="ffv1", pix_fmt="yuv444p", rate=10)
    reader = VideoReader(path)
    (frame,) = list(reader)
    assert frame.size == (31, 45)
    assert (reader.info.height, reader.info.width, reader.info.rate) == (31, 45, 10)
    assert len(reader) == 1


MATRICES = {
    "as stored": ((1, 0, 0, 1), lambda x: x),
    "turned by 90": ((0, 1, -1, 0), lambda x: x.rot90(-1, (1, 2))),
    "turned by 180": ((-1, 0, 0, -1), lambda x: x.rot90(2, (1, 2))),
    "turned by 270": ((0, -1, 1, 0), lambda x: x.rot90(1, (1, 2))),
    "mirrored": ((-1, 0, 0, 1), lambda x: x.flip(2)),
    "upside down": ((1, 0, 0, -1), lambda x: x.flip(1)),
    "transposed": ((0, 1, 1, 0), lambda x: x.transpose(1, 2)),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_rotation_metadata(kind: str, make_video: Callable[..., Path]) -> None:
    """Phones store frames as the sensor gives them and say in the track header how to hold them."""
    (a, b, c, d), turn = MATRICES[kind]
    path = make_video("a.mp4", 3)
    stored = [frame.image for frame in VideoReader(path)]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12 §8.3.2: matrix {a b u, c d v, x y w}, 16.16 fixed point
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    reader = VideoReader(path)
    for frame, image in zip(reader, stored, strict=True):
        assert torch.equal(frame.image, turn(image))
        assert frame.size == (reader.info.height, reader.info.width)
    assert torch.equal(reader.read([1])[0].image, turn(stored[1]))


def test_pickled_readers_read_on(make_video: Callable[..., Path]) -> None:
    reader = VideoReader(make_video("a.mp4", 20))
    reader.read([7])
    other = pickle.loads(pickle.dumps(reader))
    assert number_of(other.read([13])[0].image) == 13
    assert number_of(reader.read([8])[0].image) == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_readers_do_not_disturb_each_other(make_video: Callable[..., Path]) -> None:
    reader = VideoReader(make_video("a.mp4", 120, options={"g": "12"}))
    reader.read([0])
    child = os.fork()
    if child == 0:
        right = all(number_of(reader.read([i])[0].image) == i for i in range(119, -1, -7))
        os._exit(0 if right else 1)
    mine = [number_of(reader.read([i])[0].image) for i in range(1, 120, 3)]
    assert os.waitpid(child, 0)[1] == 0
    assert mine == list(range(1, 120, 3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_wait_for_decoders_that_the_parent_had_left_to_its_collector(
    make_video: Callable[..., Path],
) -> None:
    path = make_video("a.mp4", 12)
    gc.disable()
    try:
        for _ in range(3):
            container, stream = open_video(str(path))
            next(container.decode(stream))
            circle = [container, stream]
            circle.append(circle)
        del container, stream, circle
        child = os.fork()
        if child == 0:
            gc.collect()  # would free the decoders, which wait for threads that a fork does not copy
            os._exit(0)
    finally:
        gc.enable()
    ended = None
    for _ in range(100):
        ended = os.waitpid(child, os.WNOHANG)
        if ended != (0, 0):
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_two_iterations_and_reads_interleave(make_video: Callable[..., Path]) -> None:
    reader = VideoReader(make_video("a.mp4", 12))
    first, second = iter(reader), iter(reader)
    seen = [(number_of(next(first).image), number_of(next(second).image)) for _ in range(5)]
    assert number_of(reader.read([9])[0].image) == 9
    assert seen == [(i, i) for i in range(5)]
    assert number_of(next(first).image) == 5


# -- bad input -------------------------------------------------------------------------------------------------------


def test_bad_files_give_one_clear_line(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("no video at all " * 50)
    headless = tmp_path / "headless.mp4"
    whole = make_video("a.mp4", 20).read_bytes()
    headless.write_bytes(whole[: len(whole) // 2])  # the index of an MP4 stands at its end
    cases = {
        tmp_path / "missing.mp4": "found no file",
        tmp_path: "came a folder",
        empty: "0 bytes",
        text: "FFmpeg cannot read",
        headless: "cut off",
    }
    for path, expected in cases.items():
        with pytest.raises(InputError, match=expected) as caught:
            VideoReader(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(InputError, match="holds only audio"):
        VideoReader(path)


def test_video_without_frames(make_video: Callable[..., Path]) -> None:
    path = make_video("a.avi", 5, codec="mpeg4")
    data = path.read_bytes()
    start = data.index(b"movi") + 4
    path.write_bytes(data[:start])
    with pytest.raises(InputError, match="none of its frames decodes"):
        VideoReader(path)


def test_cut_off_file_gives_what_decodes_then_says_so(make_video: Callable[..., Path]) -> None:
    path = make_video("a.mp4", 60, options={"g": "12", "bf": "0"}, muxer={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    frames = []
    reader = VideoReader(path)
    with pytest.raises(InputError, match=r"decoded (\d+) of 60 frames; it breaks after \d") as caught:
        frames.extend(iter(reader))
    assert 20 < len(frames) < 50
    assert [number_of(frame.image) for frame in frames] == list(range(len(frames)))
    assert f"decoded {len(frames)} of 60" in str(caught.value)
    assert f"after {frames[-1].time:.2f} s" in str(caught.value)
    assert len(reader) == len(frames)
    assert number_of(reader.read([len(frames) - 1])[0].image) == len(frames) - 1
    with pytest.raises(InputError, match=f"0..{len(frames) - 1}, came {len(frames)}"):
        reader.read([len(frames)])


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_cut_off_in_other_containers(name: str, make_video: Callable[..., Path]) -> None:
    path = make_video(name, 40, codec="mjpeg", pix_fmt="yuvj420p")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    frames = []
    with pytest.raises(InputError, match="bytes are missing"):
        frames.extend(iter(VideoReader(path)))
    assert [number_of(frame.image) for frame in frames] == list(range(len(frames)))
    assert 10 < len(frames) < 40


def test_a_broken_packet_does_not_hide_the_rest(make_video: Callable[..., Path]) -> None:
    """FFmpeg refuses a packet without any valid data; the frames after the next keyframe are still whole."""
    path = make_video("a.mp4", 40, codec="libx264", options={"g": "10", "bf": "0", "x264-params": "scenecut=0"})
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    at, size = packets[15]
    data[at : at + size] = b"\xff" * size
    path.write_bytes(data)
    reader = VideoReader(path)
    frames = []
    with pytest.raises(InputError, match="does not decode"):
        frames.extend(iter(reader))
    assert len(frames) >= 38
    assert [number_of(frame.image) for frame in frames[-20:]] == list(range(20, 40))
    assert len(reader) == len(frames)
    assert torch.equal(reader.read([len(frames) - 3])[0].image, frames[-3].image)


def test_indices_outside(make_video: Callable[..., Path]) -> None:
    reader = VideoReader(make_video("a.mp4", 5))
    for wrong in (-1, 5):
        with pytest.raises(InputError, match=f"0..4, came {wrong}"):
            reader.read([0, wrong])
    assert reader.read([]) == []


REAL = Path(os.environ.get("EVERYFRAME_DATA", "nowhere")) / "videos"
DECODED = {
    "davis_rollercoaster.mp4": 70, "highway_solidWhiteRight.mp4": 221, "bgs_video.avi": 374, "bgs_video02.avi": 748,
    "bgs_demo.avi": 51, "cutie_example.mp4": 117, "mmtracking_demo.mp4": 8, "bt709_full_range.mp4": 30,
    "h264_10bits.mp4": 30, "h265_10bits.mp4": 30, "h265_video.mp4": 10, "av1_video.mkv": 125, "rot_0.mov": 3,
    "rot_180.mov": 3, "rot_270.mov": 3, "unordered.mov": 4,
}  # fmt: skip


@pytest.mark.skipif(not REAL.is_dir(), reason="set EVERYFRAME_DATA to a folder with videos/")
@pytest.mark.parametrize("name", DECODED)
def test_real_files(name: str) -> None:
    reader = VideoReader(REAL / name)
    in_order = list(reader)
    assert len(in_order) == len(reader) == DECODED[name]
    times = np.array([frame.time for frame in in_order])
    assert times[0] == 0
    assert (np.diff(times) > 0).all()
    wanted = [*random.Random(0).choices(range(len(in_order)), k=10), 0, len(in_order) - 1]
    for frame in reader.read(wanted):
        assert torch.equal(frame.image, in_order[frame.index].image)
