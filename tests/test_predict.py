"""Prediction of many videos: what is written, and what is refused."""

from __future__ import annotations

import csv
import errno
import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.predictors import Remember, video
from PIL import Image
from prediction_jobs import FRAMES, Counted, files, interrupt_at, pictures

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.inference.outputs import OutputError
from everyframe.inference.stream import Stream
from everyframe.inference.tta import Flip, Scales
from everyframe.inference.window import Window
from everyframe.io.label_png import read_label, read_raw
from everyframe.io.sources import ArraySource, open_source
from everyframe.io.video import VideoReader, VideoWriter
from everyframe.labels import LabelSpace
from everyframe.predict import predict, stream, with_views


def test_writes_what_the_stream_gives(tmp_path: Path) -> None:
    folder, model = pictures(tmp_path / "street"), Counted()
    summary = predict(model, folder, tmp_path / "out", confidence=True)
    runner, space = Stream(model), LabelSpace.load(tmp_path / "out" / "labels.json")
    rows = list(csv.DictReader((tmp_path / "out" / "street.areas.csv").open()))
    assert len(rows) == FRAMES
    for frame, row in zip(open_source(folder), rows, strict=True):
        labels = runner.step(frame)
        path = tmp_path / "out" / "street" / f"{frame.name}.png"
        assert (read_label(path, space, frame.size) == labels).all()
        assert set(np.unique(read_raw(path))) <= {10, 20, 30, 40}
        assert Image.open(path).mode == "P"
        assert (row["frame"], row["name"], float(row["time"])) == (
            str(frame.index),
            frame.name,
            round(frame.time, 6),
        )
        shares = [(labels == k).mean() for k in range(4)]
        assert [float(row[name]) for name in "abcd"] == pytest.approx(shares, abs=1e-6)
        grey = np.array(Image.open(tmp_path / "out" / "street.confidence" / f"{frame.name}.png"))
        assert grey.shape == frame.size
        assert grey.min() >= 255 // 4
    shown = list(VideoReader(tmp_path / "out" / "street.overlay.mp4"))
    assert [round(frame.time, 3) for frame in shown] == [round(i / 15, 3) for i in range(FRAMES)]
    assert shown[0].size[0] >= 32
    assert summary.frames == FRAMES
    assert [(v.name, v.status, v.frames) for v in summary.videos] == [("street", "done", FRAMES)]
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert record["videos"][0]["frames"] == FRAMES
    assert not (tmp_path / "out" / ".resume").exists()
    assert not list((tmp_path / "out").rglob("*.part"))


def test_stream_yields_the_same_and_stops_when_told(tmp_path: Path) -> None:
    clip, closed = video(6), []

    def frames() -> Iterator[Frame]:
        try:
            yield from clip
        finally:
            closed.append(True)

    runner = Stream(Remember())
    expected = [runner.step(frame) for frame in clip]
    got = list(stream(Remember(), clip))
    assert [frame.index for frame, _ in got] == list(range(6))
    assert all((labels == e).all() for (_, labels), e in zip(got, expected, strict=True))
    early = stream(Remember(), frames())
    next(early)
    early.close()
    assert closed == [True]


def test_overlay_keeps_uneven_times_and_fits_other_sizes(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.4]
    clip = [Frame(f.image, f.index, t, f.name) for f, t in zip(video(4), times, strict=True)]
    other = video(1, (20, 30))[0]
    clip.append(Frame(other.image, 4, 0.5, "other"))
    predict(Remember(), ArraySource(clip, "clip", Fraction(10)), tmp_path)
    shown = list(VideoReader(tmp_path / "clip.overlay.mp4"))
    assert [frame.time for frame in shown] == pytest.approx([*times, 0.5], abs=1e-3)
    assert Image.open(tmp_path / "clip" / "other.png").size == (30, 20)


def test_views_are_wrapped_scales_over_windows() -> None:
    model = Remember()
    wrapped = with_views(model, window=(16, 24), stride=8, flip=True, scales=(0.5, 1.0))
    assert isinstance(wrapped, Flip)
    assert isinstance(wrapped.predictor, Scales)
    assert isinstance(wrapped.predictor.predictor, Window)
    assert wrapped.predictor.predictor.predictor is model
    assert with_views(model) is model
    with pytest.raises(InputError, match="expected a window as well"):
        with_views(model, stride=3)


# -- bad input, nothing lost -----------------------------------------------------------------------------------------


def test_results_do_not_go_among_the_frames(tmp_path: Path) -> None:
    """The next job would take the overlay video there for one of its sources."""
    home = pictures(tmp_path / "home", 3)
    before = sorted(home.iterdir())
    for source in (home, str(home / "*.png"), [home / "00000000.png", home / "00000001.png"], open_source(home)):
        with pytest.raises(InputError, match="home: expected a folder for results alone, came one whose files are"):
            predict(Remember(), source, home)
    for earlier in (False, True):  # label maps would lie among, or replace, the frames of one folder further in
        if earlier:
            Remember().label_space.save(tmp_path / "labels.json")
        with pytest.raises(InputError, match="expected a folder for results alone"):
            predict(Remember(), home, tmp_path)
    assert sorted(home.iterdir()) == before
    (tmp_path / "files").mkdir()
    with VideoWriter(tmp_path / "files" / "one.mp4", (32, 48), Fraction(10)) as writer:
        writer.write(video(1)[0].image)
    with pytest.raises(InputError, match="files: expected a folder for results alone"):
        predict(Remember(), str(tmp_path / "files" / "*.mp4"), tmp_path / "files")
    assert not predict(Remember(), tmp_path / "files" / "one.mp4", tmp_path / "files").failed  # a file names no folder


def test_one_bad_video_does_not_stop_the_others(tmp_path: Path) -> None:
    good, broken = pictures(tmp_path / "good", 4), pictures(tmp_path / "broken", 4)
    (broken / "00000002.png").write_bytes(b"")
    (tmp_path / "zero.mp4").write_bytes(b"")
    with VideoWriter(tmp_path / "cut.mp4", (32, 48), Fraction(10)) as writer:
        for frame in video(30):
            writer.write(frame.image)
    whole = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    sources = [broken, tmp_path / "zero.mp4", tmp_path / "nothing.mp4", tmp_path / "cut.mp4", good]
    summary = predict(Remember(), sources, tmp_path / "out")
    by_name = {Path(video.name).name: video for video in summary.videos}
    assert {name: video.status for name, video in by_name.items()} == {
        "broken": "failed", "zero": "failed", "nothing.mp4": "failed", "cut": "failed", "good": "done",
    }  # fmt: skip
    assert all("expected" in video.error for video in summary.failed)
    assert by_name["broken"].frames == 2
    assert len(list((tmp_path / "out" / "broken").glob("*.png"))) == 2
    assert len(list(VideoReader(tmp_path / "out" / "broken.overlay.mp4"))) == 2
    assert "1 of 5 videos done" in str(summary)
    assert str(summary).count("failed after") == 4
    # with the picture mended, only what failed is done again
    Image.new("RGB", (48, 32)).save(broken / "00000002.png")
    again = predict(Remember(), [broken, good], tmp_path / "out", resume=True)
    assert [(video.name, video.labelled_now) for video in again.videos] == [("broken", 4), ("good", 0)]


def test_videos_of_one_name_are_told_apart_or_refused(tmp_path: Path) -> None:
    sources = [pictures(tmp_path / name / "clip", 2, seed) for seed, name in enumerate("ab")]
    summary = predict(Remember(), sources, tmp_path / "out")
    assert len({video.name for video in summary.videos}) == 2
    assert not summary.failed
    same = [ArraySource(video(2), "clip"), ArraySource(video(2), "clip")]
    summary = predict(Remember(), same, tmp_path / "same")
    assert [video.status for video in summary.videos] == ["done", "failed"]
    assert "different names" in summary.failed[0].error


def test_full_disk_stops_with_one_line_and_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = pictures(tmp_path / "street", 8), Image.Image.save

    def full(picture: Image.Image, path: Path, **options: object) -> None:
        if "00000004" in path.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(picture, path, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OutputError, match=r"No space left on device.*--resume") as caught:
        predict(Remember(), folder, tmp_path / "out", checkpoint_every=3)
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "out" / "street").iterdir())) == 4  # whole ones, and no half one
    monkeypatch.setattr(Image.Image, "save", real)
    assert predict(Remember(), folder, tmp_path / "out", checkpoint_every=3, resume=True).frames == 5
    predict(Remember(), folder, tmp_path / "whole", checkpoint_every=3)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_unwritable_folder_and_no_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OutputError, match=r"expected to write here, cannot.*choose another place$") as caught:
            predict(Remember(), [video(2)], out)
        assert "free the disk" not in str(caught.value)
    with pytest.raises(InputError, match="at least one of the outputs"):
        predict(Remember(), [video(2)], tmp_path / "out", labels=False, overlay=False, areas=False)
    assert not (tmp_path / "out").exists()


def test_nothing_to_label_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.mp4: .*found nothing of that name.*; and 1 more that cannot be opened"):
        predict(Remember(), [tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_frames_in_a_flat_list_are_no_videos(tmp_path: Path) -> None:
    flat = [frame.image.permute(1, 2, 0).numpy() for frame in video(3)]
    for single in (flat, flat[0], video(3)):
        with pytest.raises(InputError, match=r"nest the list of frames, .* or stack the frames into one array"):
            predict(Remember(), single, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for number, whole in enumerate(([flat], np.stack(flat))):
        assert predict(Remember(), whole, tmp_path / str(number)).frames == 3


def test_a_video_named_twice_is_labelled_once(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "clip", 2)
    summary = predict(Remember(), [folder, f"{tmp_path}/../{tmp_path.name}/clip"], tmp_path / "out")
    assert [(video.name, video.frames) for video in summary.videos] == [("clip", 2)]
    assert summary.notes == ["1 of the sources name a video again: each is labelled once"]


def test_what_is_no_model_and_no_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="came Conv2d without label_space and step"):
        predict(torch.nn.Conv2d(3, 2, 1), [video(2)], tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="predict: smoth is no option; did you mean smooth"):
        predict(Remember(), [video(2)], tmp_path / "out", smoth=0.3)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="stream: zzz is no option; expected one of short, window, "):
        next(stream(Remember(), video(2), zzz=1))  # type: ignore[call-arg]


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        predict(Remember(), ArraySource(video(4), "clip"), tmp_path, on_frame=interrupt_at(2, ZeroDivisionError()))
    assert json.loads((tmp_path / "summary.json").read_text())["videos"][0]["status"] == "stopped"


@pytest.mark.parametrize("views", [{}, {"flip": True}])
def test_a_model_in_training_mode_is_in_it_again_afterwards(tmp_path: Path, views: dict[str, bool]) -> None:
    model = Remember().train()
    predict(model, pictures(tmp_path / "street"), tmp_path / "out", overlay=False, **views)
    assert model.training
    with pytest.raises(InputError, match="device"):
        predict(model, tmp_path / "street", tmp_path / "out", device="abacus")
    assert model.training


def test_logits_of_other_classes_fail_with_words(tmp_path: Path) -> None:
    model = Remember(classes=5)
    model.label_space = LabelSpace(("road", "car"))
    summary = predict(model, pictures(tmp_path / "street"), tmp_path / "out", overlay=False)
    assert summary.videos[0].status == "failed"
    assert "expected logits [B, 2, h, w]" in str(summary.videos[0].error)
