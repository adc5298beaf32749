"""The backbones that most recipes stand on, by name: ResNet, HRNet, Swin, ConvNeXt, and a tiny one for quick trials."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from everyframe.errors import InputError
from everyframe.models.backbones.hrnet import HRNet
from everyframe.models.backbones.resnet import ResNet, dilated
from everyframe.models.backbones.swin import SwinTransformer
from everyframe.models.backbones.timm_backbone import TimmBackbone


def with_weights(
    pretrained: bool, *, build: Callable[..., nn.Module], weights: str | None = None, **options: Any
) -> nn.Module:
    """A backbone of our own.

    Args:
        pretrained: whether its weights are downloaded.
        build: makes it of the options.
        weights: timm's model of the same shape, or None.
        **options: of the backbone.
    """
    name = known(weights) if pretrained else None
    backbone = build(**options)
    if name is not None:
        from everyframe.models.convert.timm import load_pretrained

        load_pretrained(backbone, name)
    return backbone


def known(weights: str | None) -> str:
    """Return the name of weights.

    Raises:
        InputError: there are none that could be downloaded by name.
    """
    if weights is None:
        raise InputError(
            "this backbone has no pretrained weights that can be downloaded by name; leave `pretrained` out: train it "
            "from nothing, or convert a published file with `everyframe convert`"
        )
    return weights


def resnet(*, output_stride: int = 8, **options: Any) -> ResNet:
    """ResNet whose last stages are dilated, so that no map is coarser than `output_stride`."""
    strides, dilations = dilated(output_stride)
    return ResNet(**{"strides": strides, "dilations": dilations, **options})


def timm_model(pretrained: bool, *, name: str, **options: Any) -> nn.Module:
    """Any timm model with feature maps."""
    return TimmBackbone(name, pretrained, **options)


_RESNET = partial(with_weights, build=resnet)
_RESNET_50 = partial(_RESNET, depths=(3, 4, 6, 3))
_RESNET_101 = partial(_RESNET, depths=(3, 4, 23, 3))
_HRNET = partial(with_weights, build=HRNet)
_SWIN = partial(with_weights, build=SwinTransformer)
_SWIN_DEEP = partial(_SWIN, depths=(2, 2, 18, 2), drop_path=0.3)
_SWIN_224 = "patch4_window7_224"

STANDARD: dict[str, Callable[..., nn.Module]] = {
    "tiny": partial(_RESNET, depths=(1, 1, 1, 1), bottleneck=False, width=16, stem_width=16),
    "resnet18": partial(_RESNET, depths=(2, 2, 2, 2), bottleneck=False, deep_stem=False, weights="resnet18.a1_in1k"),
    "resnet50": partial(_RESNET_50, stem_width=128, weights="resnet50s.gluon_in1k"),
    "resnet101": partial(_RESNET_101, stem_width=128, weights="resnet101s.gluon_in1k"),
    "resnet50c": partial(_RESNET_50, stem_width=64, weights="resnet50c.gluon_in1k"),
    "resnet101c": partial(_RESNET_101, stem_width=64, weights="resnet101c.gluon_in1k"),
    "hrnet-w18": partial(_HRNET, widths=(18, 36, 72, 144), weights="hrnet_w18.ms_aug_in1k"),
    "hrnet-w48": partial(_HRNET, weights="hrnet_w48.ms_in1k"),
    "swin-tiny": partial(_SWIN, depths=(2, 2, 6, 2), drop_path=0.2, weights=f"swin_tiny_{_SWIN_224}.ms_in1k"),
    "swin-small": partial(_SWIN_DEEP, weights=f"swin_small_{_SWIN_224}.ms_in1k"),
    "swin-base": partial(_SWIN_DEEP, width=128, heads=(4, 8, 16, 32), weights=f"swin_base_{_SWIN_224}.ms_in22k"),
    "swin-large": partial(_SWIN_DEEP, width=192, heads=(6, 12, 24, 48), weights=f"swin_large_{_SWIN_224}.ms_in22k"),
    "swin-micro": partial(_SWIN, width=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=4),
    "convnext-tiny": partial(timm_model, name="convnext_tiny.fb_in22k", output_norms=True),
    "convnext-small": partial(timm_model, name="convnext_small.fb_in22k", output_norms=True),
    "convnext-base": partial(timm_model, name="convnext_base.fb_in22k", output_norms=True),
}
"""Backbone -> builder `(pretrained, **options)`.

The stem of `resnet50` and `resnet101` has 64, 64 and 128 channels, as in the code of CSAIL and of VSPW (gluon's "s");
that of `resnet50c` and `resnet101c` 32, 32 and 64, as mmseg's `ResNetV1c`.
Tiny (0.4 M parameters, maps of stride 4, 8, 8, 8) and micro learn from nothing within minutes on two CPU cores.
"""
