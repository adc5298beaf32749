"""Files are whole or not there, whatever ends the writing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everyframe.files import copy_whole, whole_file, write_whole
from everyframe.io.label_png import read_raw, write_label
from everyframe.labels import LabelSpace


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ZeroDivisionError])
def test_what_breaks_off_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "earlier")

    def write() -> None:
        with whole_file(path) as part:
            part.write_text("half of the n")
            assert path.read_text() == "earlier"
            raise error

    with pytest.raises(error):
        write()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "earlier")]


def test_the_name_meanwhile_is_hidden_and_ends_as_asked(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.mp4", ".part.mp4") as part:
        part.write_bytes(b"x")
        assert part.name == ".a.mp4.part.mp4"
        assert not (tmp_path / "a.mp4").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_two_processes_that_write_the_same_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text = Path.write_text

    def while_another_writes(file: Path, text: str, **options: str) -> int:
        written = write_text(file, text, **options)
        if text == "ours":
            monkeypatch.setattr(os, "getpid", lambda: 1)
            write_whole(tmp_path / "a", "theirs")
        return written

    monkeypatch.setattr(Path, "write_text", while_another_writes)
    write_whole(tmp_path / "a", "ours")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "ours")]


def test_a_copied_folder_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "run", tmp_path / "cell" / "run"
    for name in ("outcome.json", "model/model.safetensors"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)

    def killed(_: Path, to: Path) -> None:
        to.mkdir()
        (to / "outcome.json").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", killed)
        with pytest.raises(KeyboardInterrupt):
            copy_whole(source, target)
    assert not target.exists()
    for _ in range(2):
        copy_whole(source, target)
        assert sorted(str(file.relative_to(target)) for file in target.rglob("*.*")) == [
            "model/model.safetensors", "outcome.json",
        ]  # fmt: skip
        (target / "of-another-run.csv").touch()
    copy_whole(source / "outcome.json", target / "outcome.json")
    assert (target / "outcome.json").read_text() == "outcome.json"


def test_a_label_map_that_breaks_off_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, space = tmp_path / "0.png", LabelSpace(("a", "b"))
    write_label(path, np.zeros((4, 6), np.uint8), space)

    def half(picture: Image.Image, file: Path, **_: object) -> None:
        Path(file).write_bytes(b"\x89PNG")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(KeyboardInterrupt):
        write_label(path, np.ones((4, 6), np.uint8), space)
    assert [file.name for file in tmp_path.iterdir()] == ["0.png"]
    assert (read_raw(path) == 0).all()
