"""Configurations of mmsegmentation's heads -> arguments of ours, and the modules that `convert.mmseg` loads.

Only what changes the numbers in eval mode and the training of the same network is read; a setting that our modules
cannot express is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from everyframe.models.convert.mask2former_config import mask2former_options
from everyframe.models.convert.mmseg_backbone_config import Options, build_backbone, norm_of, with_eps
from everyframe.models.convert.settings import Config, Unsupported, read
from everyframe.models.heads.base import Head
from everyframe.models.heads.deeplab import DeepLabV3PlusHead
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.heads.mask2former.head import Mask2FormerHead
from everyframe.models.heads.mask_transformer import MaskTransformerHead
from everyframe.models.heads.ocr import OCRHead
from everyframe.models.heads.psp import PSPHead
from everyframe.models.heads.uper import UperHead

__all__ = ["HEADS", "Unsupported", "build_backbone", "build_head", "class_count"]

_HEAD = {"in_channels", "in_index", "channels", "num_classes", "dropout_ratio", "norm_cfg", "align_corners"}
_FIXED = {"act_cfg": ({"type": "ReLU"},), "conv_cfg": (None,)}


def class_count(config: Config) -> int:
    """Return K."""
    return config.get("num_classes") or config["num_things_classes"] + config["num_stuff_classes"]


def _shared(config: Config) -> Options:
    """Return the arguments that all heads share."""
    if config.get("out_channels") not in (None, config["num_classes"]):
        raise Unsupported(f"mmseg {config['type']}: out_channels other than num_classes is not supported")
    index = config.get("in_index", -1)
    several = config.get("input_transform") == "resize_concat"
    if isinstance(index, Sequence) != several:
        raise Unsupported(f"mmseg {config['type']}: in_index={index!r} needs input_transform='resize_concat'")
    return {
        "index": tuple(index) if several else index,
        "width": config["channels"],
        "dropout": max(config.get("dropout_ratio", 0.1), 0.0),
        "align_corners": config.get("align_corners", False),
        "norm": norm_of(config),
    }


def fcn_options(config: Config) -> Options:
    """Return `FCNHead`'s arguments."""
    known = _HEAD | {"num_convs", "kernel_size", "concat_input", "dilation", "input_transform", "out_channels"}
    read(config, known, **_FIXED)
    return {
        "num_convs": config.get("num_convs", 2),
        "kernel_size": config.get("kernel_size", 3),
        "dilation": config.get("dilation", 1),
        "concat_input": config.get("concat_input", True),
        **_shared(config),
    }


def psp_options(config: Config) -> Options:
    """Return `PSPHead`'s arguments."""
    read(config, _HEAD | {"pool_scales", "out_channels"}, input_transform=(None,), **_FIXED)
    return {"bins": config.get("pool_scales", (1, 2, 3, 6)), **_shared(config)}


def ocr_options(config: Config) -> Options:
    """Return `OCRHead`'s arguments; its auxiliary head is the one before it in the cascade."""
    known = _HEAD | {"ocr_channels", "input_transform", "out_channels"}
    read(config, known, scale=(1,), **_FIXED)
    return {"key_width": config["ocr_channels"], "bias": False, **_shared(config)}


def uper_options(config: Config) -> Options:
    """Return `UperHead`'s arguments."""
    read(config, _HEAD | {"pool_scales", "out_channels"}, input_transform=(None, "multiple_select"), **_FIXED)
    shared = _shared({**config, "in_index": -1, "input_transform": None})
    index = config.get("in_index")
    return {
        **shared,
        "bins": config.get("pool_scales", (1, 2, 3, 6)),
        "index": None if index is None else tuple(index),
    }


def deeplab_options(config: Config) -> Options:
    """Return `DeepLabV3PlusHead`'s arguments for mmseg's `DepthwiseSeparableASPPHead`."""
    known = _HEAD | {"dilations", "c1_in_channels", "c1_channels", "out_channels"}
    read(config, known, input_transform=(None,), **_FIXED)
    return {
        "fine_width": config["c1_channels"] if config["c1_in_channels"] else 0,
        "dilations": config.get("dilations", (1, 6, 12, 18)),
        "depthwise": True,
        **_shared(config),
    }


def segmenter_options(config: Config) -> Options:
    """Return `MaskTransformerHead`'s arguments for mmseg's `SegmenterMaskTransformerHead`."""
    read(
        config,
        _HEAD | {"num_layers", "num_heads", "embed_dims", "mlp_ratio", "drop_path_rate", "init_std", "out_channels"},
        input_transform=(None,), num_fcs=(2,), qkv_bias=(True,), act_cfg=({"type": "GELU"},), conv_cfg=(None,),
    )  # fmt: skip
    shared = _shared({**config, "norm_cfg": None})
    return {
        "index": shared["index"],
        "width": config["embed_dims"],
        "depth": config["num_layers"],
        "heads": config["num_heads"],
        "mlp_ratio": config.get("mlp_ratio", 4),
        "dropout": shared["dropout"],
    }


class HeadKind(NamedTuple):
    """What stands behind a class name: our module, its key in `zoo.HEADS`, and how its arguments are read."""

    build: Callable[..., Head]
    name: str
    options: Callable[[Config], Options]


HEADS: dict[str, HeadKind] = {
    "FCNHead": HeadKind(FCNHead, "fcn", fcn_options),
    "PSPHead": HeadKind(PSPHead, "psp", psp_options),
    "OCRHead": HeadKind(OCRHead, "ocr", ocr_options),
    "UPerHead": HeadKind(UperHead, "uper", uper_options),
    "DepthwiseSeparableASPPHead": HeadKind(DeepLabV3PlusHead, "deeplab", deeplab_options),
    "SegmenterMaskTransformerHead": HeadKind(MaskTransformerHead, "segmenter", segmenter_options),
    "Mask2FormerHead": HeadKind(Mask2FormerHead, "mask2former", mask2former_options),
}
"""Class name of an mmseg head -> ours."""


def head_kind(config: Config) -> HeadKind:
    """Return what stands behind a head's class name.

    Raises:
        Unsupported: nothing does.
    """
    if config["type"] not in HEADS:
        raise Unsupported(f"mmseg head {config['type']} is not built yet; there are {', '.join(HEADS)}")
    return HEADS[config["type"]]


def build_head(
    config: Config | Sequence[Config], channels: Sequence[int], strides: Sequence[int], auxiliary: Config | None = None
) -> Head:
    """Build a head from its mmseg configuration.

    Args:
        config: `decode_head`; of a cascade all of its heads, each becoming the auxiliary head of the next.
        channels: channels of each backbone map.
        strides: stride of each backbone map.
        auxiliary: `auxiliary_head`, or None.

    Raises:
        Unsupported: a class or setting without a counterpart here.
    """
    cascade = [config] if isinstance(config, Mapping) else list(config)
    head = build_head(auxiliary, channels, strides) if auxiliary is not None else None
    for stage in cascade:
        kind = head_kind(stage)
        options = kind.options(stage)
        head = with_eps(kind.build(channels, strides, class_count(stage), auxiliary=head, **options), stage)
    assert head is not None, "a configuration has at least one head"
    return head
