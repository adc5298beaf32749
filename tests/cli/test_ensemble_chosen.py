"""A tau and the say of specialists are used on the members, and under the norm, that they were chosen for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import everyframe.data.layouts as layouts
import everyframe.ensemble as ensembles
from everyframe.cli.__main__ import main
from everyframe.cli.ensemble import _with_values
from everyframe.cli.ensemble_chosen import Chosen
from everyframe.errors import InputError
from everyframe.inference.member_text import spelled_out
from everyframe.inference.specialists import Fusion
from everyframe.inference.sweep import best_tau
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import save
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("road", "car"), raw_to_train={0: 255, 1: 0, 2: 1})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, two saved models, and what was chosen for them, one first and two second, under l1 and flipped."""
    root = tmp_path_factory.mktemp("chosen")
    rng = np.random.default_rng(0)
    for video in ("a", "b"):
        truth = rng.integers(1, 3, (5, 7)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        for kind, pixels in (("origin", (truth * 90)[..., None].repeat(3, 2)), ("mask", truth)):
            path = root / "data" / "data" / video / kind / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(pixels).save(path)
    (root / "data" / "val.txt").write_text("a\nb\n")
    (root / "data" / "classes.json").write_text('{"0": "void", "1": "road", "2": "car"}')
    for seed, name in enumerate(("one", "two", "three")):
        torch.manual_seed(seed)
        save(create_model("fcn-tiny", SPACE), root / name)
    members = [f"{root / 'one'}@480/320", str(root / "two")]
    assert ensemble(root, "sweep", *members, "--score-norm", "l1", "--flip", "--out", str(root / "sweep")) == 0
    more = ["--below", "1.1", "--score-norm", "l1", "--out", str(root / "special")]
    assert ensemble(root, "specialists", *members, *more) == 0
    return root


def ensemble(root: Path, action: str, *words: str) -> int:
    return main(["ensemble", action, *words, "--data", f"vspw:{root / 'data'}", "--quiet", "--device", "cpu"])


@pytest.fixture(params=["--tau-from", "--specialists-from"])
def use(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Callable[..., int]:
    """A run by what was chosen, on the members that are given; with --flip where that was swept."""
    files = {"--tau-from": root / "sweep" / "sweep.json", "--specialists-from": root / "special" / "specialists.json"}
    flags = ["--flip"] if request.param == "--tau-from" else []

    def made(*words: str, flags: list[str] = flags) -> int:
        return ensemble(root, "run", *words, request.param, str(files[request.param]), *flags, "--out", str(tmp_path))

    return made


def test_the_same_members_are_joined_by_the_norm_of_the_choice(
    use: Callable[..., int], root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    norms: list[object] = []
    for place, name in ((ensembles, "weighted_logits"), (Fusion, "__init__")):
        before = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *given, before=before: (norms.append(given[-1]), before(*given))[1])
    assert use("one@window=480x480,stride=320", "two") == 0
    assert set(norms) == {"l1"}
    told = capsys.readouterr().err
    assert "was chosen for" not in told
    assert "was chosen on 2 of the 2 videos" in told
    assert use("one@480/320", "two", "--score-norm", "softmax") == 1
    assert "expected --score-norm l1, under which it was chosen, came softmax" in capsys.readouterr().err


def test_another_member_first_is_refused_with_what_to_type(
    use: Callable[..., int], root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    for words, right in (
        (["two", "one@480/320"], "one@480/320 two"),  # the same ones
        (["two@480/320", "one"], "one two@480/320"),  # the same models
    ):
        assert use(*words) == 1
        assert f"came {words[0]}; say {right}" in capsys.readouterr().err


def test_other_settings_and_models_are_told(
    use: Callable[..., int], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, three = (str(root / name) for name in ("one", "two", "three"))
    assert use(one, two) == 0
    told = capsys.readouterr().err
    assert f"was chosen for {one}@480/320" in told
    assert "the members here look at frames in other ways: " in told
    assert use(f"{one}@480/320", three) == 0
    assert "the members here are other models: " in capsys.readouterr().err
    notes = json.loads((tmp_path / "results.json").read_text())["notes"]
    assert any("the members here are other models: " in note for note in notes)


def test_what_was_flipped_in_the_sweep_is_flipped(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root / "sweep" / "sweep.json"
    assert json.loads(file.read_text())["members"] == [f"{root / 'one'}@480/320,flip", f"{root / 'two'}@flip"]
    words = [f"{root / 'one'}@480/320", str(root / "two"), "--tau-from", str(file), "--out", str(tmp_path)]
    assert ensemble(root, "run", *words) == 0
    assert "look at frames in other ways" in capsys.readouterr().err
    assert spelled_out("m@flip=no", {"flip": True, "scales": (0.5, 1.0)}) == "m@flip=no,scales=0.5+1"
    assert spelled_out("m", {"flip": False, "scales": ()}) == "m"


def test_files_of_older_releases_are_read(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They have short names, or no names and no norm at all."""
    (tmp_path / "bare.json").write_text('{"best": 0.4}')
    assert best_tau(tmp_path / "bare.json") == (0.4, "", (), (), "")
    (tmp_path / "short.json").write_text('{"best": 0.4, "members": ["one", "two"], "score_norm": "softmax"}')
    for file in ("bare.json", "short.json"):
        words = [
            str(root / "one"),
            str(root / "two"),
            "--tau-from",
            str(tmp_path / file),
            "--out",
            str(tmp_path / "out"),
        ]
        assert ensemble(root, "run", *words) == 0
        assert "was chosen" not in capsys.readouterr().err
    words[0:2] = words[1::-1]
    assert ensemble(root, "run", *words) == 1
    assert f"expected {root / 'one'} first, as it was chosen" in capsys.readouterr().err
    (tmp_path / "bare.json").write_text('{"best": 0.4, "score_norm": "l7"}')
    with pytest.raises(InputError, match=r"expected the sweep.json"):
        best_tau(tmp_path / "bare.json")


def test_the_order_of_specialists_does_not_matter_and_models_of_other_folders_go_by_their_names(tmp_path: Path) -> None:
    chosen = Chosen("it", Path("f"), ("/x/all/model", "/x/b@flip", "/x/c"), "", "d", ())
    assert chosen.other_members(["/x/all/model", "/x/c", "/x/b@flip=yes"], ["all", "c", "b@flip"]) == ""
    assert "are other models" in chosen.other_members(["/y/all/model", "/y/b", "/y/c"], ["all", "b", "c"])
    with pytest.raises(InputError, match="f: expected A first, as it was chosen, came B; say A B C"):
        chosen.other_members(["/y/b", "/y/all", "/y/c"], ["B", "A", "C"])
    assert chosen.norm("none") == "none"
    trained = Chosen("it", Path("f"), ("/x/a", "/x/b"), "", "d", ())
    assert trained.other_members(["/x/a@flip=no", "/x/b"], ["a", "b"]) == ""
    assert "other ways" in trained.other_members(["/x/a@short=0", "/x/b"], ["a", "b"])  # not that of training


def test_the_split_is_listed_once(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    before = layouts.load_split
    monkeypatch.setattr(layouts, "load_split", lambda data, split: (listed.append(data), before(data, split))[1])
    words = [f"{root / 'one'}@480/320", str(root / "two"), "--out", str(tmp_path)]
    for option, file in (("--tau-from", "sweep/sweep.json"), ("--specialists-from", "special/specialists.json")):
        assert ensemble(root, "run", *words, option, str(root / file)) == 0
    assert len(listed) == 2


def test_one_half_leads_to_the_other_and_both_to_the_report(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, members = tmp_path / "labels", [str(root / "one"), str(root / "two")]
    assert ensemble(root, "run", *members, "--tau", "0.4", "--half", "first", "--out", str(out)) == 0
    told = capsys.readouterr().out
    data = f"--data vspw:{root / 'data'}"
    assert f"--tau 0.4 --half second --out {out} {data} --quiet --device cpu\n" in told
    assert "next, the other half into the same folder: everyframe ensemble run" in told
    report = f"TC and the report: everyframe evaluate --pred {out} {data} --split val --out report"
    assert f"then {report}" in told
    (line,) = (line for line in told.splitlines() if line.startswith("next"))
    assert main(line.partition(": everyframe ")[2].split()) == 0
    assert f"next, {report}" in capsys.readouterr().out
    assert main(["evaluate", "--pred", str(out), *data.split(), "--flow", "none"]) == 0

    swept = str(root / "sweep" / "sweep.json")
    assert ensemble(root, "run", *members, "--tau-from", swept, "--half=second", "--out", str(tmp_path / "chosen")) == 0
    assert "--tau-from CHOSEN_ON_THE_SECOND_HALF/sweep.json --half=first" in capsys.readouterr().out


def test_values_of_options_are_replaced_however_they_are_written() -> None:
    words = ["first", "--half", "first", "--data", "first", "--half=first", "--tau-f", "a", "--tau", "1"]
    replaced = ["first", "--half", "second", "--data", "first", "--half=second"]
    assert _with_values(words, {"--half": "second"}) == [*replaced, *words[6:]]
    assert _with_values(words[:8], {"--half": "second", "--tau-from": "x"}) == [*replaced, "--tau-f", "x"]
