"""Ctrl-C and SIGTERM while a command runs: what it says, its exit status, and what lies on disk."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import everyframe.io.label_png as label_png
from everyframe.cli import predict as predict_command
from everyframe.cli.__main__ import main
from everyframe.cli.stopped import Told
from everyframe.io.label_png import read_label
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("sky", "road", "car"))
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    create_model("fcn-gru-tiny", SPACE).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two videos of 3 frames, all labelled."""
    root = tmp_path / "data"
    for video in ("a", "b"):
        for kind in ("videos", "masks"):
            (root / kind / video).mkdir(parents=True)
        for i in range(3):
            Image.linear_gradient("L").resize((40, 32)).convert("RGB").save(root / "videos" / video / f"{i}.png")
            Image.fromarray(np.full((32, 40), i, np.uint8)).save(root / "masks" / video / f"{i}.png")
    (root / "classes.yaml").write_text("0: sky\n1: road\n2: car\n")
    (root / "val.txt").write_text("a\nb\n")
    return root


@pytest.mark.parametrize("number", STATUS)
def test_predict_says_what_is_done_and_what_is_not(
    number: signal.Signals, tmp_path: Path, data: Path, model: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def stop(name: str, frames: int, length: int | None) -> None:
        if (name, frames) == ("b", 2):
            signal.raise_signal(number)

    (data / "videos" / "c").mkdir()
    Image.new("RGB", (40, 32)).save(data / "videos" / "c" / "0.png")
    command = ["predict", str(data / "videos"), "--model", model, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patched:
        patched.setattr(predict_command, "_line", stop)
        assert main(command) == STATUS[number]
    said = capsys.readouterr().err.strip()
    assert said == (
        f"everyframe predict: stopped by {number.name}, 1 of 3 videos done, b stopped after 2 frames, 1 not begun (c); "
        f"what is done lies in {tmp_path / 'out'}, go on with the same command and --resume"
    )
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert record["waiting"] == ["c"]
    assert len(list((tmp_path / "out" / "b").iterdir())) == 2
    assert main([*command, "--resume"]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["waiting"] == []


def stop_at(monkeypatch: pytest.MonkeyPatch, frame: int, number: signal.Signals) -> None:
    """Let the signal come while the label map of a frame is half written."""
    real: Callable[..., None] = Image.Image.save
    count = 0

    def save(picture: Image.Image, path: Path, **options: object) -> None:
        nonlocal count
        count += 1
        if count == frame:
            Path(path).write_bytes(b"\x89PNG")
            signal.raise_signal(number)
        real(picture, path, **options)

    monkeypatch.setattr(label_png.Image.Image, "save", save)


@pytest.mark.parametrize("number", STATUS)
def test_evaluate_leaves_whole_label_maps_and_no_results(
    number: signal.Signals, tmp_path: Path, data: Path, model: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    saved, out = tmp_path / "saved", tmp_path / "report"
    stop_at(monkeypatch, 5, number)
    command = ["evaluate", "--model", model, "--data", str(data), "--save", str(saved), "--out", str(out)]
    assert main([*command, "--flow", "none"]) == STATUS[number]
    said = capsys.readouterr()
    assert said.err.strip() == (
        f"everyframe evaluate: stopped by {number.name}, after 4 of 6 frames, in video b; no results were written, "
        f"they need every frame; the label maps so far are whole, in {saved}"
    )
    assert said.out == ""
    maps = sorted(path for path in saved.rglob("*") if path.is_file() and path.name != "labels.json")
    assert [str(path.relative_to(saved)) for path in maps] == ["a/0.png", "a/1.png", "a/2.png", "b/0.png"]
    assert all(read_label(path, SPACE).shape == (32, 40) for path in maps)
    assert list(out.iterdir()) == []


def test_ensemble_run_leaves_whole_label_maps_and_no_results(
    tmp_path: Path, data: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 3, signal.SIGTERM)
    command = ["ensemble", "run", model, model, "--data", str(data), "--out", str(tmp_path / "both"), "--quiet"]
    assert main(command) == 143
    assert capsys.readouterr().err.strip() == (
        f"everyframe ensemble: stopped by SIGTERM, after 2 frames, at 2 of 3 of video a; the label maps so far are "
        f"whole, in {tmp_path / 'both'}; results.json needs every frame and was not written"
    )
    found = sorted(str(path.relative_to(tmp_path / "both")) for path in (tmp_path / "both").rglob("*.*"))
    assert found == ["a/0.png", "a/1.png", "labels.json"]


def test_before_the_first_frame_there_is_nothing_to_count() -> None:
    told = Told("after {frames} frames, {done} of {total} of {video}")
    assert str(told) == "before the first frame"
    told("{odd} name", 1, None)
    assert str(told) == "after 1 frames, 1 of None of {odd} name"
