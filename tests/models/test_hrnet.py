"""HRNet beside timm's, with the same weights."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from everyframe.models.backbones.hrnet import HRNet
from everyframe.models.convert.timm import convert_backbone
from everyframe.models.state import load_state


def test_equals_timm_but_for_how_coarse_maps_grow() -> None:
    """timm repeats cells, mmseg interpolates: timm is told to interpolate."""
    theirs = timm.create_model("hrnet_w18_small").eval()
    for module in theirs.modules():
        if isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
    stages = [
        {"num_modules": 1, "block": "BOTTLENECK", "num_blocks": [1], "num_channels": [32]},
        *(
            {"num_modules": 1, "block": "BASIC", "num_blocks": [2] * n, "num_channels": [16, 32, 64, 128][:n]}
            for n in (2, 3, 4)
        ),
    ]
    ours = HRNet(stages=stages).eval()
    load_state(ours, convert_backbone(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        want = theirs.stages(theirs.act2(theirs.bn2(theirs.conv2(theirs.act1(theirs.bn1(theirs.conv1(x)))))))
        got = ours(x)
    assert len(got) == len(want) == 4
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("multiscale", [True, False])
def test_channels_and_strides_at_odd_sizes(multiscale: bool) -> None:
    with torch.device("meta"):
        model = HRNet(widths=(4, 8, 16, 32), depth=1, modules=(1, 2, 1), multiscale=multiscale)
        maps = model(torch.zeros(1, 3, 101, 75))
    assert model.strides == ((4, 8, 16, 32) if multiscale else (4,))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (c, -(-101 // s), -(-75 // s)) for c, s in zip(model.channels, model.strides, strict=True)
    ]


def test_gradient_reaches_every_parameter() -> None:
    model = HRNet(widths=(2, 4, 6, 8), depth=1, modules=(1, 1, 1), first_width=2, first_depth=1)
    sum((x * torch.randn_like(x)).sum() for x in model(torch.randn(2, 3, 48, 64))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
