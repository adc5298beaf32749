"""Each place where the VSPW 2023 model may drop something is an option of its own, and off unless asked for."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from everyframe.labels import LabelSpace
from everyframe.models.heads.mask2former.transformer_decoder import Attention
from everyframe.models.ops.drop_path import DropPath
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model
from everyframe.training.recipe import read_recipe, resolve

PLACES = {
    "model.backbone.drop_path": r"backbone\.(trunk\.blocks\.[1-3]|(extra_)?extractors\.\d)\.drop_path",
    "model.backbone.dropout": r"backbone\.trunk\.(dropout|blocks\.\d\.(attention\.dropout|mlp\.3))",
    "model.head.encoder_dropout": r"head\.pixel_decoder\.layers\.\d\.(dropout|mlp\.2)",
    "model.head.attention_dropout": r"head\.layers\.\d\.(cross|self)_attention",
    "model.head.projection_dropout": r"head\.layers\.\d\.projection_dropout",
    "model.head.mlp_dropout": r"head\.layers\.\d\.(mlp\.2|mlp_dropout)",
}
"""Option -> modules that it reaches (of the first block no branch is ever left out: the rate rises from 0)."""


def built(on: tuple[str, ...]) -> Segmenter:
    """The model of the recipe with a backbone of the same family that is small, as the command line would build it."""
    small = {"model.pretrained": False, "model.name": "mask2former-beit-adapter-micro"}
    plain = {"model.backbone": {}, "model.head": {}, "data.data": "x", "out": "y"}
    config = resolve(read_recipe("vspw2023-contrastive"), {**small, **plain, **{key: "0.25" for key in on}})
    torch.manual_seed(0)
    return create_model(label_space=LabelSpace(("a", "b")), **config["model"])


def dropped(model: Segmenter) -> dict[str, float]:
    """Name of each module that drops something -> how much."""
    found = {}
    for name, module in model.named_modules():
        share = 0.0
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            share = module.p
        elif isinstance(module, DropPath):
            share = module.probability
        elif isinstance(module, Attention):
            share = module.dropout
        if share:
            found[name] = share
    return found


def test_nothing_is_dropped_by_default() -> None:
    assert dropped(built(on=())) == {}


@pytest.mark.parametrize("option", PLACES)
def test_each_place_alone(option: str) -> None:
    model = built(on=(option,))
    found = dropped(model)
    assert found
    assert max(found.values()) == 0.25
    assert all(re.fullmatch(PLACES[option], name) for name in found), found
    every = [name for name, _ in model.named_modules() if re.fullmatch(PLACES[option], name)]
    assert set(found) == set(every)


def test_dropout_is_for_training_alone() -> None:
    model, plain = built(on=tuple(PLACES)), built(on=())
    plain.load_state_dict(model.state_dict())
    frame = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(model.eval().step(frame)[0], plain.eval().step(frame)[0])
        first, second = (model.train().step(frame)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_the_recipe_drops_branches_as_the_preset_says() -> None:
    """0.5 in the last block of 24, as in EVA's segmentation models; nothing else is dropped."""
    config = resolve(read_recipe("vspw2023-contrastive"), {"data.data": "x", "out": "y"})
    config["model"]["pretrained"] = False
    with torch.device("meta"):
        found = dropped(create_model(label_space=LabelSpace(("a", "b")), **config["model"]))
    assert found["backbone.trunk.blocks.23.drop_path"] == 0.5
    assert all(name.endswith("drop_path") for name in found)
