"""`everyframe bench metrics`: the reference loops against hand cases, both ways on a small video, the JSON."""

from __future__ import annotations

import functools
import inspect
import json
import math
from pathlib import Path

import numpy as np
import pytest

from everyframe.cli import bench_metrics
from everyframe.cli.bench_metrics import bench, label_video, main, reference_confusion, reference_consistency


def test_the_reference_by_hand() -> None:
    labels = [np.array(frame, np.uint8) for frame in ([[0, 0]], [[0, 0]], [[0, 1]])]
    preds = [np.array(frame, np.uint8) for frame in ([[0, 1]], [[1, 1]], [[1, 1]])]
    assert reference_consistency(preds, labels, 2) == 0.5  # one window, the last is left out
    assert math.isnan(reference_consistency(preds, labels, 3))
    assert reference_confusion(preds, labels, 2).tolist() == [[1, 4], [0, 1]]


def test_label_maps_look_like_a_networks() -> None:
    preds, labels = label_video(6, 240, 320, 124)
    assert preds.shape == labels.shape == (6, 240, 320)
    assert preds.max() < 124
    valid = labels != 255
    assert 0.8 < (preds == labels)[valid].mean() < 0.97
    assert 0 < 1 - valid.mean() < 0.2
    assert (preds[1:] != preds[:-1]).mean() < 0.2
    again, _ = label_video(6, 240, 320, 124)
    assert (again == preds).all()


def test_both_ways_agree_and_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    size = ["--frames", "20", "--height", "24", "--width", "40", "--classes", "7", "--repeat", "1"]
    assert main([*size, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "20 frames of 40x24, 7 classes" in printed
    assert "VC8 + VC16 + confusion matrix, PNG files" in printed
    figures = json.loads(file.read_text())
    assert [line["ratio"] > 0 for line in figures["lines"]] == [True] * 4
    assert figures["options"]["frames"] == 20


def test_wrong_numbers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_metrics, "video_consistency", lambda *_: {8: 0.5, 16: 0.5})
    with pytest.raises(RuntimeError, match="the two ways differ"):
        bench(frames=20, height=8, width=8, classes=3, repeat=1)


def test_defaults_of_the_command_are_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    @functools.wraps(bench)
    def recorded(**options: object) -> list[object]:
        seen.update(options)
        return []

    monkeypatch.setattr(bench_metrics, "bench", recorded)
    assert main([]) == 0
    assert seen == {name: option.default for name, option in inspect.signature(bench).parameters.items()}
