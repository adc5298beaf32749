from __future__ import annotations

import csv
import errno
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inference.predictors import Remember, video
from PIL import Image

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.inference import outputs
from everyframe.inference.job import Job
from everyframe.inference.outputs import OutputError
from everyframe.inference.state_file import snapshot
from everyframe.inference.stream import Stream
from everyframe.inference.summary import VideoResult
from everyframe.inference.tta import Flip, Scales
from everyframe.inference.window import Window
from everyframe.io.label_png import read_label, read_raw
from everyframe.io.sources import ArraySource, CameraSource, open_source
from everyframe.io.video import VideoReader, VideoWriter
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model
from everyframe.predict import predict, stream, with_views

FRAMES = 23


class Counted(Remember):
    """Counts its steps, and holds raw ids that differ from train ids."""

    def __init__(self) -> None:
        super().__init__()
        self.label_space = LabelSpace(("a", "b", "c", "d"), raw_to_train={0: 255, 10: 0, 20: 1, 30: 2, 40: 3})
        self.steps = 0

    def step(self, frame: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        self.steps += 1
        return super().step(frame, state)


def pictures(folder: Path, frames: int = FRAMES, seed: int = 0, size: tuple[int, int] = (32, 48)) -> Path:
    folder.mkdir(parents=True)
    for frame in video(frames, size, seed):
        Image.fromarray(frame.image.permute(1, 2, 0).numpy()).save(folder / f"{frame.name}.png")
    return folder


def files(out: Path) -> dict[str, bytes]:
    """All files but the two that hold times: the summary, and the videos' headers."""
    found = {str(p.relative_to(out)): p for p in sorted(out.rglob("*")) if p.is_file() and p.name != "summary.json"}
    return {
        name: b"".join(frame.image.numpy().tobytes() for frame in VideoReader(path))
        if path.suffix == ".mp4"
        else path.read_bytes()
        for name, path in found.items()
    }


def interrupt_at(frame: int, error: BaseException | None = None) -> Callable[[str, int, int | None], None]:
    def on_frame(name: str, frames: int, length: int | None) -> None:
        if frames == frame:
            raise error or KeyboardInterrupt

    return on_frame


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


# -- interrupted jobs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 10, 17, FRAMES])
def test_resume_gives_the_same_files(tmp_path: Path, at: int) -> None:
    sources = [pictures(tmp_path / "one", 5, 1), pictures(tmp_path / "two"), pictures(tmp_path / "three", 4, 2)]
    options = {"confidence": True, "checkpoint_every": 5}
    predict(Counted(), sources, tmp_path / "whole", **options)

    def on_frame(name: str, frames: int, length: int | None) -> None:
        if (name, frames) == ("two", at):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(Counted(), sources, tmp_path / "out", on_frame=on_frame, **options)
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [video["status"] for video in record["videos"]] == ["done", "stopped"]
    assert record["videos"][1]["frames"] == at
    assert all(Image.open(path).size == (48, 32) for path in (tmp_path / "out").rglob("*.png"))

    model = Counted()
    summary = predict(model, sources, tmp_path / "out", resume=True, **options)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert [video.labelled_now for video in summary.videos] == [0, FRAMES - at // 5 * 5, 4]
    assert model.steps == FRAMES - at // 5 * 5 + 4
    assert [video.frames for video in summary.videos] == [5, FRAMES, 4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_resume_of_a_recurrent_network(tmp_path: Path, dtype: str) -> None:
    model = create_model("fcn-gru-tiny", LabelSpace(tuple("abcde")))
    folder, options = pictures(tmp_path / "street", 8), {"dtype": dtype, "checkpoint_every": 3, "confidence": True}
    predict(model, folder, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        predict(model, folder, tmp_path / "out", on_frame=interrupt_at(7), **options)
    assert predict(model, folder, tmp_path / "out", resume=True, **options).frames == 2
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_resume_through_wrappers(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "street", 8)
    options = {"window": (32, 32), "stride": 16, "flip": True, "scales": (0.5, 1.0), "checkpoint_every": 2}
    predict(Remember(), folder, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        predict(Remember(), folder, tmp_path / "out", on_frame=interrupt_at(5), **options)
    assert predict(Remember(), folder, tmp_path / "out", resume=True, **options).frames == 4
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_resume_starts_a_video_over_when_its_files_or_state_cannot_be_used(tmp_path: Path) -> None:
    class Bag(Counted):
        """Keeps its state in something that cannot be saved."""

        def step(self, frame: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            logits, state = super().step(frame, state[0] if state else None)
            return logits, deque([state])

    folder = pictures(tmp_path / "street", 9)
    predict(Counted(), folder, tmp_path / "whole", checkpoint_every=3)

    def damage(out: Path) -> None:
        (out / "street" / "00000001.png").write_bytes(b"")

    def lose(out: Path) -> None:
        (out / "street" / "00000002.png").unlink()

    def spoil(out: Path) -> None:
        (out / ".resume" / "street.safetensors").write_bytes(b"?")

    for kind, hurt in ((Counted, damage), (Counted, lose), (Counted, spoil), (Bag, lambda out: None)):
        out = tmp_path / f"{kind.__name__}-{hurt.__name__}"
        with pytest.raises(KeyboardInterrupt):
            predict(kind(), folder, out, checkpoint_every=3, on_frame=interrupt_at(7))
        hurt(out)
        assert predict(kind(), folder, out, checkpoint_every=3, resume=True).frames == 9
        assert files(out) == files(tmp_path / "whole")


def test_resume_of_nothing_starts(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "street", 3)
    assert predict(Remember(), folder, tmp_path / "out", resume=True).frames == 3
    assert predict(Remember(), folder, tmp_path / "out", resume=True).frames == 0
    assert predict(Remember(), folder, tmp_path / "out").frames == 3  # without resume: all anew


def test_a_new_job_leaves_no_label_map_of_the_one_it_replaces(tmp_path: Path) -> None:
    long, short = pictures(tmp_path / "long" / "street", 5), pictures(tmp_path / "short" / "street", 3)
    (tmp_path / "out" / "other").mkdir(parents=True)
    (tmp_path / "out" / "other" / "00000009.png").write_bytes(b"not of a job")
    predict(Remember(), [long, pictures(tmp_path / "other", 2)], tmp_path / "out", confidence=True)
    predict(Remember(), short, tmp_path / "out", confidence=True)
    for folder in ("street", "street.confidence"):
        assert len(list((tmp_path / "out" / folder).glob("*.png"))) == 3
    assert len(list((tmp_path / "out" / "other").glob("*.png"))) == 3, "not labelled anew: stays as it was"


def test_a_killed_job_says_what_was_running(tmp_path: Path) -> None:
    def look(name: str, frames: int, length: int | None) -> None:
        record = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert [(video["name"], video["status"]) for video in record["videos"]] == [("street", "running")]

    predict(Remember(), pictures(tmp_path / "street", 2), tmp_path / "out", on_frame=look)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flip": True}, "flip false there, true now"),
        ({"dtype": "bfloat16"}, 'dtype "float32" there, "bfloat16" now'),
        ({"areas": False}, 'outputs ["labels", "areas"] there, ["labels"] now'),
        ({"window": 9}, "window null there, 9 now"),
    ],
)
def test_resume_with_other_settings_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    folder = pictures(tmp_path / "street", 3)
    predict(Remember(), folder, tmp_path / "out", overlay=False)
    expected = f"expected the settings of the interrupted job, came others ({words});"
    with pytest.raises(InputError, match=re.escape(expected)):
        predict(Remember(), folder, tmp_path / "out", overlay=False, resume=True, **options)


def test_resume_with_another_model_or_source_is_refused(tmp_path: Path) -> None:
    folder, other = pictures(tmp_path / "street", 3), Remember()
    predict(Remember(), folder, tmp_path / "out")
    with torch.no_grad():
        other.map.bias[0] += 1e-6
    with pytest.raises(InputError, match="model"):
        predict(other, folder, tmp_path / "out", resume=True)
    moved = pictures(tmp_path / "elsewhere" / "street", 3)
    summary = predict(Remember(), moved, tmp_path / "out", resume=True)
    assert "resume with the same sources" in summary.failed[0].error
    summary = predict(Remember(), folder, tmp_path / "out", resume=True)
    assert [(video.status, video.labelled_now) for video in summary.videos] == [("done", 0)], "the right one is known"
    (tmp_path / "out" / "summary.json").write_text("{")
    with pytest.raises(InputError, match="expected the record of an earlier job"):
        predict(Remember(), folder, tmp_path / "out", resume=True)


def test_live_sources_cannot_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CameraSource, "__iter__", lambda self: iter(video(9)))
    with pytest.raises(KeyboardInterrupt):
        predict(Remember(), CameraSource(0), tmp_path, on_frame=interrupt_at(5))
    before = files(tmp_path)
    summary = predict(Remember(), CameraSource(0), tmp_path, resume=True)
    assert "live" in summary.failed[0].error
    assert files(tmp_path) == before


# -- bad input, nothing lost -----------------------------------------------------------------------------------------


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
    folder, real = pictures(tmp_path / "street", 8), outputs.write_label

    def full(path: Path, labels: np.ndarray, space: LabelSpace) -> None:
        if "00000004" in path.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, labels, space)

    monkeypatch.setattr(outputs, "write_label", full)
    with pytest.raises(OutputError, match=r"No space left on device.*--resume") as caught:
        predict(Remember(), folder, tmp_path / "out", checkpoint_every=3)
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "out" / "street").iterdir())) == 4  # whole ones, and no half one
    monkeypatch.setattr(outputs, "write_label", real)
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
    with pytest.raises(InputError, match="stream: zzz is no option; expected one of window, "):
        next(stream(Remember(), video(2), zzz=1))  # type: ignore[call-arg]


def test_a_record_every_no_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every 1 frame or more, came 0"):
        predict(Counted(), pictures(tmp_path / "v"), tmp_path / "out", checkpoint_every=0)


def test_the_state_of_another_video_is_not_taken(tmp_path: Path) -> None:
    """ "a/b" and "a__b" keep their state under one name: only its own video goes on from it."""
    model = Counted()
    job, runner = Job(tmp_path, {}), Stream(model, "cpu")
    frame = Frame(torch.zeros(3, 32, 48, dtype=torch.uint8), 0, 0.0, "0")
    runner.logits(frame)
    job.checkpoint(VideoResult("a/b", "one"), snapshot(runner.state), 1, (32, 48))
    assert job.restore(VideoResult("a/b", "one"), runner) == 1
    assert runner.state is not None
    assert job.restore(VideoResult("a__b", "other"), runner) == 0
    assert runner.state is None


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        predict(Remember(), ArraySource(video(4), "clip"), tmp_path, on_frame=interrupt_at(2, ZeroDivisionError()))
    assert json.loads((tmp_path / "summary.json").read_text())["videos"][0]["status"] == "stopped"
