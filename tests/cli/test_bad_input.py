"""What users give wrongly, through the command line: one clear line, a status of 1, finished outputs readable."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from everyframe.cli.__main__ import main
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.io.label_png import read_label
from everyframe.io.video import VideoWriter
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model

VIDEOS = SyntheticVideos(4, frames=6, size=(48, 64), prefix="v")
TRAIN = ["--steps", "1", "--validate_every", "1", "--data.crop", "[48, 64]", "--data.workers", "0"]


def reported(arguments: list[str], capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    """Run a command that must fail; return its message, which is one line without a traceback."""
    capsys.readouterr()
    assert main(arguments) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("everyframe ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    create_model("fcn-tiny", VIDEOS.label_space).save_pretrained(str(folder))
    return str(folder)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    with VideoWriter(tmp_path / "good.mp4", (48, 64), 10) as video:
        for frame in VIDEOS[0]:
            video.write(frame.image)
    return tmp_path / "good.mp4"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write(VIDEOS[:2], root, "frames", "train")
    write(VIDEOS[2:], root, "frames", "val")
    return root


# -- videos and pictures to label -----------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    """The first half of a longer video."""
    with VideoWriter(path, (48, 64), 10) as video:
        for index in range(300):
            video.write(VIDEOS[0].image(index % 6))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        samples = np.zeros((1, 1024), np.float32)
        for i in range(4):
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frames(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height = 64, 48
        container.start_encoding()


BAD_VIDEOS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated": ("bad.mkv", truncated, "missing from its end; the decoded frames are kept"),
    "truncated before its index": ("bad.mp4", truncated, "cut off"),
    "zero bytes": ("bad.mp4", lambda path: path.touch(), "0 bytes"),
    "sound only": ("bad.mp4", sound_only, "video stream, it holds only audio"),
    "zero length": ("bad.mp4", no_frames, "video stream, it holds none of any kind"),
    "text": ("bad.mp4", lambda path: path.write_text("not a video\n" * 50), "FFmpeg cannot read"),
}
"""File name, what makes it, what the line must say."""


@pytest.mark.parametrize("kind", BAD_VIDEOS)
def test_a_bad_video_fails_alone(
    kind: str, tmp_path: Path, model: str, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, make, words = BAD_VIDEOS[kind]
    bad, out = tmp_path / name, tmp_path / "out"
    make(bad)
    assert main(["predict", str(bad), str(good), "--model", model, "--out", str(out)]) == 1
    printed = capsys.readouterr()
    (line,) = [line for line in printed.out.splitlines() if line.startswith("failed after")]
    assert str(bad) in line
    assert words in line
    assert "1 of 2 videos done" in printed.out
    record = {video["name"]: video for video in json.loads((out / "summary.json").read_text())["videos"]}
    assert record["good"]["status"] == "done"
    assert record["bad"]["status"] == "failed"
    assert len(list((out / "good").glob("*.png"))) == 6
    for path in out.rglob("*.png"):  # also what came of the bad video before it broke
        assert read_label(path, VIDEOS.label_space).shape == (48, 64)
    finished = len(list((out / "bad").glob("*.png"))) if (out / "bad").exists() else 0
    assert finished == record["bad"]["frames"]
    assert finished > 0 if kind == "truncated" else finished == 0


def test_a_truncated_picture_stops_its_folder(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shot"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(VIDEOS[0].image(i).permute(1, 2, 0).numpy()).save(folder / f"{i}.jpg")
    (folder / "1.jpg").write_bytes((folder / "1.jpg").read_bytes()[:300])
    assert main(["predict", str(folder), "--model", model, "--out", str(tmp_path / "out")]) == 1
    assert "1.jpg: expected a picture" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out" / "shot").glob("*.png")] == ["0.png"]


def test_nothing_there(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(tmp_path / "no.mp4"), "--model", model, "--out", str(tmp_path / "out")]) == 1
    assert "no.mp4" in "".join(capsys.readouterr())


# -- the output folder ----------------------------------------------------------------------------------------------


def test_an_output_folder_that_cannot_be_made(
    tmp_path: Path, model: str, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    line = reported(["predict", str(good), "--model", model, "--out", str(tmp_path / "file" / "out")], capsys)
    assert str(tmp_path / "file") in line


def test_a_full_disk(
    tmp_path: Path, model: str, good: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = Image.Image.save, []

    def full(picture: Image.Image, *arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(picture, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "save", full)
    out = tmp_path / "out"
    assert "No space left" in reported(["predict", str(good), "--model", model, "--out", str(out)], capsys)
    monkeypatch.undo()
    finished = sorted((out / "good").glob("*.png"))
    assert len(finished) == 3
    for path in finished:
        assert read_label(path, VIDEOS.label_space).shape == (48, 64)


# -- masks and class tables -----------------------------------------------------------------------------------------


def mask_of(data: Path) -> Path:
    return sorted((data / "masks").rglob("*.png"))[0]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def resized(path: Path) -> None:
    Image.open(path).resize((32, 24), Image.Resampling.NEAREST).save(path)


def foreign(path: Path) -> None:
    Image.fromarray(np.full((48, 64), 77, np.uint8)).save(path)


BAD_MASKS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated": (cut, ("expected a picture",)),
    "wrong size": (resized, ("64x48", "32x24")),
    "unknown id": (foreign, ("77", "classes")),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_found_before_and_in_training(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = BAD_MASKS[kind]
    spoil(mask_of(data))
    assert main(["data", "check", str(data)]) == 1
    printed = capsys.readouterr().out
    assert "training would be wrong" in printed
    assert mask_of(data).name in printed
    out = ["--out", str(tmp_path / "run"), "--data.per", "frame", "--data.batch_size", "12"]  # every mask is read
    line = reported(["train", "fcn-tiny", "--data", str(data), *out, *TRAIN], capsys)
    assert str(mask_of(data)) in line
    assert all(word in line for word in words), line


def test_an_empty_mask_leaves_its_frame_unlabelled_and_is_reported(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask_of(data).write_bytes(b"")
    main(["data", "check", str(data)])
    printed = capsys.readouterr().out
    assert mask_of(data).name in printed
    assert "0 bytes" in printed or "empty" in printed


def test_no_class_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "classes.yaml").unlink()
    line = reported(["train", "fcn-tiny", "--data", str(data), "--out", str(tmp_path / "run"), *TRAIN], capsys)
    assert "classes.yaml" in line
    assert main(["data", "check", str(data)]) == 1


# -- models and recipes ---------------------------------------------------------------------------------------------


def test_a_model_of_other_classes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    create_model("fcn-tiny", LabelSpace(("wall", "door"))).save_pretrained(str(other))
    line = reported(["evaluate", "--model", str(other), "--data", str(data), "--split", "val"], capsys)
    assert "wall" in line
    assert "sky" in line


def test_weights_of_other_classes(tmp_path: Path, model: str, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mixed"
    create_model("fcn-tiny", LabelSpace(("wall", "door"))).save_pretrained(str(folder))
    shutil.copy(Path(model) / "model.safetensors", folder)
    line = reported(["predict", str(good), "--model", str(folder), "--out", str(tmp_path / "out")], capsys)
    assert "classifier" in line


def test_no_model(tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = reported(["predict", str(good), "--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")], capsys)
    assert "none" in line


@pytest.mark.parametrize(("key", "meant"), [("--optimizer.lrr", "optimizer.lr"), ("--data.crpo", "data.crop")])
def test_a_typo_in_an_override(
    key: str, meant: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert meant in reported(["train", "fcn-tiny", "--data", str(data), *out, key, "1"], capsys)


def test_a_typo_in_a_recipe(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: {name: fcn-tiny}\noptimiser: {lr: 0.1}\n")
    line = reported(["train", str(recipe), "--data", str(data), "--out", str(tmp_path / "run")], capsys)
    assert "optimiser" in line
    assert "optimizer" in line


def test_demo_removes_nothing_but_an_earlier_demo(tmp_path: Path) -> None:
    """A project with a folder `data` is no demo."""
    from everyframe.cli.demo import main as demo

    (tmp_path / "data").mkdir()
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"came one with thesis\.tex; give another --out"):
        demo(["--out", str(tmp_path)])
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    with pytest.raises(InputError, match=r"came one with thesis\.tex"):
        demo(["--out", str(tmp_path / "thesis.tex")])
