from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inference.predictors import Fixed, video

from everyframe.errors import InputError
from everyframe.inference.specialist_choice import SpecialistChoice
from everyframe.inference.specialists import Fusion, Specialists, shared_classes
from everyframe.labels import LabelSpace

GENERAL = LabelSpace(("road", "car", "bike", "sky"))
RARE = LabelSpace(("rest", "bike", "car"))
FULL = LabelSpace(("sky", "bike", "car", "road"))
FRAME = video(1)[0].image[None]


def softmax(x: torch.Tensor) -> np.ndarray:
    return x.double().softmax(0).numpy()


def test_equals_the_formula_class_by_class() -> None:
    general, rare, full = torch.randn(4, 2, 3), torch.randn(3, 2, 3), torch.randn(4, 2, 3)
    alphas = {"bike": 0.75, "sky": 0.5, "car": 0.0}
    got = Fusion(GENERAL, [RARE, FULL], alphas)([general[None], rare[None], full[None]])
    want = softmax(general)
    p_rare, p_full = softmax(rare), softmax(full)
    want[2] = 0.25 * want[2] + 0.75 * (p_rare[1] + p_full[1]) / 2  # both know bikes: their mean
    want[3] = 0.5 * want[3] + 0.5 * p_full[0]
    np.testing.assert_allclose(got.softmax(1)[0].numpy(), want / want.sum(0), atol=1e-6)


def test_alphas_of_0_change_nothing_and_of_1_replace() -> None:
    general, rare = torch.randn(1, 4, 2, 3), torch.randn(1, 3, 2, 3)
    assert Fusion(GENERAL, [RARE], {"bike": 0.0})([general, rare]) is general
    got = Fusion(GENERAL, [RARE], {"bike": 1.0})([general, rare]).softmax(1)
    ratio = got[:, 2] / got[:, 0]
    torch.testing.assert_close(ratio, rare.softmax(1)[:, 1] / general.softmax(1)[:, 0])


def test_members_of_other_strides_meet_at_the_finest_and_scores_may_be_sums() -> None:
    general, rare = torch.rand(1, 4, 4, 6), torch.rand(1, 3, 2, 3)
    fused = Fusion(GENERAL, [RARE], {"car": 0.5}, "l1")([general, rare])
    assert fused.shape == general.shape
    even = Fusion(GENERAL, [RARE], {"car": 0.5}, "l1")([torch.ones(1, 4, 2, 2), torch.ones(1, 3, 2, 2)])
    car = (0.25 + 1 / 3) / 2
    torch.testing.assert_close(even.exp()[0, :, 0, 0], torch.tensor([0.25, car, 0.25, 0.25]) / (0.75 + car))


def test_is_a_predictor_with_a_state_for_each_member() -> None:
    logits = [torch.randn(4, 2, 3), torch.randn(3, 2, 3)]
    members = [Fixed(x) for x in logits]
    members[0].label_space, members[1].label_space = GENERAL, RARE
    model = Specialists(members, {"car": 0.5})
    assert model.label_space is GENERAL
    got, state = model.step(FRAME)
    torch.testing.assert_close(got, Fusion(GENERAL, [RARE], {"car": 0.5})([x[None] for x in logits]))
    assert model.step(FRAME, state)[1] == (2, 2)
    assert "car" in repr(model)


def test_classes_are_found_by_name() -> None:
    assert shared_classes(GENERAL, [RARE]) == ["car", "bike"]
    assert shared_classes(GENERAL, [RARE, FULL], ["sky", "bike"]) == ["bike", "sky"]
    with pytest.raises(InputError, match="say with --classes"):
        shared_classes(GENERAL, [FULL])
    with pytest.raises(InputError, match="came rest; both have car, bike"):
        shared_classes(GENERAL, [RARE], ["rest"])
    with pytest.raises(InputError, match="a class in common"):
        shared_classes(GENERAL, [LabelSpace(("rest", "cat"))])
    for alphas in ({"rest": 0.5}, {"sky": 0.5}, {"car": 1.5}):
        with pytest.raises(InputError, match=r"a weight in 0\.\.1 of a class"):
            Fusion(GENERAL, [RARE], alphas)
    with pytest.raises(InputError, match="softmax or l1"):
        Fusion(GENERAL, [RARE], {}, "none")


@dataclass
class Entry:
    iou: float
    pixels: int = 10


@dataclass
class Measured:
    classes: list[Entry] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)


def choose(*rows: tuple[float, ...], pixels: int = 10, delta: float = 0.01) -> SpecialistChoice:
    """`rows`: the IoU of car and bike at alpha 0, 0.5 and 1."""
    measured: Any = {
        alpha: Measured([Entry(row[i], pixels) for row in rows]) for i, alpha in enumerate((0.0, 0.5, 1.0))
    }
    classes = {name: k for k, name in enumerate(("car", "bike")[: len(rows)])}
    return SpecialistChoice.of(("a", "b"), "data, val", "softmax", classes, measured, delta)


def test_each_class_takes_its_best_alpha_and_0_below_delta() -> None:
    assert choose((0.3, 0.5, 0.4), (0.3, 0.305, 0.309)).alphas == {"car": 0.5, "bike": 0.0}
    assert choose((0.3, 0.4, 0.4)).alphas == {"car": 0.5}, "of equals the one that changes less"
    assert choose((0.3, 0.2, 0.1)).alphas == {"car": 0.0}
    with pytest.raises(InputError, match="expected labelled frames"):
        choose((0.3, 0.4, 0.5), pixels=0)
    nowhere: Any = {a: Measured([Entry(0.0, 0), Entry(0.1 + a)]) for a in (0.0, 1.0)}
    found = SpecialistChoice.of(("a", "b"), "d", "softmax", {"car": 0, "bike": 1}, nowhere, 0.0)
    assert found.alphas == {"car": 0.0, "bike": 1.0}, "a class that does not occur has no gain"


def test_classes_that_are_good_enough_keep_to_the_general_model() -> None:
    measured: Any = {a: Measured([Entry(0.3 + a), Entry(0.29 + a)]) for a in (0.0, 0.5)}
    found = SpecialistChoice.of(("a", "b"), "d", "softmax", {"car": 0, "bike": 1}, measured, 0.0, below=0.3)
    assert found.alphas == {"car": 0.0, "bike": 0.5}


def test_what_others_lose_can_veto(tmp_path: Path) -> None:
    choice = choose((0.3, 0.5, 0.4))
    assert choice.confirmed(0.6, 0.65).alphas == {"car": 0.5}
    vetoed = choice.confirmed(0.6, 0.6)
    assert vetoed.alphas == {"car": 0.0}
    assert "other classes lost" in vetoed.table()
    assert "other classes lost" not in choice.confirmed(0.6, 0.65).table()
    assert "other classes lost" not in choose((0.3, 0.2, 0.1)).confirmed(0.6, 0.6).table()


def test_saved_and_read(tmp_path: Path) -> None:
    choice = replace(choose((0.3, 0.5, 0.4)).confirmed(0.6, 0.65), iou={"car": (0.3, float("nan"), 0.4)})
    choice.save(tmp_path / "specialists.json")
    back = SpecialistChoice.load(tmp_path / "specialists.json")
    np.testing.assert_equal(vars(back), vars(choice))
    for text in ("{}", "[]", '{"format": "else"}', ""):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=r"expected the specialists\.json"):
            SpecialistChoice.load(tmp_path / "bad.json")
