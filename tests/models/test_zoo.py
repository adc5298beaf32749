"""The zoo: every name builds, options reach their part, mistakes are named."""

from __future__ import annotations

import pytest
import torch

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.temporal.base import Features
from everyframe.models.zoo import BACKBONES, HEADS, MODELS, SYSTEMS, TEMPORAL, Parts, create_model, find_parts

SPACE = LabelSpace(("road", "car"))


def test_names_follow_from_the_dicts() -> None:
    assert len(MODELS) == len(BACKBONES) * len(SYSTEMS)
    assert MODELS["ocr-swin-small"] == Parts("ocr", "", "swin-small")
    assert MODELS["ocr-gru-swin-small"] == Parts("ocr", "gru", "swin-small")
    assert MODELS["ssltm-swin-small"] == Parts("ocr", "ssltm", "swin-small")
    assert MODELS["tcb-psp-resnet101"] == Parts("psp", "tcb", "resnet101")
    assert all(parts.name == name for name, parts in MODELS.items())
    assert {pair[1] for pair in SYSTEMS.values()} == set(TEMPORAL)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_system_fits_every_backbone(backbone: str) -> None:
    frame = torch.zeros(1, 3, 50, 70, dtype=torch.uint8, device="meta")
    with torch.device("meta"):
        body = BACKBONES[backbone](False).eval()
        maps = tuple(body(frame.float()))
        for system, (head, time) in SYSTEMS.items():
            top = HEADS[head](body.channels, body.strides, 2).eval()
            temporal = TEMPORAL[time](top, body.channels[-1]).eval()
            features = Features(maps, temporal.embed(maps, top), frame)
            _, memory = temporal(features, None, top)
            embedding, _ = temporal(features, memory, top)
            logits = top.predict(embedding)["logits"]
            assert logits.shape == (1, 2, -(-50 // top.stride), -(-70 // top.stride)), system


def test_options_reach_their_part_and_are_written_down() -> None:
    model = create_model(
        "ocr-gru-tiny", SPACE, backbone={"width": 8}, head={"width": 24}, temporal={"hidden": 5}, mean=(0.5, 0.5, 0.5)
    )
    assert model.backbone.channels == (8, 16, 32, 64)
    assert model.head.channels == 24
    assert model.temporal.hidden == 5
    assert model.mean.flatten().tolist() == [127.5] * 3
    again = create_model(model.config["name"], SPACE, **model.config["options"])
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert again.config == model.config


def test_any_timm_backbone() -> None:
    model = create_model("psp-gru-timm:test_convnext", SPACE, backbone={"output_norms": True}).eval()
    logits, _ = model.step(torch.zeros(1, 3, 45, 51, dtype=torch.uint8))
    assert logits.shape == (1, 2, 2, 2)
    assert find_parts("ocr-timm:resnet10t.c3_in1k") == Parts("ocr", "", "timm:resnet10t.c3_in1k")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ocr-swin-smal", r"no model 'ocr-swin-smal'; close ones are ocr-swin-small"),
        ("psp-swins-small", r"psp-swin-small"),
        ("nothing like it", r"`everyframe models` lists all"),
        ("ocr-swin_tiny_patch4_window7_224", r"ocr-timm:NAME"),
        ("ocr-lstm-timm:resnet18", "no model"),
    ],
)
def test_unknown_names_list_close_ones(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model(name, SPACE)


def test_mistyped_options_are_named() -> None:
    with pytest.raises(InputError, match=r"'fcn-tiny': its head does not know this option: .*'widht'"):
        create_model("fcn-tiny", SPACE, head={"widht": 3})
    with pytest.raises(InputError, match="output_stride must be 8, 16 or 32, came 4"):
        create_model("fcn-resnet18", SPACE, backbone={"output_stride": 4})


def test_tiny_models_stay_tiny() -> None:
    for system in SYSTEMS:
        model = create_model(f"{system}-tiny", LabelSpace(tuple("abcdefghijk")))
        assert sum(p.numel() for p in model.parameters()) < 1.5e6
