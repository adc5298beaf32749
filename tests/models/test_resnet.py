"""ResNet against torchvision and timm, with the same weights."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision

from everyframe.models.backbones.resnet import ResNet, dilated
from everyframe.models.convert.timm import convert_backbone
from everyframe.models.cost import count_parameters
from everyframe.models.state import load_state
from everyframe.models.zoo import BACKBONES


def randomise(model: torch.nn.Module) -> None:
    """Give norms something to do."""
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.normal_()


def test_equals_torchvision() -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    randomise(theirs)
    ours = ResNet((2, 2, 2, 2), bottleneck=False, deep_stem=False).eval()
    load_state(ours, convert_backbone(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 65, 51)
    with torch.no_grad():
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for got, layer in zip(ours(x), (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True):
            y = layer(y)
            torch.testing.assert_close(got, y)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_dilated_bottlenecks_and_deep_stem_equal_timm(output_stride: int) -> None:
    theirs = timm.models.resnet.ResNet(
        timm.models.resnet.Bottleneck, (1, 2, 2, 2), num_classes=0, global_pool="", output_stride=output_stride,
        stem_width=32, stem_type="deep",
    ).eval()  # fmt: skip
    randomise(theirs)
    strides, dilations = dilated(output_stride)
    ours = ResNet((1, 2, 2, 2), strides=strides, dilations=dilations).eval()
    load_state(ours, convert_backbone(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 61, 45)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], theirs.forward_features(x), rtol=1e-4, atol=1e-4)
    assert ours.strides[-1] == output_stride


def test_dilations_of_output_stride_8() -> None:
    assert dilated(8) == ((1, 2, 1, 1), (1, 1, 2, 4))
    assert dilated(32) == ((1, 2, 2, 2), (1, 1, 1, 1))
    with pytest.raises(ValueError, match="8, 16 or 32"):
        dilated(4)


@pytest.mark.parametrize(("name", "parameters"), [("resnet101", 42_623_936), ("resnet101c", 42_519_392)])
def test_both_stems_of_resnet_101(name: str, parameters: int) -> None:
    """64, 64 and 128 channels in the VSPW code; 32, 32 and 64 in mmseg's `ResNetV1c`."""
    with torch.device("meta"):
        backbone = BACKBONES[name](False)
    assert count_parameters(backbone) == parameters
    assert isinstance(backbone, ResNet)
    assert [part.out_channels for part in backbone.stem[::3]] == (
        [64, 64, 128] if name == "resnet101" else [32, 32, 64]
    )


def test_pairs_of_convolutions_are_dilated_both_as_in_timm() -> None:
    theirs = timm.models.resnet.ResNet(
        timm.models.resnet.BasicBlock, (1, 2, 2, 2), num_classes=0, global_pool="", output_stride=8, stem_width=32,
        stem_type="deep",
    ).eval()  # fmt: skip
    randomise(theirs)
    strides, dilations = dilated(8)
    ours = ResNet((1, 2, 2, 2), bottleneck=False, strides=strides, dilations=dilations, dilate_both=True).eval()
    load_state(ours, convert_backbone(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 61, 45)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], theirs.forward_features(x), rtol=1e-4, atol=1e-4)
