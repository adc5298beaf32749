from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from everyframe.errors import InputError
from everyframe.inference.labelmap import label_map
from everyframe.io.score_maps import SPAN, ScoreFolder, ScoreFormat, finest_stride, is_score_folder
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


FORMS = [("softmax", "uint8"), ("l1", "uint8"), ("none", "uint8"), ("none", "float16")]


@pytest.mark.parametrize(("norm", "dtype"), FORMS)
def test_every_form_of_480p_frames_fits_6_mb_and_hardly_changes_labels(tmp_path: Path, norm: str, dtype: str) -> None:
    space = LabelSpace(tuple(f"class {k}" for k in range(124)))
    layout = ScoreFormat(norm, dtype, finest_stride(124, norm, dtype))  # type: ignore[arg-type]
    assert layout.too_large(124) == ""
    folder = ScoreFolder.create(tmp_path, space, layout)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * F.interpolate(torch.randn(1, 124, 6, 9, generator=generator), (120, 214), mode="bicubic")
    given = logits if norm == "none" else logits.softmax(1)
    size = folder.write("v", "0", given[0], (480, 853))
    assert size < 6e6
    assert size == pytest.approx(1e6 * layout.megabytes(124), rel=0.001)  # by hand: 120 x 214 x (124 + 2) is 3.24 MB
    before, after = label_map(logits, (480, 853)), label_map(folder.read("v", "0")[0], (480, 853))
    assert (before == after).float().mean() > (0.99 if norm == "none" else 0.999)
    matrix = np.bincount(124 * before.flatten().numpy().astype(int) + after.flatten().numpy(), minlength=124**2)
    assert mean_iou(matrix.reshape(124, 124)) > 0.96  # were the model's own labels the truth


def mean_iou(matrix: np.ndarray) -> float:
    """By the definition, over the classes in the truth."""
    there = matrix.sum(1) > 0
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return float((matrix.diagonal() / np.maximum(union, 1))[there].mean())


def test_the_bound_by_hand() -> None:
    assert ScoreFormat("none", "float16", 4).megabytes(124) == pytest.approx(120 * 214 * 124 * 2 / 1e6)  # 6.37
    assert finest_stride(124, "none", "float16") == 5
    assert [finest_stride(k) for k in (2, 124, 231, 232)] == [4, 4, 4, 5]  # 6e6 / (120 * 214) is 233.6 bytes a cell
    said = ScoreFormat("none", "float16", 4).too_large(124)
    assert "take 6.4 MB of a frame of 480x853, expected at most 6; say --stride-stored 5, or --dtype-stored" in said
    assert "say --stride-stored 4" in ScoreFormat(stride=2).too_large(124)


def test_scores_as_they_come_survive_in_bytes(tmp_path: Path) -> None:
    folder = ScoreFolder.create(tmp_path, SPACE, ScoreFormat("none"))
    scores = torch.tensor([[[8.0, 0.9]], [[-3.0, 0.0]], [[-40.0, 0.05]]])  # a cell of logits, a cell of sums of masks
    folder.write("v", "0", scores, (4, 8))
    got = folder.read("v", "0")[0][0]
    assert got[:, 0, 0].tolist() == pytest.approx([8, -3, 8 - SPAN], abs=SPAN / 255 / 2 + 1e-3)
    assert got[:, 0, 1].tolist() == pytest.approx([0.9, 0, 0.05], abs=0.9 / 255 / 2 + 1e-3)
    assert got[:, 0, 1].min() == 0  # never below: negative scores would be taken for logits
    flat = torch.full((3, 1, 1), 2.5)
    folder.write("v", "1", flat, (4, 4))
    assert torch.equal(folder.read("v", "1")[0][0], flat)


def test_sums_of_masks_keep_their_ratio_however_large_they_are(tmp_path: Path) -> None:
    scores = torch.tensor([40.0, 10.0, 0.0]).view(3, 1, 1)
    for kind, expected in (("masks", [40, 10, 0]), ("logits", [40, 24, 24])):
        folder = ScoreFolder.create(tmp_path / kind, SPACE, ScoreFormat("none", kind=kind))  # type: ignore[arg-type]
        folder.write("v", "0", scores, (4, 4))
        assert folder.read("v", "0")[0].flatten().tolist() == pytest.approx(expected, abs=0.1)


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
    with pytest.raises(InputError, match="expected norm none with float16, came norm softmax; store uint8"):
        ScoreFormat(dtype="float16")
    with pytest.raises(InputError, match="expected norm softmax, l1 or none and dtype uint8 or float16, came norm l2"):
        ScoreFormat(norm="l2")
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
