"""The examples of docs/architecture.md run, one after the other, and the layout among them reads a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everyframe.cli.__main__ import main
from everyframe.data.doctor import check
from everyframe.data.layouts import LAYOUTS, SPLITS, load_split
from everyframe.data.listing import NoSuchSplit
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.metrics import measures
from everyframe.metrics.bootstrap import class_sums
from everyframe.metrics.definitions import DEFINITIONS
from everyframe.metrics.evaluation import Evaluation
from everyframe.models.zoo import BACKBONES, HEADS, TEMPORAL
from everyframe.training.objective import TERMS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 7
    space: dict[str, Any] = {"__name__": "architecture"}
    for block in blocks:
        exec(compile(block, "docs/architecture.md", "exec"), space)
    # What the page registers is not for other tests.
    assert BACKBONES.pop("two-maps") is space["TwoMaps"]
    assert (LAYOUTS.pop("drives"), SPLITS.pop("drives")) == (space["drives"], space["splits"])
    assert DEFINITIONS.pop(("mDice", "in-ground-truth"))
    assert TERMS.pop("squared") is space["squared"]
    return space


def test_example_head_and_memory_keep_what_models_promise(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(HEADS, "linear", names["LinearHead"])
    monkeypatch.setitem(TEMPORAL, "average", names["MovingAverage"])
    assert main(["models", "linear-average-tiny", "--check"]) == 0, capsys.readouterr().out


@pytest.fixture
def drives(names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for path in ("val/b/0.jpg", "val/a/0.jpg", "val/a/1.jpg", "val/a/labels/1.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if path.endswith("png") else "RGB", (32, 24), 1 if path.endswith("png") else "red").save(
            tmp_path / path
        )
    monkeypatch.setitem(LAYOUTS, "drives", names["drives"])
    monkeypatch.setitem(SPLITS, "drives", names["splits"])
    return f"drives:{tmp_path}"


def test_example_layout_reads_partly_labelled_drives(drives: str) -> None:
    videos, space = load_split(drives, "val")
    assert [(video.name, len(video.frames), video.labelled) for video in videos] == [("a", 2, (1,)), ("b", 1, ())]
    assert len(space) == 2
    report = check(drives)
    assert report.ok, report.errors
    assert list(report.splits) == ["val"]


def test_example_layout_says_what_is_not_there_and_drops_no_mask(drives: str) -> None:
    with pytest.raises(NoSuchSplit, match="val"):
        load_split(drives, "train")
    root = Path(drives.removeprefix("drives:"))
    Image.new("L", (32, 24)).save(root / "val/a/labels/7.png")
    with pytest.raises(InputError, match="a mask without a frame of that name"):
        load_split(drives, "val")


@pytest.mark.parametrize("size", [(64, 96), (65, 97), (63, 95)])
def test_example_backbone_has_true_strides(names: dict[str, Any], size: tuple[int, int]) -> None:
    backbone = names["model"].backbone
    assert isinstance(backbone, names["TwoMaps"])
    maps = backbone(torch.zeros(1, 3, *size))
    expected = [(c, *(-(-side // s) for side in size)) for c, s in zip((8, 16), (4, 8), strict=True)]
    assert [tuple(found.shape[1:]) for found in maps] == expected


def test_example_metric_reaches_results_with_an_interval(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_dice(counts: np.ndarray, whole: bool) -> list[measures.Measure]:
        return [*own(counts, whole), measures.Measure("mDice", "x", counts, class_sums(names["mean_dice"]))]

    own = measures._class_measures
    monkeypatch.setattr(measures, "_class_measures", with_dice)
    monkeypatch.setitem(DEFINITIONS, ("mDice", "x"), "mean Dice")
    evaluation = Evaluation(LabelSpace(("road", "car", "sky")), resamples=50)
    label = np.array([[0] * 4 + [1] * 4], np.uint8)
    pred = np.array([[0] * 3 + [1] * 5], np.uint8)
    for video in "ab":
        evaluation.update(video, 0, pred, label)
    results = evaluation.compute()
    score = results.score("mDice")
    assert score.value == score.low == score.high == (6 / 7 + 8 / 9) / 2
    assert results.videos[0].score("mDice").value == score.value
    assert "mean Dice" in results.to_json()
    assert np.isnan(names["mean_dice"](measures.F.ClassCounts(*np.zeros((3, 3)))))


def test_paths_and_names_on_the_page_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:models|training|metrics|data|cli|inference|report|losses)/[a-z_/]+\.py)`", page):
        assert (ROOT / "src" / "everyframe" / path).is_file(), path
    for path in re.findall(r"`(tests/[a-z_/]+\.py)`", page):
        assert (ROOT / path).is_file(), path
