"""`everyframe ensemble specialists`, and the use of what it chose, on a case whose best weights are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everyframe.cli.__main__ import main
from everyframe.data.layouts import load_split
from everyframe.data.reading import read_labels
from everyframe.evaluate import evaluate
from everyframe.inference.specialists import Specialists
from everyframe.io.label_png import read_raw
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import load, save
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("road", "car", "bike"), raw_to_train={0: 255, 1: 0, 2: 1, 3: 2})
GREY = {1: 40, 2: 128, 3: 215}
"""Raw id -> grey of its pixels."""


def grey_reader(space: LabelSpace, answers: dict[int, dict[str, float]]) -> Segmenter:
    """A model that can be saved and gives the logits `answers[raw id]` on frames of that id's grey.

    Its classifier is fitted by least squares to the features that random weights give for the three frames.
    """
    torch.manual_seed(0)
    model = create_model("fcn-tiny", space).eval()
    frames = torch.stack([torch.full((3, 40, 56), grey, dtype=torch.uint8) for grey in GREY.values()])
    with torch.no_grad():
        features = model.encode(frames).embedding["pixels"].double().flatten(2).transpose(1, 2)  # [3, cells, D]
        wanted = torch.tensor([[answers[raw][name] for name in space.names] for raw in GREY]).double()
        cells = features.shape[1]
        design = torch.cat([features, torch.ones(3, cells, 1)], 2).flatten(0, 1)
        solution = torch.linalg.lstsq(design, wanted.repeat_interleave(cells, 0), driver="gelsd").solution
        model.head.classifier.weight.copy_(solution[:-1].T[:, :, None, None])
        model.head.classifier.bias.copy_(solution[-1])
    return model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of one class each. The general model takes bikes for cars; the specialist knows bikes alone."""
    root = tmp_path_factory.mktemp("specialists")
    for split, count in (("val", 2), ("test", 1)):
        names = [f"{split}{i}" for i in range(count)]
        for name in names:
            for raw, grey in GREY.items():
                for kind, pixels in (("origin", np.full((40, 56, 3), grey)), ("mask", np.full((40, 56), raw))):
                    path = root / "data" / "data" / name / kind / f"{raw}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels.astype(np.uint8)).save(path)
        (root / "data" / f"{split}.txt").write_text("\n".join(names) + "\n")
    (root / "data" / "classes.json").write_text('{"0": "void", "1": "road", "2": "car", "3": "bike"}')
    general = {1: {"road": 4.0, "car": 0.0, "bike": 0.0}, 2: {"road": 0.0, "car": 4.0, "bike": 0.0}}
    save(grey_reader(SPACE, {**general, 3: {"road": 0.0, "car": 2.0, "bike": 1.0}}), root / "general")
    rare = LabelSpace(("rest", "bike"))
    knows = {1: {"rest": 4.0, "bike": 0.0}, 2: {"rest": 4.0, "bike": 0.0}, 3: {"rest": 0.0, "bike": 4.0}}
    save(grey_reader(rare, knows), root / "rare")
    return root


def run(root: Path, out: Path, action: str, *more: str) -> int:
    members = [str(root / "general"), str(root / "rare"), "--data", f"vspw:{root / 'data'}"]
    return main(["ensemble", action, *members, *more, "--out", str(out), "--quiet", "--device", "cpu"])


def accuracy(root: Path, model: object, split: str) -> float:
    results = evaluate(data=f"vspw:{root / 'data'}", split=split, model=model, flow=None, bootstrap=0, device="cpu")
    return results.score("pixel accuracy").value


def test_chosen_on_one_split_and_used_on_another(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accuracy(root, root / "general", "val") == pytest.approx(2 / 3, abs=0.01)
    assert run(root, tmp_path / "chosen", "specialists", "--split", "val", "--alphas", "0.3", "0.8", "1") == 0
    printed = capsys.readouterr().out
    assert "chosen" in printed
    chosen = json.loads((tmp_path / "chosen" / "specialists.json").read_text())
    # Softmax of (0, 2, 1) gives cars .665 and bikes .245; the specialist gives bikes .982: from .57 on they win.
    assert chosen["tried"] == [0, 0.3, 0.8, 1]
    assert chosen["alphas"] == {"bike": 0.8}
    assert chosen["iou"]["bike"] == pytest.approx([0, 0, 1, 1], abs=0.01)
    assert chosen["miou"] == pytest.approx([0.5, 1.0], abs=0.02)  # road 1, car 1/2, bike 0
    assert chosen["members"] == [str(root / "general"), str(root / "rare")]

    file = str(tmp_path / "chosen" / "specialists.json")
    assert run(root, tmp_path / "labels", "run", "--split", "test", "--specialists-from", file) == 0
    printed, told = capsys.readouterr()
    assert "with 1 specialist " in printed
    assert "upper bound" not in told
    assert chosen["videos"] == ["val0", "val1"]
    assert run(root, tmp_path / "same", "run", "--split", "val", "--specialists-from", file) == 0
    assert f"the say of {file} was chosen on 2 of the 2 videos that are scored here" in capsys.readouterr().err
    data, general = f"vspw:{root / 'data'}", root / "general"
    for split, told in (("val", 1), ("test", 0)):
        scored = evaluate(data=data, split=split, model=general, specialists=file, flow=None, bootstrap=0, device="cpu")
        assert sum("upper bound" in note for note in scored.notes) == told
    assert run(root, tmp_path / "half", "specialists", "--half", "second", "--alphas", "0.8") == 0
    assert json.loads((tmp_path / "half" / "specialists.json").read_text())["videos"] == ["val1"]
    assert (read_raw(tmp_path / "labels" / "test0" / "3.png") == 3).mean() > 0.99
    model = Specialists([load(root / "general"), load(root / "rare")], {"bike": 0.8})
    assert accuracy(root, model, "test") > 0.99

    source = str(root / "data" / "data" / "test0" / "origin")
    arguments = [source, "--model", str(root / "general"), "--out", str(tmp_path / "predicted"), "--quiet"]
    assert main(["predict", *arguments, "--no-overlay", "--specialists", file, "--device", "cpu"]) == 0
    (label,) = (tmp_path / "predicted").rglob("3.png")
    np.testing.assert_array_equal(read_raw(label), read_raw(tmp_path / "labels" / "test0" / "3.png"))


def test_no_weight_without_a_gain(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, tmp_path / "small", "specialists", "--alphas", "0.1", "0.3") == 0
    assert json.loads((tmp_path / "small" / "specialists.json").read_text())["alphas"] == {"bike": 0.0}
    assert run(root, tmp_path / "strict", "specialists", "--delta", "1.5") == 0
    strict = json.loads((tmp_path / "strict" / "specialists.json").read_text())
    assert strict["alphas"] == {"bike": 0.0}
    assert strict["miou"][0] == strict["miou"][1]


@pytest.mark.parametrize(
    ("action", "more", "message"),
    [
        ("specialists", ["--classes", "tram"], "a specialist have, came tram"),
        ("specialists", ["--score-norm", "none"], "softmax or l1"),
        ("run", ["--specialists-from", "none.json"], "expected the specialists.json"),
        ("run", [], "expected models of the same classes"),
    ],
)
def test_bad_options(
    root: Path, tmp_path: Path, action: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, tmp_path, action, *more) == 1
    assert message in capsys.readouterr().err


def test_data_of_a_specialist_merge_all_other_classes(root: Path, tmp_path: Path) -> None:
    """The documented recipe: a folder with a class list of its own beside links to the data."""
    for name in ("data", "val.txt"):
        (tmp_path / name).symlink_to(root / "data" / name)
    (tmp_path / "classes.yaml").write_text("0: ignore\n1: rest\n2: rest\n3: bike\n")
    videos, space = load_split(f"vspw:{tmp_path}", "val")
    assert space.names == ("rest", "bike")
    values = [np.unique(read_labels(videos[0], i, space)).tolist() for i in range(3)]
    assert values == [[0], [0], [1]]
