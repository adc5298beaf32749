"""The backbone contract, held for every entry of the zoo: maps, channels and strides are true at any frame size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everyframe.errors import InputError
from everyframe.models.backbones.timm_backbone import TimmBackbone
from everyframe.models.zoo import BACKBONES

SIZES = [(101, 75), (64, 96), (33, 127)]
SMALL_TIMM = {
    "convolutions with a padded stem": "test_resnet",
    "patches": "test_convnext",
    "windows, channels last": "swin_tiny_patch4_window7_224",
    "plain transformer": "test_vit",
    "mobile": "mobilenetv3_small_050",
}


def check_maps(backbone: nn.Module, device: str) -> None:
    assert len(backbone.channels) == len(backbone.strides)
    assert all(
        isinstance(c, int) and isinstance(s, int) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    )
    for h, w in SIZES:
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, h, w, device=device))
        want = [(1, c, -(-h // s), -(-w // s)) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
        assert [tuple(x.shape) for x in maps] == want, f"at {h}x{w}"


@pytest.mark.parametrize("name", BACKBONES)
def test_strides_and_channels_of_the_zoo(name: str) -> None:
    with torch.device("meta"):
        backbone = BACKBONES[name](False).eval()
    check_maps(backbone, "meta")


@pytest.mark.parametrize("name", SMALL_TIMM.values(), ids=SMALL_TIMM)
def test_strides_and_channels_of_timm(name: str) -> None:
    with torch.device("meta"):
        backbone = TimmBackbone(name).eval()
    check_maps(backbone, "meta")


def test_gradient_reaches_every_parameter() -> None:
    for backbone in (BACKBONES["tiny"](False), TimmBackbone("test_convnext", output_norms=True)):
        maps = backbone.train()(torch.randn(2, 3, 45, 38))
        torch.stack([(x * torch.randn_like(x)).sum() for x in maps]).sum().backward()
        without = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not without, without


def test_swin_gradient_reaches_every_parameter() -> None:
    swin = BACKBONES["swin-tiny"](False, width=8, depths=(2, 2), heads=(1, 2), out_indices=(0, 1), output_norms=True)
    maps = swin.train()(torch.randn(2, 3, 45, 38))
    torch.stack([(x * torch.randn_like(x)).sum() for x in maps]).sum().backward()
    assert [name for name, p in swin.named_parameters() if p.grad is None] == []


def test_timm_maps_equal_timms_own_where_nothing_is_padded() -> None:
    backbone = TimmBackbone("test_convnext").eval()
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        for got, want in zip(backbone(x), backbone.model(x), strict=True):
            assert torch.equal(got, want)


def test_timm_options() -> None:
    with torch.device("meta"):
        backbone = TimmBackbone("resnet18", output_stride=8, out_indices=(2, 4), output_norms=True)
    assert backbone.strides == (8, 8)
    assert backbone.channels == (128, 512)
    assert all(isinstance(norm, nn.LayerNorm) for norm in backbone.norms)


def test_unknown_timm_name_lists_close_ones() -> None:
    with pytest.raises(InputError, match=r"timm has no model 'resnet51'.*resnet"):
        TimmBackbone("resnet51")


def test_tiny_has_no_pretrained_weights() -> None:
    with pytest.raises(InputError, match="no pretrained weights that can be downloaded by name; leave `pretrained`"):
        BACKBONES["tiny"](True)
