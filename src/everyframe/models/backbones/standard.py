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


def resnet(pretrained: bool, *, weights: str, output_stride: int = 8, **options: Any) -> nn.Module:
    """ResNet with dilated stages; `weights` names timm's model of the same shape."""
    strides, dilations = dilated(output_stride)
    return _with_weights(ResNet(strides=strides, dilations=dilations, **options), weights, pretrained)


def swin(pretrained: bool, *, weights: str | None, **options: Any) -> nn.Module:
    """Swin Transformer; `weights` names timm's model of the same shape."""
    return _with_weights(SwinTransformer(**options), weights, pretrained)


def hrnet(pretrained: bool, *, weights: str, **options: Any) -> nn.Module:
    """HRNet; `weights` names timm's model of the same shape."""
    return _with_weights(HRNet(**options), weights, pretrained)


def tiny(pretrained: bool, **options: Any) -> nn.Module:
    """0.4 M parameters, maps of stride 4, 8, 8, 8: learns from nothing within minutes on two CPU cores."""
    if pretrained:
        raise InputError("backbone 'tiny' has no pretrained weights; leave `pretrained` out: it trains from nothing")
    strides, dilations = dilated(8)
    shape = {"depths": (1, 1, 1, 1), "bottleneck": False, "width": 16, "stem_width": 16}
    return ResNet(**{**shape, "strides": strides, "dilations": dilations, **options})


def timm_model(pretrained: bool, *, name: str, **options: Any) -> nn.Module:
    """Any timm model with feature maps."""
    return TimmBackbone(name, pretrained, **options)


def _with_weights(backbone: nn.Module, weights: str | None, pretrained: bool) -> nn.Module:
    if pretrained:
        if weights is None:
            raise InputError("this backbone has no pretrained weights; leave `pretrained` out: it trains from nothing")
        from everyframe.models.convert.timm import load_pretrained

        load_pretrained(backbone, weights)
    return backbone


_SWIN = partial(swin, depths=(2, 2, 18, 2), drop_path=0.3)
_SWIN_224 = "patch4_window7_224"

STANDARD: dict[str, Callable[..., nn.Module]] = {
    "tiny": tiny,
    "resnet18": partial(resnet, depths=(2, 2, 2, 2), bottleneck=False, deep_stem=False, weights="resnet18.a1_in1k"),
    "resnet50": partial(resnet, depths=(3, 4, 6, 3), weights="resnet50c.gluon_in1k"),
    "resnet101": partial(resnet, depths=(3, 4, 23, 3), weights="resnet101c.gluon_in1k"),
    "hrnet-w18": partial(hrnet, widths=(18, 36, 72, 144), weights="hrnet_w18.ms_aug_in1k"),
    "hrnet-w48": partial(hrnet, weights="hrnet_w48.ms_in1k"),
    "swin-tiny": partial(_SWIN, depths=(2, 2, 6, 2), drop_path=0.2, weights=f"swin_tiny_{_SWIN_224}.ms_in1k"),
    "swin-small": partial(_SWIN, weights=f"swin_small_{_SWIN_224}.ms_in1k"),
    "swin-base": partial(_SWIN, width=128, heads=(4, 8, 16, 32), weights=f"swin_base_{_SWIN_224}.ms_in22k"),
    "swin-large": partial(_SWIN, width=192, heads=(6, 12, 24, 48), weights=f"swin_large_{_SWIN_224}.ms_in22k"),
    "swin-micro": partial(swin, width=16, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=4, weights=None),
    "convnext-tiny": partial(timm_model, name="convnext_tiny.fb_in22k", output_norms=True),
    "convnext-small": partial(timm_model, name="convnext_small.fb_in22k", output_norms=True),
    "convnext-base": partial(timm_model, name="convnext_base.fb_in22k", output_norms=True),
}
"""Backbone -> builder `(pretrained, **options)`."""
