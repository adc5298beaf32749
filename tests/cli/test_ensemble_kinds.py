"""Heads that predict masks beside heads of pixels: run or stored, they meet under `--score-norm l1` alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from two_frames import SPACE, write_two_frames

from everyframe.cli.__main__ import main
from everyframe.data.layouts import load_split
from everyframe.data.reading import read_frame
from everyframe.ensemble import choose_specialists, store
from everyframe.errors import InputError
from everyframe.inference.labelmap import label_map
from everyframe.inference.members import LiveMember, StoredMember
from everyframe.inference.scores import normalized
from everyframe.io.label_png import read_raw
from everyframe.io.score_maps import ScoreFolder, ScoreFormat
from everyframe.models.checkpoint import load, save
from everyframe.models.zoo import create_model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames, a model of masks and one of pixels with random weights, and the stored scores of both."""
    root = tmp_path_factory.mktemp("kinds")
    write_two_frames(root / "data")
    for seed, name in enumerate(("mask2former-tiny", "fcn-tiny")):
        torch.manual_seed(seed)
        short = name.split("-")[0]
        model = create_model(name, SPACE)
        if short == "fcn":
            model.head.classifier.weight.data.mul_(20)  # sure enough of its classes to be heard
        save(model, root / short)
        assert ensemble("store", str(root / short), f"vspw:{root / 'data'}", "--out", str(root / f"{short}-maps")) == 0
    return root


def ensemble(*words: str) -> int:
    return main(["ensemble", *words, "--quiet", "--device", "cpu"])


def test_the_kind_is_stored_and_what_any_norm_needs(root: Path) -> None:
    described = {
        name: json.loads((root / f"{name}-maps" / "score_maps.json").read_text()) for name in ("fcn", "mask2former")
    }
    assert (described["fcn"]["kind"], described["fcn"]["norm"]) == ("logits", "softmax")
    assert (described["mask2former"]["kind"], described["mask2former"]["norm"]) == ("masks", "none")
    (video,), _ = load_split(f"vspw:{root / 'data'}", "val")
    model = LiveMember("m", load(root / "mask2former"), "cpu")
    sums = model.logits("0", read_frame(video, 0))[0]
    kept = StoredMember(root / "mask2former-maps", "l1", "cpu")
    kept.start("v")
    torch.testing.assert_close(kept.logits("0", None)[0], sums, atol=4e-3 * float(sums.max()), rtol=0)
    store(model, [video], root / "python")
    assert ScoreFolder(root / "python").format == ScoreFormat("none", kind="masks")


@pytest.mark.parametrize("first", ["mask2former", "mask2former-maps"])
@pytest.mark.parametrize("second", ["fcn", "fcn-maps"])
@pytest.mark.parametrize("action", ["run", "sweep", "specialists"])
def test_both_kinds_are_refused_without_l1(
    root: Path, tmp_path: Path, first: str, second: str, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(root / second), str(root / first), "--data", f"vspw:{root / 'data'}", "--out", str(tmp_path)]
    words += ["--below", "0.9"] if action == "specialists" else []
    assert ensemble(action, *words) == 1
    assert "came logits, masks; l1 (--score-norm l1) takes sums of masks" in capsys.readouterr().err
    assert ensemble(action, *words, "--score-norm", "l1") == 0


def test_stored_and_run_are_joined_alike_by_their_shares(root: Path, tmp_path: Path) -> None:
    """Shares of logits that were stored under softmax are those of l1."""
    (video,), _ = load_split(f"vspw:{root / 'data'}", "val")
    models = [LiveMember(name, load(root / name), "cpu") for name in ("mask2former", "fcn")]
    sums, logits = (model.logits("0", read_frame(video, 0))[0] for model in models)
    assert sums.shape == logits.shape
    mean = 0.2 * sums / sums.sum(1, keepdim=True) + 0.8 * logits.softmax(1)
    expected = label_map(mean.log(), (40, 72))[0].numpy() + 1
    for kind, floor in (("", 1.0), ("-maps", 0.97)):
        words = [str(root / f"{name}{kind}") for name in ("mask2former", "fcn")]
        out = str(tmp_path / f"out{kind}")
        words += ["--data", f"vspw:{root / 'data'}", "--score-norm", "l1", "--tau", "0.2", "--out", out]
        assert ensemble("run", *words) == 0
        assert (read_raw(Path(out) / "v" / "0.png") == expected).mean() >= floor
    assert len(np.unique(expected)) > 1


def test_shares_of_logits_fit_two_norms_and_those_of_masks_one(tmp_path: Path) -> None:
    shares = torch.tensor([0.7, 0.2, 0.1]).view(3, 1, 1)
    for norm in ("softmax", "l1"):
        for kind in ("logits", "masks", None):
            folder = ScoreFolder.create(tmp_path / f"{norm} {kind}", SPACE, ScoreFormat(norm, kind=kind))  # type: ignore[arg-type]
            folder.write("v", "0", shares, (4, 4))
    for norm, other in (("softmax", "l1"), ("l1", "softmax")):
        member = StoredMember(tmp_path / f"{norm} logits", other, "cpu")  # type: ignore[arg-type]
        member.start("v")
        got = normalized(member.logits("0", None)[0], other)  # type: ignore[arg-type]
        torch.testing.assert_close(got[0], shares, atol=2e-3, rtol=0)
        for kind in ("masks", None):
            with pytest.raises(InputError, match=f"came {norm}; say --score-norm {norm}"):
                StoredMember(tmp_path / f"{norm} {kind}", other, "cpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="came softmax; say --score-norm softmax"):
        StoredMember(tmp_path / "softmax logits", "none", "cpu")


def test_folders_without_a_kind_are_read_and_fit_any(root: Path, tmp_path: Path) -> None:
    old = tmp_path / "maps"
    old.mkdir()
    for path in (root / "mask2former-maps").iterdir():
        (old / path.name).symlink_to(path)
    described = json.loads((old / "score_maps.json").read_text())
    assert described.pop("kind") == "masks"
    (old / "score_maps.json").unlink()
    (old / "score_maps.json").write_text(json.dumps(described))
    words = [str(old), str(root / "fcn"), "--data", f"vspw:{root / 'data'}", "--out", str(tmp_path / "out")]
    assert ensemble("run", *words) == 0
    (old / "score_maps.json").write_text(json.dumps({**described, "kind": "boxes"}))
    with pytest.raises(InputError, match="expected the kind logits or masks, came boxes"):
        ScoreFolder(old)


def test_specialists_of_another_kind_are_refused_from_python_too(root: Path) -> None:
    members = [LiveMember(name, load(root / name), "cpu") for name in ("fcn", "mask2former")]
    with pytest.raises(InputError, match="came logits, masks; l1"):
        choose_specialists(members, *load_split(f"vspw:{root / 'data'}", "val"), "d", below=0.9)
