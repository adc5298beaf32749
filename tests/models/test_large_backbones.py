"""DCNv3 by a scalar loop, InternImage, FocalNet beside timm's, EVA-02's rotary positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.backbones.eva02 import Eva02, rotary_angles, rotate
from everyframe.models.backbones.focalnet import FocalNet
from everyframe.models.backbones.intern_image import DCNv3, InternImage
from everyframe.models.backbones.large import LARGE
from everyframe.models.convert.timm import convert_backbone
from everyframe.models.state import difference
from everyframe.training.optim import layer_ids


def dcn_by_hand(layer: DCNv3, x: Tensor) -> Tensor:
    """The published operator, number by number: x outer, y inner; the grid itself is scaled."""
    n, h, w, c = x.shape
    value = layer.input(x)
    context = F.gelu(layer.norm(layer.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
    offset = layer.offset(context).view(n, h, w, layer.groups, 9, 2)
    weight = layer.weight(context).view(n, h, w, layer.groups, 9).softmax(-1)
    per, s, out = c // layer.groups, layer.offset_scale, torch.zeros_like(value)
    for b, row, column, g, p in torch.cartesian_prod(*map(torch.arange, (n, h, w, layer.groups, 9))).tolist():
        dx, dy = offset[b, row, column, g, p].tolist()
        at_x, at_y = column + s * (p // 3 - 1 + dx), row + s * (p % 3 - 1 + dy)
        for yy in (math.floor(at_y), math.floor(at_y) + 1):
            for xx in (math.floor(at_x), math.floor(at_x) + 1):
                if 0 <= yy < h and 0 <= xx < w:
                    share = (1 - abs(at_y - yy)) * (1 - abs(at_x - xx)) * weight[b, row, column, g, p]
                    group = slice(g * per, (g + 1) * per)
                    out[b, row, column, group] += share * value[b, yy, xx, group]
    if layer.centre is not None:
        share = layer.centre(context).sigmoid().repeat_interleave(per, -1)
        out = out * (1 - share) + value * share
    return layer.output(out)


@pytest.mark.parametrize(("scale", "centre"), [(1.0, False), (2.0, True)])
def test_dcnv3_equals_a_scalar_loop(scale: float, centre: bool) -> None:
    torch.manual_seed(0)
    layer = DCNv3(6, 2, kernel=5, offset_scale=scale, centre_scale=centre)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    x = torch.randn(1, 3, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), dcn_by_hand(layer, x), rtol=1e-4, atol=1e-5)


def test_fresh_dcnv3_averages_its_neighbours() -> None:
    layer = DCNv3(4, 2)
    x = torch.randn(1, 5, 6, 4)
    value = layer.input(x).permute(0, 3, 1, 2)
    want = layer.output(F.avg_pool2d(value, 3, 1, 1).permute(0, 2, 3, 1))
    torch.testing.assert_close(layer(x), want, rtol=1e-4, atol=1e-5)


def test_focalnet_computes_what_timms_does() -> None:
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("focalnet_tiny_lrf", features_only=True).eval()
    ours = FocalNet(levels=(3,) * 4, windows=(9, 3, 5, 3), output_norms=False).eval()  # kernels of 3 in larger ones
    state = {key.replace("layers_", "layers."): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict(convert_backbone(state, ours))
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_timms_large_focalnet_has_our_shape() -> None:
    import timm

    with torch.device("meta"):
        ours = LARGE["focalnet-large"](False)
        theirs = timm.create_model("focalnet_large_fl4").state_dict()
        assert not difference(ours, convert_backbone(theirs, ours))


def test_rotation_depends_on_offsets_alone() -> None:
    """Products of turned vectors are the same for pairs of patches with the same offset."""
    torch.manual_seed(0)
    angles = rotary_angles((5, 7), 8, trained=6)
    query, key = torch.randn(8), torch.randn(8)
    turned_q, turned_k = (rotate(v.expand(35, 8), angles) for v in (query, key))
    products = (turned_q @ turned_k.T).view(5, 7, 5, 7)
    torch.testing.assert_close(products[1, 2, 3, 5], products[0, 1, 2, 4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(products[2, 2, 2, 2], query @ key, rtol=1e-4, atol=1e-5)
    assert (products[1, 2, 3, 5] - products[1, 2, 2, 5]).abs() > 1e-3


@pytest.mark.parametrize(
    "model",
    [
        InternImage(8, (1, 1, 2, 1), (1, 2, 4, 8), post_norm=False, branch_norm=True, centre_scale=True,
                    layer_scale=None, block_norms=(1,), kernel=5),
        InternImage(8, (1, 1, 1, 1), (1, 2, 4, 8), offset_scale=2.0),
        FocalNet(8, (1, 1, 1, 1), overlap=True, layer_scale=0.1, post_norm=True, modulation_norm=True, scaled=True),
        Eva02(24, 4, 3, size=(64, 64), out_indices=(0, 1, 2, 3), layer_scale=0.1, rotary=4),
        Eva02(24, 4, 3, size=(64, 64), out_indices=(0, 1, 2, 3), gated=False, inner_norms=False, mlp_ratio=2.0),
    ],
    ids=["intern-h", "intern-xl", "focal", "eva02", "eva02 with GELU"],
)  # fmt: skip
def test_odd_frames_and_gradients_everywhere(model: nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)  # weights that start at 0 hide what stands before them
    maps = model.train()(torch.randn(2, 3, 75, 90))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (c, -(-75 // s), -(-90 // s)) for c, s in zip(model.channels, model.strides, strict=True)
    ]
    sum((x * torch.randn_like(x)).sum() for x in maps).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_layer_decay_finds_the_layers() -> None:
    model = nn.ModuleDict({"backbone": InternImage(8, (1, 1, 2, 1), (1, 2, 4, 8))})
    ids = layer_ids(name for name, _ in model.named_parameters())
    assert ids["backbone.stem.0.conv.weight"] == 0
    assert ids["backbone.stages.2.blocks.1.dcn.offset.weight"] == 4
    assert ids["backbone.stages.3.blocks.0.gamma1"] == 5
