from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from inference.predictors import Fixed, Remember, video

from everyframe.errors import InputError
from everyframe.inference.prior import LogitAdjustment, read_class_pixels

FRAME = video(1)[0].image[None]
PIXELS = {"class 0": 900, "class 1": 90, "class 2": 10}


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_divides_the_posterior_by_a_power_of_the_prior(strength: float) -> None:
    logits = torch.randn(3, 2, 4)
    got, state = LogitAdjustment(Fixed(logits), PIXELS, strength).step(FRAME)
    prior = torch.tensor([0.9, 0.09, 0.01])[:, None, None]
    want = logits.softmax(0) / prior**strength
    torch.testing.assert_close(got.softmax(1)[0], want / want.sum(0))
    assert state == 1


def test_at_strength_1_a_balanced_model_comes_out() -> None:
    """By Bayes: p(k|x) of the frequent world times balanced / frequent prior, computed by hand for two classes."""
    likelihood = torch.tensor([0.2, 0.6])
    posterior = likelihood * torch.tensor([0.75, 0.25])
    logits = posterior.log()[:, None, None]
    got, _ = LogitAdjustment(Fixed(logits), {"class 0": 3, "class 1": 1}).step(FRAME)
    torch.testing.assert_close(got.softmax(1).flatten(), torch.tensor([0.25, 0.75]))


def test_classes_that_never_occur_are_not_lifted() -> None:
    logits = torch.zeros(3, 1, 1)
    got, _ = LogitAdjustment(Fixed(logits), {**PIXELS, "class 2": 0}).step(FRAME)
    assert got.flatten().tolist()[2] == got.flatten().tolist()[0] == got.min()
    got, _ = LogitAdjustment(Fixed(torch.tensor([2.0, 1.0, 0.0])[:, None, None]), PIXELS, 1.0, "l1").step(FRAME)
    torch.testing.assert_close(got[0, :2].exp().flatten(), torch.tensor([2 / 3 / 0.9, 1 / 3 / 0.09]))


def test_counts_are_read_from_two_kinds_of_file(tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text(json.dumps(PIXELS))
    assert read_class_pixels(tmp_path / "plain.json") == PIXELS
    half = {name: count / 2 for name, count in PIXELS.items()}
    checked = {"layout": "folder", "splits": {"a": {"videos": 1, "pixels": half}, "b": {"pixels": half}}}
    (tmp_path / "checked.json").write_text(json.dumps(checked))
    assert read_class_pixels(tmp_path / "checked.json") == PIXELS
    checked["splits"]["train"] = {"pixels": {"x": 1}}
    (tmp_path / "checked.json").write_text(json.dumps(checked))
    assert read_class_pixels(tmp_path / "checked.json") == {"x": 1.0}
    for text in ("", "[1]", '{"a": "many"}', '{"splits": {"a": {}}}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="pixels by class as JSON"):
            read_class_pixels(tmp_path / "bad.json")
    with pytest.raises(InputError, match="pixels by class"):
        read_class_pixels(tmp_path / "none.json")


@pytest.mark.parametrize("change", [{"class 3": None}, {"class 0": -1}, dict.fromkeys(PIXELS, 0)])
def test_counts_that_do_not_fit(change: dict[str, int | None]) -> None:
    pixels = {**PIXELS, "class 3": 5, **change}
    pixels = {name: count for name, count in pixels.items() if count is not None}
    if change == dict.fromkeys(PIXELS, 0):
        pixels["class 3"] = 0
    with pytest.raises(InputError, match="prior: expected"):
        LogitAdjustment(Remember(), pixels)
