"""A model that starts from another's weights: the same, with other classes, with one more module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import save
from everyframe.models.heads.base import Head
from everyframe.models.segmenter import Segmenter
from everyframe.models.state import load_state
from everyframe.models.warm_start import start_from
from everyframe.models.zoo import HEADS, create_model

STREET = LabelSpace(("sky", "road", "car"))


def made(name: str, space: LabelSpace = STREET, seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    return create_model(name, space)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(made("ocr-tiny"), tmp_path / "model")
    return tmp_path / "model"


def test_same_model_becomes_equal(saved: Path) -> None:
    model = made("ocr-tiny", seed=1)
    start = start_from(model, saved)
    assert not start.fresh
    assert not start.unused
    assert "classes" not in start.describe()
    for name, value in made("ocr-tiny").state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_classes_follow_their_names(saved: Path) -> None:
    """Of car, tree, sky: car and sky keep their rows at their new places, tree starts fresh."""
    model = made("ocr-tiny", LabelSpace(("car", "tree", "sky")), seed=1)
    fresh = model.head.classifier.weight.detach().clone()
    start = start_from(model, saved)
    source = made("ocr-tiny").head.classifier.weight
    assert torch.equal(model.head.classifier.weight[0], source[2])
    assert torch.equal(model.head.classifier.weight[1], fresh[1])
    assert torch.equal(model.head.classifier.weight[2], source[0])
    assert start.reheaded["head.classifier.weight"] == "rows of 3 classes averaged into 3"
    assert start.describe().endswith(" weights taken; classes kept: car, sky; fresh: tree")
    assert not start.fresh


def test_classes_in_another_order_are_all_kept(saved: Path) -> None:
    start = start_from(made("ocr-tiny", LabelSpace(("car", "sky", "road")), seed=1), saved)
    assert start.describe().endswith("; classes kept: car, sky, road")
    many = LabelSpace(("sky", *(f"c{i}" for i in range(20))))
    line = start_from(made("ocr-tiny", many, seed=1), saved).describe()
    assert line.endswith("classes kept: sky; fresh: " + ", ".join(f"c{i}" for i in range(12)) + " and 8 more")


def test_another_head_keeps_no_class(saved: Path) -> None:
    start = start_from(made("fcn-tiny", LabelSpace(("sky", "b")), seed=1), saved)
    assert start.describe().endswith("; classes kept: none; fresh: sky, b")


def test_new_module_starts_fresh_and_is_named(saved: Path) -> None:
    model = made("ssltm-tiny", seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start = start_from(model, saved)
    assert start.fresh
    assert all(name.startswith("temporal.") for name in start.fresh)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in start.fresh)
    assert torch.equal(model.head.classifier.weight, made("ocr-tiny").head.classifier.weight)
    assert "weights taken; fresh: temporal." in start.describe()


def test_prototypes_of_other_classes_are_left_behind(tmp_path: Path) -> None:
    """They have a row per class, and as many classes of other names would take them for their own."""
    other = made("ssltm-tiny")
    save(other, tmp_path / "model")
    model = made("ssltm-tiny", LabelSpace(("a", "b", "c")), seed=1)
    start = start_from(model, tmp_path / "model")
    assert any("prototypes" in name for name in start.fresh)
    assert not any("prototypes" in name for name in start.taken)


def test_prototypes_of_another_width_leave_empty_slots(tmp_path: Path) -> None:
    """The flags of filled slots would fit, and zeros would be attended to as if they were prototypes."""
    torch.manual_seed(0)
    old = create_model("fcn-ssltm-tiny", STREET, head={"width": 16})
    old.temporal.prototypes.filled.fill_(True)
    save(old, tmp_path / "model")
    model = create_model("fcn-ssltm-tiny", STREET, head={"width": 32})
    start = start_from(model, tmp_path / "model")
    load_state(model, old.state_dict(), strict=False)
    assert not model.temporal.prototypes.filled.any()
    assert "temporal.prototypes.filled" in start.fresh
    reseeded = create_model("fcn-ssltm-tiny", STREET, head={"width": 16}, temporal={"prototype_reseed": 5})
    assert start_from(reseeded, tmp_path / "model").fresh == ("temporal.prototypes.idle",)
    assert reseeded.temporal.prototypes.filled.all()


@pytest.mark.parametrize("name", ["uper-ssltm-tiny", "mask2former-ssltm-tiny"])
@pytest.mark.parametrize("names", [("car", "sky", "road"), ("tree", "car", "sky", "road")])
def test_coarse_scores_of_ssltm_follow_their_classes(tmp_path: Path, name: str, names: tuple[str, ...]) -> None:
    other = made(name)
    save(other, tmp_path / "model")
    model = made(name, LabelSpace(names), seed=1)
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    start_from(model, tmp_path / "model")
    for part in ("weight", "bias"):
        key = f"temporal.site.coarse.1.{part}"
        ours, theirs = model.state_dict()[key], other.state_dict()[key]
        for row, wanted in enumerate(names):
            known = wanted in STREET.names
            assert torch.equal(ours[row], theirs[STREET.names.index(wanted)] if known else fresh[key][row])


def test_backbone_alone_is_taken_by_another_head(saved: Path) -> None:
    model = made("fcn-tiny", LabelSpace(("a", "b")), seed=1)
    start = start_from(model, saved)
    assert all(name.startswith("head.") for name in start.fresh)
    assert start.describe().endswith("; classes kept: none; fresh: a, b")
    assert torch.equal(
        next(iter(model.backbone.state_dict().values())), next(iter(made("ocr-tiny").backbone.state_dict().values()))
    )


def test_other_backbone_is_refused(saved: Path) -> None:
    with pytest.raises(InputError, match="init: expected a model with the backbone of ocr-resnet18, came ocr-tiny"):
        start_from(made("ocr-resnet18"), saved)


def test_a_head_that_names_no_class_layers_takes_none_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By position a row would go to another class; a layer of other size than the number of classes is kept."""

    class Plain(Head):
        def __init__(self, channels: list[int], strides: list[int], num_classes: int) -> None:
            super().__init__()
            self.num_classes, self.stride, self.channels = num_classes, strides[0], channels[0]
            self.mix = nn.Conv2d(channels[0], channels[0], 1)
            self.out = nn.Conv2d(channels[0], num_classes, 1)

        def embed(self, maps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"pixels": self.mix(maps[0])}

        def predict(self, embedding: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"logits": self.out(embedding["pixels"])}

    monkeypatch.setitem(HEADS, "plain", Plain)
    save(made("plain-tiny"), tmp_path / "model")
    turned = made("plain-tiny", LabelSpace(("car", "road", "sky")), seed=1)
    fresh = turned.head.out.weight.detach().clone()
    start = start_from(turned, tmp_path / "model")
    assert torch.equal(turned.head.out.weight, fresh)
    assert torch.equal(turned.head.mix.weight, made("plain-tiny").head.mix.weight)
    assert start.fresh == ("head.out.weight", "head.out.bias")
    assert start.describe().endswith("; classes kept: none; fresh: car, road, sky")
    same = made("plain-tiny", seed=1)
    assert not start_from(same, tmp_path / "model").fresh
