from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from everyframe.errors import InputError
from everyframe.inference.labelmap import label_map
from everyframe.io.score_maps import ScoreFolder, ScoreFormat, is_score_folder
from everyframe.labels import LabelSpace

SPACE = LabelSpace(("a", "b", "c"))


def test_shares_survive_to_a_step_of_their_peak(tmp_path: Path) -> None:
    folder = ScoreFolder.create(tmp_path / "maps", SPACE, ScoreFormat())
    shares = (4 * torch.randn(3, 5, 7)).softmax(0)
    folder.write("v", "0", shares, (20, 28))
    logits, size = ScoreFolder(tmp_path / "maps").read("v", "0")
    assert size == (20, 28)
    assert ((logits[0].exp() - shares).abs() <= (0.5 / 255 + 1e-3) * shares.amax(0)).all()
    assert is_score_folder(tmp_path / "maps")
    assert not is_score_folder(tmp_path)


def test_labels_hardly_change_and_480p_frames_fit_6_mb(tmp_path: Path) -> None:
    space = LabelSpace(tuple(f"class {k}" for k in range(124)))
    folder = ScoreFolder.create(tmp_path, space, ScoreFormat())
    generator = torch.Generator().manual_seed(0)
    logits = 3 * F.interpolate(torch.randn(1, 124, 6, 9, generator=generator), (120, 214), mode="bicubic")
    size = folder.write("v", "0", logits.softmax(1)[0], (480, 853))
    assert size < 3.3e6
    got = label_map(folder.read("v", "0")[0], (480, 853))
    assert (got == label_map(logits, (480, 853))).float().mean() > 0.98


def test_finer_scores_are_averaged_down_and_coarser_ones_stay(tmp_path: Path) -> None:
    folder = ScoreFolder.create(tmp_path, SPACE, ScoreFormat(norm="none", dtype="float16", stride=4))
    folder.write("v", "fine", torch.full((3, 9, 10), 2.0), (9, 10))
    assert torch.equal(folder.read("v", "fine")[0], torch.full((1, 3, 3, 3), 2.0))
    coarse = torch.tensor([[[1.0, -2.0]], [[0.5, 4.0]], [[0.0, 0.0]]])
    folder.write("v", "coarse", coarse, (9, 10))
    assert torch.equal(folder.read("v", "coarse")[0][0], coarse)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ensemble store"):
        ScoreFolder(tmp_path)
    with pytest.raises(InputError, match="uint8 with norm softmax or l1"):
        ScoreFormat(norm="none")
    folder = ScoreFolder.create(tmp_path, SPACE, ScoreFormat())
    with pytest.raises(InputError, match="frame 3 of video v, found no file"):
        folder.read("v", "3")
    folder.write("v", "3", torch.full((3, 1, 1), 1 / 3), (4, 4))
    path = folder.path("v", "3")
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="damaged"):
        folder.read("v", "3")
    folder.write("v", "2", torch.full((2, 1, 1), 1 / 2), (4, 4))
    with pytest.raises(InputError, match="expected 3 classes, came 2"):
        folder.read("v", "2")
    (tmp_path / "score_maps.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match="another format"):
        ScoreFolder(tmp_path)
