from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.cli.__main__ import main
from everyframe.cli.evaluate import _parser
from everyframe.evaluate import evaluate
from everyframe.metrics.results import Results


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One video of three frames, half of the last one predicted wrong: data/ in VSPW layout, pred/ in raw ids."""
    for i in range(3):
        truth = np.ones((24, 32), np.uint8)
        guess = truth.copy()
        if i == 2:
            guess[:12] = 2
        for path, pixels in (("data/data/v/origin", truth * 90), ("data/data/v/mask", truth), ("pred/v", guess)):
            (tmp_path / path).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / path / f"{i}.png")
    (tmp_path / "data" / "val.txt").write_text("v\n")
    (tmp_path / "data" / "classes.json").write_text('{"0": "void", "1": "road", "2": "car"}')
    return tmp_path


def arguments(root: Path, *more: str) -> list[str]:
    return ["evaluate", "--pred", str(root / "pred"), "--data", f"vspw:{root / 'data'}", *more]


def test_tables_name_the_variant_of_every_number(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(root)) == 0
    text = capsys.readouterr().out
    assert "pred on data, val" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["mIoU", "in-ground-truth", "83.33", "1", "of", "1"] in lines, "5 of 6 half frames of road"
    assert ["road", "83.33", "83.33", "100.00", "2,304"] in lines
    assert any(line[:3] == ["v", "3", "3"] and "83.33" in line for line in lines)
    for variant in ("union>0", "correct", "vspw-script", "along flow"):
        assert variant in text


def test_out_holds_the_json_that_json_prints(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(root, "--json", "--flow", "none", "--out", str(root / "report"))) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((root / "report" / "results.json").read_text())
    assert (root / "report" / "report.html").stat().st_size > 10_000
    assert Results.from_dict(printed).score("flicker").variant == "same pixel"


def test_defaults_are_those_of_the_function() -> None:
    parsed = vars(_parser(evaluate).parse_args(["--pred", "p", "--data", "d"]))
    for name, parameter in inspect.signature(evaluate).parameters.items():
        if name in parsed and name not in {"pred", "data"}:
            assert parsed[name] == parameter.default, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--split", "test"], "test"),
        (["--data", "vspw:nowhere"], "nowhere"),
        (["--data", "vspv:x"], "vspv"),
        (["--pred", "nowhere"], "expected a folder of predictions"),
        (["--flow", "farneback"], "expected dis, raft"),
        (["--flip"], "flip belongs to a model"),
        (["--windows", "0"], "window lengths of 1 frame or more"),
    ],
)
def test_bad_input_is_one_line_and_status_1(
    root: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    assert main(arguments(root, *change)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_unwritable_out_is_refused_before_the_work(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "file").write_text("")
    assert main(arguments(root, "--out", str(root / "file" / "report"))) == 1
    assert "expected to write here, cannot" in capsys.readouterr().err


def test_missing_predictions_need_a_word(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "pred" / "v" / "0.png").unlink()
    assert main(arguments(root)) == 1
    assert "1 are missing: v (0)" in capsys.readouterr().err
    assert main(arguments(root, "--allow-missing")) == 0
    assert "1 of 3 labelled frames have no prediction and are left out" in capsys.readouterr().out
