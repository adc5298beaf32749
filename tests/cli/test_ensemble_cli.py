from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.predictors import Fixed
from PIL import Image

from everyframe.cli.__main__ import main
from everyframe.data.layouts import load_split
from everyframe.ensemble import measure, single, store, weighted
from everyframe.evaluate import evaluate
from everyframe.inference.ensemble import Ensemble
from everyframe.inference.members import LiveMember
from everyframe.inference.sweep import Sweep
from everyframe.io.label_png import read_raw
from everyframe.io.score_maps import ScoreFormat
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import load, save
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("road", "car"), raw_to_train={0: 255, 1: 0, 2: 1})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos to choose on and one to score, of three frames each, and two saved models with random weights."""
    root = tmp_path_factory.mktemp("ensemble")
    rng = np.random.default_rng(0)
    for video in ("a", "b", "c"):
        for i in range(3):
            truth = rng.integers(1, 3, (5, 7)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
            image = (truth * 90)[..., None] + rng.integers(0, 30, (*truth.shape, 3))
            for kind, pixels in (("origin", image.astype(np.uint8)), ("mask", truth)):
                path = root / "data" / "data" / video / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    (root / "data" / "val.txt").write_text("a\nb\n")
    (root / "data" / "test.txt").write_text("c\n")
    (root / "data" / "classes.json").write_text('{"0": "void", "1": "road", "2": "car"}')
    for seed in (1, 2):
        torch.manual_seed(seed)
        save(create_model("fcn-tiny", SPACE), root / f"model{seed}")
    return root


def run(root: Path, action: str, *more: str) -> int:
    return main(["ensemble", action, *more, "--out", str(root), "--quiet", "--device", "cpu"])


def test_sweep_live_and_stored_and_use_on_another_split(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, data = str(root / "model1"), str(root / "model2"), f"vspw:{root / 'data'}"
    monkeypatch.chdir(root)
    assert run(tmp_path / "scores", "store", two, data) == 0
    assert "6 score maps" in capsys.readouterr().out
    for name, second in (("live", two), ("stored", str(tmp_path / "scores"))):
        assert run(tmp_path / name, "sweep", one, second, "--data", "vspw:data") == 0
    monkeypatch.chdir(tmp_path)
    live, stored = (json.loads((tmp_path / name / "sweep.json").read_text()) for name in ("live", "stored"))
    assert live["taus"] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    np.testing.assert_allclose(live["miou"], stored["miou"], atol=0.02)
    for tau, weights in ((0.0, (0.0, 1.0)), (0.3, (0.3, 0.7)), (1.0, (1.0, 0.0))):
        model = Ensemble([load(one), load(two)], weights)
        expected = evaluate(data=data, model=model, flow=None, bootstrap=0, device="cpu").score("mIoU").value
        assert live["miou"][live["taus"].index(tau)] == pytest.approx(expected, abs=1e-12)
    ET.fromstring((tmp_path / "live" / "sweep.svg").read_text())

    found = str(tmp_path / "live" / "sweep.json")
    assert live["videos"] == ["a", "b"]
    capsys.readouterr()
    assert run(tmp_path / "run", "run", one, two, "--data", data, "--split", "test", "--tau-from", found) == 0
    printed, told = capsys.readouterr()
    assert "upper bound" not in told
    assert f"everyframe evaluate --pred {tmp_path / 'run'} --data {data} --split test --out report" in printed
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"c", "labels.json", "results.json"}
    assert set(np.unique(read_raw(tmp_path / "run" / "c" / "2.png"))) <= {1, 2}
    model = Ensemble([load(one), load(two)], (live["best"], 1 - live["best"]))
    expected = evaluate(data=data, split="test", model=model, flow=None, bootstrap=0, device="cpu").score("mIoU").value
    assert miou(tmp_path / "run" / "results.json") == pytest.approx(expected, abs=1e-12)

    # On the videos that it was chosen on it is the best of the sweep, and the figure says so, from whatever folder.
    assert run(tmp_path / "same", "run", one, two, "--data", data, "--tau-from", found) == 0
    told = f"tau {live['best']:g} of {found} was chosen on 2 of the 2 videos that are scored here"
    assert told in capsys.readouterr().err
    assert miou(tmp_path / "same" / "results.json") == max(live["miou"])
    notes = json.loads((tmp_path / "same" / "results.json").read_text())["notes"]
    assert any(told in note for note in notes)


def miou(path: Path) -> float:
    overall = json.loads(path.read_text())["overall"]
    return float(next(score for score in overall if score["name"] == "mIoU")["value"])


def test_tau_of_one_half_labels_the_other(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, data = str(root / "model1"), str(root / "model2"), f"vspw:{root / 'data'}"
    halves, labels = {"first": "a", "second": "b"}, tmp_path / "labels"
    for half, video in halves.items():
        assert run(tmp_path / half, "sweep", one, two, "--data", data, "--half", half) == 0
        assert json.loads((tmp_path / half / "sweep.json").read_text())["videos"] == [video]
    assert capsys.readouterr().out.count("next, on the other half: everyframe ensemble run") == 2
    for half, other in (("first", "second"), ("second", "first")):
        words = ["--data", data, "--half", half, "--tau-from", str(tmp_path / other / "sweep.json")]
        assert run(labels, "run", one, two, *words) == 0
    assert "upper bound" not in capsys.readouterr().err
    assert {path.name for path in labels.iterdir()} == {
        "a", "b", "labels.json", "results-first.json", "results-second.json",
    }  # fmt: skip

    videos, space = load_split(data, "val")
    members = [LiveMember(str(i), load(root / f"model{i}"), "cpu") for i in (1, 2)]
    pooled = np.zeros((2, 3), np.int64)
    for half, other in (("first", "second"), ("second", "first")):
        tau = json.loads((tmp_path / other / "sweep.json").read_text())["best"]
        mine = [video for video in videos if video.name == halves[half]]
        alone = measure(members, mine, space, {"": weighted((tau, 1 - tau))}, bootstrap=0)[""]
        assert miou(labels / f"results-{half}.json") == alone.score("mIoU").value
        pooled += np.array(alone.confusion)
    assert evaluate(labels, data, flow=None, bootstrap=0).confusion == pooled.tolist()


def test_scores_are_stored_below_the_bound_or_it_is_said(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, data = str(root / "model1"), f"vspw:{root / 'data'}"
    for dtype, stride in (("uint8", 4), ("float16", 4)):
        assert run(tmp_path / dtype, "store", one, data, "--dtype-stored", dtype, "--score-norm", "none") == 0
        described = json.loads((tmp_path / dtype / "score_maps.json").read_text())
        assert (described["norm"], described["stride"]) == ("none", stride)
    assert not caplog.records
    member = LiveMember("many", Fixed(torch.zeros(124, 5, 7)), "cpu")
    videos, _ = load_split(data, "val")
    store(member, videos, tmp_path / "many", ScoreFormat("none", "float16", 4))
    assert "take 6.4 MB of a frame of 480x853, expected at most 6; say --stride-stored 5" in caplog.text
    store(member, videos, tmp_path / "default")
    assert len(caplog.records) == 1


def test_vote_and_mean_in_windows(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, data = f"{root / 'model1'}@32/16", str(root / "model2"), f"vspw:{root / 'data'}"
    for method in ("vote", "mean"):
        assert run(tmp_path / method, "run", one, two, two, "--data", data, "--method", method) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(line.startswith(f"{method} of 3") for line in lines)
    # Two of three members are the same model: they win every vote.
    assert len({tuple(line.split()[-4:]) for line in lines if "model2" in line}) == 1
    on_disk = evaluate(tmp_path / "vote", data, flow=None).score("mIoU")
    written = json.loads((tmp_path / "vote" / "results.json").read_text())["overall"]
    live = next(score for score in written if score["name"] == "mIoU")
    assert (live["value"], live["low"], live["high"]) == (on_disk.value, on_disk.low, on_disk.high)
    voted = on_disk.value
    alone = evaluate(data=data, model=two, flow=None, bootstrap=0, device="cpu").score("mIoU").value
    assert voted == pytest.approx(alone, abs=0.02)


def test_members_alone_are_the_models(root: Path) -> None:
    videos, space = load_split(f"vspw:{root / 'data'}", "val")
    members = [LiveMember(str(i), load(root / f"model{i}"), "cpu") for i in (1, 2)]
    results = measure(members, videos, space, {"one": single(0), "same": weighted((3, 0))})
    assert results["one"].confusion == results["same"].confusion


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "soft"], "soft expects two members and a --tau in 0..1"),
        (["--method", "soft", "--tau", "1.5"], "came 2 members and tau 1.5"),
        (["--method", "vote", "--tau", "0.5"], "--method soft alone"),
        (["--tau", "0.5", "--tau-from", "x.json"], "came both"),
        (["--tau-from", "missing.json"], "expected the sweep.json"),
    ],
)
def test_bad_options(root: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = str(root / "model1"), str(root / "model2")
    assert run(root / "out", "run", one, two, "--data", f"vspw:{root / 'data'}", *more) == 1
    assert message in capsys.readouterr().err


def test_bad_windows_and_norms(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, data = str(root / "model1"), str(root / "model2"), f"vspw:{root / 'data'}"
    assert run(tmp_path, "run", f"{one}@big", two, "--data", data) == 1
    assert "expected settings short, window" in capsys.readouterr().err
    assert run(tmp_path / "maps", "store", one, data) == 0
    assert run(tmp_path, "run", str(tmp_path / "maps"), two, "--data", data, "--score-norm", "none") == 1
    assert "say --score-norm softmax" in capsys.readouterr().err


def test_best_tau_of_equals_is_the_most_even_one() -> None:
    class Result:
        def __init__(self, value: float) -> None:
            self.value = value
            self.overall: list[Result] = []
            self.videos: list[Result] = []

        def score(self, name: str) -> Result:
            return self

    results = {"0": Result(0.5), "0.4": Result(0.7), "0.6": Result(0.7), "1": Result(0.7)}
    assert Sweep.of(("a", "b"), "d", "softmax", results).best == 0.4  # type: ignore[arg-type]
