"""Interrupted predictions: the files of a resumed job are those of one that never stopped."""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from inference.predictors import Remember, video
from PIL import Image
from prediction_jobs import FRAMES, Counted, files, interrupt_at, pictures

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.inference.job import Job
from everyframe.inference.state_file import snapshot
from everyframe.inference.stream import Stream
from everyframe.inference.summary import VideoResult
from everyframe.io.sources import ArraySource, CameraSource
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model
from everyframe.predict import JobStopped, predict


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
    predict(Remember(), [long, pictures(tmp_path / "other", 2)], tmp_path / "out", confidence=True)
    (tmp_path / "out" / "other" / "00000009.png").write_bytes(b"not of a job")
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
    with pytest.raises(JobStopped) as stopped:
        predict(Remember(), CameraSource(0), tmp_path, on_frame=interrupt_at(5))
    assert not stopped.value.goes_on
    before = files(tmp_path)
    summary = predict(Remember(), CameraSource(0), tmp_path, resume=True)
    assert "live" in summary.failed[0].error
    assert files(tmp_path) == before


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


def test_other_flow_weights_are_other_settings(tmp_path: Path) -> None:
    """By what is in the file, not by its name. (The file is read at the first pair of frames, which fails here.)"""
    folder, weights = pictures(tmp_path / "street", 3), tmp_path / "raft.pth"
    options = {"overlay": False, "smooth": 0.4, "smooth_flow": f"raft:{weights}"}
    weights.write_bytes(b"one")
    assert predict(Remember(), folder, tmp_path / "out", **options).failed
    assert predict(Remember(), folder, tmp_path / "out", resume=True, **options).failed
    weights.write_bytes(b"two")
    with pytest.raises(InputError, match=r"came others .*smooth_weights"):
        predict(Remember(), folder, tmp_path / "out", resume=True, **options)


def test_summary_of_thousands_of_videos_is_not_written_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(Job, "save", lambda self: written.append(len(self.summary.videos)))
    job = Job(tmp_path, {})
    with job:
        for spent in (0.0, 5.0):  # seconds that writing has taken so far
            job._spent = spent
            with job.video(f"video {spent}", "source"):
                pass
    assert written == [0, 1, 1, 2], "at the start, around the first video, and at the end"


def test_frames_of_one_name_are_refused(tmp_path: Path) -> None:
    frames = [replace(frame, name="same") for frame in video(3)]
    summary = predict(Remember(), ArraySource(frames, "shot"), tmp_path)
    assert "expected frames of different names, came 'same' twice" in summary.failed[0].error


def test_times_that_fall_fail_one_video_alone(tmp_path: Path) -> None:
    frames = [replace(frame, time=time) for frame, time in zip(video(3), (0.0, 1.0, 0.5), strict=True)]
    good = ArraySource(video(3), "good")
    summary = predict(Remember(), [ArraySource(frames, "bad"), good], tmp_path)
    assert [(v.name, v.status) for v in summary.videos] == [("bad", "failed"), ("good", "done")]
    assert "expected frame times that rise from 0" in summary.failed[0].error
