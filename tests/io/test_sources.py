from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_videos import number_of, numbered
from PIL import Image

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.io import video_pass
from everyframe.io.sources import CameraSource, PictureSource, VideoSource, expand_sources, open_source


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    def make(folder: str, names: list[str]) -> Path:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            Image.fromarray(numbered(number)).save(tmp_path / folder / name)
        return tmp_path / folder

    return make


def test_video_file(make_video: Callable[..., Path]) -> None:
    path = make_video("street.mp4", 10, rate=Fraction(30000, 1001))
    source = open_source(path)
    assert (source.name, source.rate, source.length, source.size) == ("street", Fraction(30000, 1001), 10, (48, 64))
    for _ in range(2):
        assert [number_of(frame.image) for frame in source] == list(range(10))
    assert [frame.name for frame in source][:2] == ["00000000", "00000001"]
    assert len(list(pickle.loads(pickle.dumps(source)))) == 10


def test_folder_of_pictures_in_natural_order(pictures: Callable[..., Path]) -> None:
    folder = pictures("shots", ["frame1.png", "frame2.jpg", "frame10.png", "Frame11.png"])
    (folder / "notes.txt").write_text("no picture")
    (folder / "._frame1.png").write_bytes(b"what macOS leaves on other disks")
    source = open_source(str(folder), rate=10)
    frames = list(source)
    assert [frame.name for frame in frames] == ["frame1", "frame2", "frame10", "Frame11"]
    assert [number_of(frame.image) for frame in frames] == [0, 1, 2, 3]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert (source.name, source.rate, source.length, source.size) == ("shots", 10, 4, (48, 64))


def test_single_picture(pictures: Callable[..., Path]) -> None:
    source = open_source(pictures("shots", ["a.png", "b.png"]) / "b.png")
    (frame,) = source
    assert (source.name, frame.name, frame.index, number_of(frame.image)) == ("b", "b", 0, 1)


def test_a_single_picture_has_its_own_name_however_it_is_written(
    pictures: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures("shots", ["a.png", "b.png"]))
    assert [open_source(what).name for what in ("a.png", "./a.png", "../shots/./b.png")] == ["a", "a", "b"]
    assert open_source("*").name == "shots"


def test_names_that_differ_in_capitals_alone_would_be_one_folder(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    places = [pictures("x/Cut", ["1.png"]), pictures("y/cut", ["1.png"]), pictures("y/other", ["1.png"])]
    assert [source.name for source in expand_sources(places)] == ["x_Cut", "y_cut", "other"]


def test_a_folder_with_nothing_to_label_points_on(make_video: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "own" / "videos").mkdir(parents=True)
    (tmp_path / "own" / "classes.yaml").write_text("1: road")
    make_video("own/videos/a.mp4", 2)
    with pytest.raises(InputError, match=r"own: expected pictures.* among 2 entries; of a data set give .*own/videos$"):
        expand_sources([tmp_path / "own"])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("")
    with pytest.raises(InputError, match=r"1 entry; known endings of pictures are .*\.jpg.*, of videos .*\.mp4"):
        expand_sources([tmp_path / "texts"])


def test_globs(pictures: Callable[..., Path], make_video: Callable[..., Path], tmp_path: Path) -> None:
    pictures("one", ["1.png", "2.png"])
    pictures("two", ["1.png"])
    for name in ("v1.mp4", "v10.mp4", "v2.mp4"):
        make_video(name, 2)
    (of_one,) = expand_sources([str(tmp_path / "one" / "*.png")])
    assert isinstance(of_one, PictureSource)
    assert (of_one.name, of_one.length) == ("one", 2)
    assert [source.name for source in expand_sources([str(tmp_path / "*.mp4")])] == ["v1", "v2", "v10"]
    both = expand_sources([str(tmp_path / "*" / "*.png")])
    assert [(source.name, source.length) for source in both] == [("one", 2), ("two", 1)]
    folders = expand_sources([str(tmp_path / "t*")])
    assert [source.name for source in folders] == ["two"]
    with pytest.raises(InputError, match=r"expected one video, came 3 \(v1, v2"):
        open_source(str(tmp_path / "v*.mp4"))


def test_folder_of_videos_and_folder_of_folders(
    pictures: Callable[..., Path], make_video: Callable[..., Path], tmp_path: Path
) -> None:
    make_video("b.mp4", 2)
    make_video("a.avi", 2, codec="mpeg4")
    pictures("c", ["1.png"])
    pictures("d/origin", ["1.png", "2.png"])  # as VSPW stores a video: the frames, and beside them the masks
    pictures("d/mask", ["1.png", "2.png"])
    found = expand_sources([tmp_path])
    assert [source.name for source in found] == ["a", "b", "c", "d"]
    assert [type(source) for source in found] == [VideoSource, VideoSource, PictureSource, PictureSource]
    assert (open_source(tmp_path / "d").name, open_source(tmp_path / "d").length) == ("d", 2)
    (tmp_path / "a.avi").unlink()
    (tmp_path / "c" / "1.png").unlink()
    assert [source.name for source in expand_sources([tmp_path])] == ["b", "d"]


def test_names_are_kept_apart(make_video: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    for name in ("x/a.mp4", "y/a.mp4", "x/b.mp4", "x/b.mkv", "x/c.mp4"):
        make_video(name, 1)
    found = expand_sources([tmp_path / "x", tmp_path / "y"])
    assert [source.name for source in found] == ["x_a", "b.mkv", "b.mp4", "c", "y_a"]


def test_pictures_and_patterns_are_named_by_their_folders(tmp_path: Path) -> None:
    for place in ("a/shot", "b/shot"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place / "one.jpg")

    def names(*whats: str) -> list[str]:
        return [source.name for source in expand_sources([tmp_path / what for what in whats])]

    assert names("a/shot/one.jpg", "b/shot/one.jpg") == ["a_shot_one", "b_shot_one"]
    assert names("a/shot", "b/shot") == names("a/shot/*.jpg", "b/shot/*.jpg") == ["a_shot", "b_shot"]


def test_what_is_named_twice_comes_once(make_video: Callable[..., Path], tmp_path: Path) -> None:
    make_video("a.mp4", 1)
    make_video("b.mp4", 1)
    found = expand_sources([tmp_path / "b.mp4", tmp_path, tmp_path / "*.mp4", "rtsp://x/1", "rtsp://x/1", 0, "0"])
    assert [source.name for source in found] == ["b", "a", "x_1", "camera0"]


def test_one_broken_video_does_not_stop_the_others(make_video: Callable[..., Path], tmp_path: Path) -> None:
    make_video("a.mp4", 2)
    (tmp_path / "b.mp4").touch()
    make_video("c.mp4", 2)
    good, broken, other = expand_sources([tmp_path])
    assert len(list(good)) == len(list(other)) == 2
    with pytest.raises(InputError, match=r"b\.mp4.*0 bytes"):
        list(broken)
    with pytest.raises(InputError, match=r"b\.mp4.*0 bytes"):
        _ = broken.rate
    with pytest.raises(InputError, match=r"b\.mp4.*0 bytes"):
        open_source(tmp_path / "b.mp4")


def test_cameras_and_streams_by_name() -> None:
    camera = open_source(0)
    assert isinstance(camera, CameraSource)
    assert (camera.number, camera.name, camera.rate, camera.length, camera.size) == (0, "camera0", None, None, None)
    assert expand_sources(["7"])[0].name == "camera7"
    with pytest.raises(InputError, match="camera 7: expected a camera, found none"):
        list(expand_sources(["7"])[0])
    (stream,) = expand_sources(["rtsp://user:secret@10.0.0.5:554/live/ch1?token=x"])
    assert stream.name == "10.0.0.5_554_live_ch1"


def test_a_stream_that_does_not_open() -> None:
    with pytest.raises(InputError, match="does not open"):
        open_source("tcp://127.0.0.1:9")


def test_url_is_read_in_order(make_video: Callable[..., Path]) -> None:
    path = make_video("a.mp4", 5)
    source = open_source(f"file://{path}")
    assert [number_of(frame.image) for frame in source] == list(range(5))


def test_a_stream_is_connected_to_once(make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    connect, connections = video_pass.open_video, []
    monkeypatch.setattr(video_pass, "open_video", lambda path: (connections.append(path), connect(path))[1])
    (source,) = expand_sources([f"file://{make_video('a.mp4', 5)}"])
    assert (source.rate, source.size) == (25, (48, 64)), "asked for before the first frame, as `predict` does"
    assert [number_of(frame.image) for frame in source] == list(range(5))
    assert len(connections) == 1


def test_arrays_tensors_and_frames() -> None:
    arrays = [numbered(index) for index in range(3)]
    tensors = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    source = open_source(arrays, rate=Fraction(10))
    assert (source.length, source.rate, source.size) == (3, 10, None)
    for frame, tensor in zip(source, tensors, strict=True):
        assert torch.equal(frame.image, tensor)
    assert [frame.time for frame in source] == pytest.approx([0, 0.1, 0.2])
    one_pass = open_source(tensor for tensor in tensors)
    assert one_pass.length is None
    assert [number_of(frame.image) for frame in one_pass] == [0, 1, 2]
    given = Frame(tensors[1], 5, 2.5, "mine")
    assert list(open_source([given])) == [given]
    assert open_source(source) is source


def test_what_is_no_source(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        str(tmp_path / "missing"): "found nothing of that name",
        str(tmp_path / "missing*.mp4"): "matches none",
        str(tmp_path / "empty"): "found none among 0 entries",
        "²": "found nothing of that name",  # a digit, but no number
    }
    for what, expected in cases.items():
        with pytest.raises(InputError, match=expected) as caught:
            expand_sources([what])
        assert what in str(caught.value)
    with pytest.raises(InputError, match="came nothing"):
        expand_sources([])
    with pytest.raises(InputError, match="came float"):
        open_source(1.5)
    with pytest.raises(InputError, match="above 0"):
        open_source([], rate=0)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), torch.zeros(3, 4, 4), "text"):
        with pytest.raises(InputError, match="frame 0: expected a Frame"):
            list(open_source([wrong]))


def test_a_broken_picture_is_named(pictures: Callable[..., Path]) -> None:
    folder = pictures("shots", ["1.png", "2.png", "3.png"])
    data = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(data[: len(data) // 2])
    frames = iter(open_source(folder))
    assert next(frames).name == "1"
    with pytest.raises(InputError, match=r"2\.png.*do not decode"):
        next(frames)


def test_two_pictures_of_one_name(pictures: Callable[..., Path]) -> None:
    """Their results would overwrite each other."""
    with pytest.raises(InputError, match=r"several named 'a' \(a\.jpg, a\.png\)"):
        list(open_source(pictures("shots", ["a.png", "a.jpg"])))
