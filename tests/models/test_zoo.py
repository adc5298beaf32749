"""The zoo: every name builds, options reach their part, mistakes are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import load, save
from everyframe.models.cost import count_parameters
from everyframe.models.heads.base import Head
from everyframe.models.temporal.base import Features
from everyframe.models.temporal.identity import Identity
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


class LinearHead(Head):
    """A 1x1 classifier on the finest map, as somebody who installed the package writes it."""

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.num_classes, self.stride, self.channels = num_classes, strides[0], channels[0]
        self.classifier = nn.Conv2d(channels[0], num_classes, 1)

    def embed(self, maps: Sequence[torch.Tensor]) -> dict[str, Any]:
        return {"pixels": maps[0], **self.embed_auxiliary(maps)}

    def predict(self, embedding: dict[str, Any]) -> dict[str, Any]:
        return {"logits": self.classifier(embedding["pixels"])}


def test_a_head_of_ones_own_is_built_saved_and_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model 'linear-tiny'"):
        create_model("linear-tiny", SPACE)
    known = list(MODELS)
    monkeypatch.setitem(HEADS, "linear", LinearHead)
    assert SYSTEMS["etc-linear"] == ("linear", "etc")
    assert MODELS["linear-gru-swin-small"] == Parts("linear", "gru", "swin-small")
    assert set(MODELS) - set(known) == {
        f"{system}-{backbone}"
        for system in ("linear", "linear-gru", "etc-linear", "netwarp-linear", "linear-ssltm")
        for backbone in BACKBONES
    }
    frame = torch.randint(0, 256, (1, 3, 37, 50), dtype=torch.uint8)
    for name in ("linear-tiny", "linear-gru-tiny"):
        model = create_model(name, SPACE).eval()
        save(model, tmp_path / name)
        again = load(tmp_path / name)
        with torch.no_grad():
            assert torch.equal(again.step(frame)[0], model.step(frame)[0])
    monkeypatch.delitem(HEADS, "linear")
    with pytest.raises(InputError, match="no model 'linear-tiny'"):
        load(tmp_path / "linear-tiny")


def test_a_temporal_module_of_ones_own_goes_by_its_name_with_every_head(monkeypatch: pytest.MonkeyPatch) -> None:
    known = set(SYSTEMS)
    monkeypatch.setitem(TEMPORAL, "average", lambda head, channels, **options: Identity())
    assert set(SYSTEMS) - known == {f"{head}-average" for head in HEADS if head != "hmsa-ocr"}
    assert create_model("fcn-average-tiny", SPACE).config["name"] == "fcn-average-tiny"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_system_fits_every_backbone(backbone: str) -> None:
    frame = torch.zeros(1, 3, 50, 70, dtype=torch.uint8, device="meta")
    with torch.device("meta"):
        body = BACKBONES[backbone](False).eval()
        maps = tuple(body(frame.float()))
        # All pairs are many: the heads meet both kinds of pyramid, dilated and with four strides, on two backbones.
        systems = SYSTEMS if backbone in ("tiny", "swin-tiny") else ("uper", "mask2former-ssltm", "netwarp-ocr")
        for system, (head, time) in ((name, SYSTEMS[name]) for name in systems):
            top = HEADS[head](body.channels, body.strides, 2).eval()
            temporal = TEMPORAL[time](top, body.channels[-1]).eval()
            features = Features(maps, temporal.embed(maps, top), frame)
            _, memory = temporal(features, None, top)
            embedding, _ = temporal(features, memory, top)
            logits = top.semantic(top.predict(embedding))
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
        ("nothing like it", r"expected SYSTEM-BACKBONE .* \(`everyframe models --names` lists all"),
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


PUBLISHED = {
    "mask2former-beit-adapter-large": (568, {}),
    "mask2former-beitv2-adapter-large": (571, {"queries": 200}),
    "mask2former-swin-tiny": (47.4, {}),
    "uper-internimage-tiny": (59, {"width": 512, "auxiliary_width": 256}),
    "uper-internimage-base": (128, {"width": 512, "auxiliary_width": 256}),
    "uper-internimage-xl": (368, {"width": 512, "auxiliary_width": 256}),
    "uper-focalnet-base": (126, {"width": 512, "auxiliary_width": 256}),
    "uper-vit-adapter-small": (57.6, {"width": 512, "auxiliary_width": 256}),
}
"""Model -> millions of parameters in its publication, with 150 classes, and the head's options."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    millions, head = PUBLISHED[name]
    with torch.device("meta"):
        model = create_model(name, LabelSpace(tuple(map(str, range(150)))), head=head)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.51 if millions > 100 else 0.08)


EVA_SETS: dict[str, tuple[int, dict[str, Any]]] = {
    "A": (8, {}),
    "B": (9, {"backbone": {"relative_positions": True, "layer_scale": 1.0}, "head": {"decoder_layers": 9}}),
}
"""Published set of weights of Mask2Former on EVA-01 -> layers of its decoder, the options by which it is named here."""


@pytest.mark.parametrize("name", EVA_SETS)
def test_eva_is_a_published_set_by_name_and_the_other_by_options(name: str) -> None:
    """B has 1305.6 M with the layer that mmseg never uses; A lacks tables, layer scales and a layer of the decoder."""
    layers, options = EVA_SETS[name]
    with torch.device("meta"):
        model = create_model("mask2former-eva-adapter-giant", LabelSpace(tuple(map(str, range(150)))), **options)
    width, hidden = 1024, 4096
    table, scales = (111 * 111 + 3) * 16, 2 * 1408
    layer = 2 * (4 * width + 4) * width + (2 * width + 1) * hidden + width + 3 * 2 * width
    unused = 150 * (width + 1)
    both = count_parameters(model) + unused + (40 * (table + scales) + layer if name == "A" else 0)
    assert both / 1e6 == pytest.approx(1305.6, abs=0.05)
    names = [key for key, _ in model.named_parameters()]
    assert len({key.split(".")[2] for key in names if key.startswith("head.layers.")}) == layers
    assert any("relative_position_bias_table" in key for key in names) == (name == "B")
    assert dict(model.named_parameters())["head.query_feat.weight"].shape == (200, width)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name.endswith("micro")])
def test_micro_backbones_run_at_any_size(name: str) -> None:
    model = create_model(f"mask2former-{name}", SPACE).eval()
    with torch.no_grad():
        scores, _ = model.step(torch.randint(0, 256, (1, 3, 50, 70), dtype=torch.uint8))
    assert scores.shape == (1, 2, 13, 18)
    assert scores.isfinite().all()
    assert count_parameters(model) < 1.5e6


def test_weights_that_cannot_be_downloaded_are_named() -> None:
    with pytest.raises(InputError, match="leave `pretrained` out: train it from nothing, or convert"):
        create_model("uper-internimage-xl", SPACE, pretrained=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fcn-tiny", {"head": {"norm": "bach"}}, "expected a norm of batch, group, none, came 'bach'"),
        ("fcn-resnet18", {"backbone": {"norm": "bach"}}, "expected a norm of batch, group, none, came 'bach'"),
        ("fcn-hrnet-w18", {"backbone": {"norm": "bach"}}, "expected a norm of batch, group, none, came 'bach'"),
        ("fcn-resnet18", {"backbone": {"out_indices": [3]}}, "map of 0 to 0 or -1 to -1, came -2.*gives 1; choose"),
        ("ocr-resnet18", {"backbone": {"out_indices": [3]}}, "map of 0 to 0 or -1 to -1, came -2.*gives 1; choose"),
        *(
            (f"{head}-tiny", {"head": {"index": index}}, f"expected a map of 0 to 3 or -4 to -1, came {wrong},")
            for head in ("fcn", "ocr", "uper", "mask2former")
            for index, wrong in (([7], 7), ([-5, 0], -5))
        ),
        *(
            (f"{head}-tiny", {"head": {"index": 7}}, "expected a map of 0 to 3 or -4 to -1, came 7,")
            for head in ("fcn", "ocr", "psp", "deeplab", "segmenter")
        ),
        ("deeplab-tiny", {"head": {"fine_index": 4}}, "expected a map of 0 to 3 or -4 to -1, came 4,"),
        ("fcn-tiny", {"head": {"kernel_size": 2}}, "expected an odd kernel_size, came 2"),
        ("fcn-gru-tiny", {"temporal": {"kernel_size": 4}}, "expected an odd kernel_size, came 4"),
        *(
            (name, {part: {"heads": heads}}, f"expected a width that divides by {wrong} heads, came {width}")
            for name, part, heads, wrong, width in (
                ("ssltm-tiny", "temporal", 7, 7, 128),
                ("segmenter-tiny", "head", 7, 7, 128),
                ("fcn-swin-micro", "backbone", (1, 2, 4, 7), 7, 128),
                ("fcn-eva02-micro", "backbone", 5, 5, 48),
                ("fcn-beit-adapter-micro", "backbone", 5, 5, 48),
            )
        ),
        ("ssltm-tiny", {"temporal": {"window": (0, 7)}}, r"expected a window of 1 .*, came \(3, 0, 7\)"),
        ("ssltm-tiny", {"temporal": {"prototypes": -1}}, "expected 0 or more of depth and prototypes, came 1 and -1"),
    ],
)
def test_options_out_of_range_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"model '{name}': .*{message}"):
        create_model(name, SPACE, **options)
