from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from PIL import Image

from everyframe.cli import bench
from everyframe.cli import predict as command
from everyframe.cli.__main__ import main
from everyframe.inference.views import with_views
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model
from everyframe.predict import predict


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    create_model("fcn-gru-tiny", LabelSpace(("sky", "road", "car"))).save_pretrained(str(folder))
    return str(folder)


def pictures(folder: Path, count: int = 3) -> str:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.linear_gradient("L").resize((40, 32)).rotate(30 * i).convert("RGB").save(folder / f"frame{i}.jpg")
    return str(folder)


def test_defaults_are_the_librarys() -> None:
    options = vars(command.parser().parse_args(["x", "--model", "m", "--out", "o"]))
    for function in (predict, with_views):
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                assert options[name] == parameter.default, name
    taken = {*inspect.signature(predict).parameters, *inspect.signature(with_views).parameters} - {"views"}
    assert set(options) == taken | {"quiet"}


def test_labels_every_frame(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = pictures(tmp_path / "shot"), tmp_path / "out"
    assert main(["predict", source, "--model", model, "--out", str(out), "--confidence", "--no-overlay"]) == 0
    printed = capsys.readouterr()
    assert "1 of 1 videos done; 3 frames" in printed.out
    assert "shot: frame 1 of 3" in printed.err
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert names == [
        "labels.json", "shot.areas.csv",
        "shot.confidence/frame0.png", "shot.confidence/frame1.png", "shot.confidence/frame2.png",
        "shot/frame0.png", "shot/frame1.png", "shot/frame2.png", "summary.json",
    ]  # fmt: skip
    assert LabelSpace.load(out / "labels.json").names == ("sky", "road", "car")
    again = ["predict", source, "--model", model, "--out", str(out), "--resume"]
    assert main([*again, "--confidence", "--no-overlay"]) == 0
    assert "1 of 1 videos done, 1 of them before; 0 frames" in capsys.readouterr().out
    assert main([*again, "--flip"]) == 1
    assert "settings of the interrupted job" in capsys.readouterr().err


def test_views_reach_the_library(tmp_path: Path, model: str) -> None:
    source, out = pictures(tmp_path / "shot", 1), tmp_path / "out"
    views = ["--window", "32", "32", "--stride", "8", "--flip", "--scales", "1", "1.5", "--dtype", "bfloat16"]
    views += ["--smooth", "0.4"]
    assert main(["predict", source, "--model", model, "--out", str(out), "--quiet", *views]) == 0
    settings = json.loads((out / "summary.json").read_text())["settings"]
    assert settings["window"] == [32, 32]
    assert settings["stride"] == 8
    assert settings["flip"] is True
    assert settings["scales"] == [1.0, 1.5]
    assert settings["dtype"] == "bfloat16"
    assert settings["smooth"] == 0.4
    assert "offline" not in settings


def test_what_failed_is_listed_and_the_exit_status_is_1(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, out = pictures(tmp_path / "good", 2), tmp_path / "out"
    (tmp_path / "zero.mp4").write_bytes(b"")
    sources = [str(tmp_path / "zero.mp4"), str(tmp_path / "missing.mp4"), good]
    assert main(["predict", *sources, "--model", model, "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("failed after 0 frames") == 2
    assert "1 of 3 videos done" in printed
    assert len(list((out / "good").glob("*.png"))) == 2
    assert main(["predict", *sources, "--model", model, "--out", str(out), "--quiet"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 2


def test_stopped_by_hand_tells_how_to_go_on(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(name: str, frames: int, length: int | None) -> None:
        raise KeyboardInterrupt

    source, out = pictures(tmp_path / "shot"), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(command, "_line", interrupt)
        assert main(["predict", source, "--model", model, "--out", str(out)]) == 130
    assert "--resume" in capsys.readouterr().err
    assert main(["predict", source, "--model", model, "--out", str(out), "--resume"]) == 0


@pytest.mark.parametrize("case", ["model", "folder", "window", "device", "outputs", "offline", "prior"])
def test_one_clear_line(tmp_path: Path, model: str, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = pictures(tmp_path / "shot", 1), str(tmp_path / "out")
    (tmp_path / "file").write_text("")
    arguments = {
        "model": ["--model", str(tmp_path / "none"), "--out", out],
        "folder": ["--model", model, "--out", str(tmp_path / "file")],
        "window": ["--model", model, "--out", out, "--window", "8", "--stride", "9"],
        "device": ["--model", model, "--out", out, "--device", "abacus"],
        "offline": ["--model", model, "--out", out, "--offline"],
        "prior": ["--model", model, "--out", out, "--logit-adjustment", "1"],
        "outputs": ["--model", model, "--out", out, "--no-labels", "--no-overlay", "--no-areas"],
    }[case]
    assert main(["predict", source, *arguments]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "expected" in lines[0]


def test_bench_finds_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--model", "fcn-tiny", "--classes", "5", "--size", "32", "48", "--frames", "6", "--memory-frames", "20"]
    assert main(["bench", "predict", *small, "--json", str(tmp_path / "numbers.json")]) == 0
    assert "outside the model" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert 0 < numbers["share"]["outside_the_model"] < 1
    assert list(numbers["memory"]["resident_mib"]) == [str(i) for i in range(1, 21)]
    assert main(["bench", "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in bench.BENCHES)
    assert main(["bench", "speed"]) == 2
