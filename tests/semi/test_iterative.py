"""The record of a loop: times add up over its lives, and what is done stays done."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from everyframe.errors import InputError
from everyframe.semi.iterative import Stage, StageRecord, bytes_on_disk


def test_stage_measures_its_time_and_its_folder(tmp_path: Path) -> None:
    record = StageRecord(tmp_path / "record.json", {"threshold": 0.9})
    folder = tmp_path / "labels"
    with record.stage("round1/label", folder) as stage:
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "0.png").write_bytes(bytes(700))
        (folder / "b.json").write_bytes(bytes(50))
        time.sleep(0.05)
        stage.results = {"coverage": 0.5}
    written = json.loads((tmp_path / "record.json").read_text())
    entry = written["stages"][0]
    assert (entry["name"], entry["status"], entry["bytes"]) == ("round1/label", "done", 750)
    assert 0.05 <= entry["seconds"] < 1
    assert written["hours"] == entry["hours"] == pytest.approx(entry["seconds"] / 3600)
    assert written["bytes"] == bytes_on_disk(folder) == 750
    assert entry["results"] == {"coverage": 0.5}
    assert bytes_on_disk(tmp_path / "none") == 0


def test_time_of_a_life_that_ended_early_counts(tmp_path: Path) -> None:
    path, folder = tmp_path / "record.json", tmp_path / "run"

    def interrupted() -> None:
        with StageRecord(path, {}).stage("round0/train", folder):
            time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    again = StageRecord(path, {})
    assert not again.done("round0/train")
    with again.stage("round0/train", folder):
        time.sleep(0.05)
    assert StageRecord(path, {}).done("round0/train")
    assert again.stages["round0/train"].seconds >= 0.1


def test_time_of_a_life_that_was_killed_is_read_off_its_youngest_file(tmp_path: Path) -> None:
    """Killed hard, nothing was written at the end: from the beginning (t = 1000 s) to the last file (t = 1300 s)."""
    path, folder = tmp_path / "record.json", tmp_path / "run"
    record = StageRecord(path, {})
    record.stages["round0/train"] = Stage("round0/train", seconds=20.0, began=1000.0)
    record.save()
    folder.mkdir()
    for name, modified in (("a", 1100), ("b", 1300)):
        (folder / name).touch()
        os.utime(folder / name, (modified, modified))
    again = StageRecord(path, {})
    with again.stage("round0/train", folder):
        pass
    assert again.stages["round0/train"].seconds == pytest.approx(320, abs=1)


def test_a_record_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"record\.json: expected to write here, cannot"):
        StageRecord(tmp_path / "file" / "record.json", {}).save()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    StageRecord(path, {"threshold": 0.9, "recipe": {"steps": 10, "data": {"crop": (3, 4)}}}).save()
    StageRecord(path, {"threshold": 0.9, "recipe": {"steps": 10, "data": {"crop": [3, 4]}}})
    with pytest.raises(InputError, match=r"recipe\.steps 10 there, 20 now"):
        StageRecord(path, {"threshold": 0.9, "recipe": {"steps": 20, "data": {"crop": (3, 4)}}})
    path.write_text("{")
    with pytest.raises(InputError, match="record of an earlier loop"):
        StageRecord(path, {})
