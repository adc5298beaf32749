"""`everyframe reproduce`: what it lists, plans, refuses, and writes; nothing is trained."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from everyframe.cli.reproduce import main, parser
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.reproduce import reproduce as module
from everyframe.reproduce.grid import EXPERIMENTS


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("data") / "videos"
    for split in ("train", "val"):
        write(SyntheticVideos(1, frames=3, size=(24, 40)), root, "vspw", split)
    return f"vspw:{root}"


def test_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(EXPERIMENTS)


def test_dry_run_prints_commands_and_writes_nothing(
    videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["stt", "--data", videos, "--out", str(out), "--seeds", "2", "--steps", "7", "--dry-run"]) == 0
    text = capsys.readouterr().out
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("everyframe")]
    assert [words[1] for words in commands] == ["train", "evaluate", "bench"] * 4
    assert all(words[words.index("--steps") + 1] == "7" for words in commands if words[1] == "train")
    assert commands[2][commands[2].index("--size") + 1 :][:2] == ["24", "40"]  # of the data's own frames
    assert not out.exists()


def test_defaults_are_those_of_the_function() -> None:
    given = vars(parser().parse_args(["stt"]))
    named = inspect.signature(module.reproduce).parameters
    for name in ("scale", "seeds", "jobs", "out"):
        assert given[name] == named[name].default


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stt"], "stt: expected data, came none; add --data"),
        (["table3", "--data", "DATA"], "no experiment 'table3'"),
        (["stt", "--data", "DATA", "--stebs", "7"], "stt, without STT: --stebs is no option"),
        (["stt", "--data", "DATA", "--row", "SSLTM"], "--row is no option; did you mean --rows?"),
        (["stt", "--data", "vspw:/nowhere"], "nowhere"),
        (["stt", "--data", "DATA", "--jobs", "0"], "jobs: expected at least 1, came 0"),
        (["stt", "--data", "DATA", "--seed", "3"], "--seed is chosen for each cell"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], message: str, videos: str, tmp_path: Path) -> None:
    words = [videos if word == "DATA" else word for word in arguments]
    with pytest.raises(InputError, match=re.escape(message)) as error:
        main([*words, "--out", str(tmp_path / "out")])
    assert "\n" not in str(error.value)


def test_failed_cells_are_reported(
    videos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (sys.executable, "-c", "raise SystemExit('no room')")
    defaults = {**(inspect.getfullargspec(module.reproduce).kwonlydefaults or {}), "program": program}
    monkeypatch.setattr(module.reproduce, "__kwdefaults__", defaults)
    out = tmp_path / "out"
    assert main(["stt", "--data", videos, "--out", str(out), "--seeds", "1"]) == 1
    assert "0 of 2 cells" in capsys.readouterr().out
    assert "- with STT, seed 0: train ended with status 1: no room" in (out / "table.md").read_text()
    assert [row["label"] for row in json.loads((out / "table.json").read_text())["rows"]] == ["without STT", "with STT"]
    assert (out / "commands.sh").read_text().count("everyframe train ssltm-tiny") == 2
