"""Configurations of mmsegmentation 1.x -> our modules: what `convert.mmseg` loads weights into.

Only what changes the numbers in eval mode and the training of the same network is read; a setting that our modules
cannot express is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from everyframe.models.backbones.hrnet import HRNet
from everyframe.models.backbones.resnet import ResNet
from everyframe.models.backbones.swin import SwinTransformer
from everyframe.models.backbones.vit import VisionTransformer
from everyframe.models.convert.mask2former_config import mask2former
from everyframe.models.convert.settings import Config, Unsupported, read
from everyframe.models.heads.base import Head
from everyframe.models.heads.deeplab import DeepLabV3PlusHead
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.heads.mask_transformer import MaskTransformerHead
from everyframe.models.heads.ocr import OCRHead
from everyframe.models.heads.psp import PSPHead
from everyframe.models.heads.uper import UperHead


def _norm(config: Config) -> str:
    """Return the name of the normalisation (see `ops.conv.NORMS`)."""
    norm = config.get("norm_cfg", {"type": "BN"} if "Res" in config.get("type", "") else None)
    if norm is None:
        return "none"
    if norm["type"] in ("BN", "BN2d", "SyncBN"):
        return "batch"
    if norm["type"] == "GN" and norm.get("num_groups", 32) == 32:
        return "group"
    raise Unsupported(f"mmseg {config.get('type')}: norm_cfg={norm!r} is not supported")


def _with_eps(module: nn.Module, config: Config) -> Any:
    """Give every normalisation the configured epsilon."""
    eps = (config.get("norm_cfg") or {}).get("eps")
    if eps is not None:
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
                part.eps = eps
    return module


# -- backbones --------------------------------------------------------------------------------------------------------


def swin(config: Config) -> SwinTransformer:
    """Build what mmseg's `SwinTransformer` is."""
    patch = config.get("patch_size", 4)
    depths = config.get("depths", (2, 2, 6, 2))
    merging = [patch] + [2] * (len(depths) - 1)
    read(
        config,
        {"embed_dims", "patch_size", "window_size", "mlp_ratio", "depths", "num_heads", "out_indices", "qkv_bias",
         "qk_scale", "patch_norm", "drop_path_rate", "use_abs_pos_embed", "in_channels", "norm_cfg"},
        strides=(merging, tuple(merging), [patch, 2, 2, 2], (patch, 2, 2, 2)),
        act_cfg=({"type": "GELU"},),
    )  # fmt: skip
    size = config.get("pretrain_img_size", 224)
    rows, columns = (size, size) if isinstance(size, int) else size
    module = SwinTransformer(
        width=config.get("embed_dims", 96),
        depths=depths,
        heads=config.get("num_heads", (3, 6, 12, 24)),
        window=config.get("window_size", 7),
        patch=patch,
        mlp_ratio=config.get("mlp_ratio", 4),
        qkv_bias=config.get("qkv_bias", True),
        qk_scale=config.get("qk_scale"),
        drop_path=config.get("drop_path_rate", 0.1),
        out_indices=config.get("out_indices", (0, 1, 2, 3)),
        output_norms=True,
        patch_norm=config.get("patch_norm", True),
        positions=(rows // patch, columns // patch) if config.get("use_abs_pos_embed", False) else None,
        in_channels=config.get("in_channels", 3),
    )
    return _with_eps(module, config)


_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet(config: Config) -> ResNet:
    """Build what mmseg's `ResNet`, `ResNetV1c` or `ResNetV1d` is."""
    read(
        config,
        {"depth", "in_channels", "stem_channels", "base_channels", "num_stages", "strides", "dilations", "out_indices",
         "norm_cfg", "contract_dilation", "deep_stem", "avg_down"},
        style=("pytorch",), conv_cfg=(None,), dcn=(None,), plugins=(None,), multi_grid=(None,),
        stage_with_dcn=([False] * 4, (False,) * 4),
    )  # fmt: skip
    stages = config.get("num_stages", 4)
    kind = config["type"]
    module = ResNet(
        depths=_DEPTHS[config["depth"]][:stages],
        bottleneck=config["depth"] >= 50,
        width=config.get("base_channels", 64),
        stem_width=config.get("stem_channels", 64),
        deep_stem=config.get("deep_stem", kind in ("ResNetV1c", "ResNetV1d")),
        strides=config.get("strides", (1, 2, 2, 2)),
        dilations=config.get("dilations", (1, 1, 1, 1)),
        contract_dilation=config.get("contract_dilation", False),
        avg_down=config.get("avg_down", kind == "ResNetV1d"),
        out_indices=config.get("out_indices", (0, 1, 2, 3)),
        norm=_norm(config),
        in_channels=config.get("in_channels", 3),
    )
    return _with_eps(module, config)


def hrnet(config: Config) -> HRNet:
    """Build what mmseg's `HRNet` is."""
    read(config, {"extra", "in_channels", "norm_cfg", "multiscale_output"}, conv_cfg=(None,))
    module = HRNet(
        stages=[config["extra"][f"stage{i}"] for i in range(1, 5)],
        multiscale=config.get("multiscale_output", True),
        norm=_norm({"norm_cfg": {"type": "BN"}, **config}),
        in_channels=config.get("in_channels", 3),
    )
    return _with_eps(module, config)


def vit(config: Config) -> VisionTransformer:
    """Build what mmseg's `VisionTransformer` is."""
    read(
        config,
        {"img_size", "patch_size", "in_channels", "embed_dims", "num_layers", "num_heads", "mlp_ratio", "qkv_bias",
         "drop_path_rate", "with_cls_token", "norm_cfg", "patch_norm", "patch_bias", "pre_norm", "final_norm",
         "interpolate_mode", "out_indices"},
        patch_pad=("corner",), output_cls_token=(False,), out_origin=(False,), num_fcs=(2,),
        act_cfg=({"type": "GELU"},), frozen_exclude=(["all"],),
    )  # fmt: skip
    size, out_indices = config.get("img_size", 224), config.get("out_indices", -1)
    module = VisionTransformer(
        width=config.get("embed_dims", 768),
        depth=config.get("num_layers", 12),
        heads=config.get("num_heads", 12),
        patch=config.get("patch_size", 16),
        size=(size, size) if isinstance(size, int) else tuple(size),
        mlp_ratio=config.get("mlp_ratio", 4),
        qkv_bias=config.get("qkv_bias", True),
        patch_norm=config.get("patch_norm", False),
        patch_bias=config.get("patch_bias", False),
        class_token=config.get("with_cls_token", True),
        pre_norm=config.get("pre_norm", False),
        final_norm=config.get("final_norm", False),
        eps=1e-5,
        drop_path=config.get("drop_path_rate", 0.0),
        interpolation=config.get("interpolate_mode", "bilinear"),
        out_indices=(out_indices,) if isinstance(out_indices, int) else out_indices,
        in_channels=config.get("in_channels", 3),
    )
    return _with_eps(module, config)


# -- heads ------------------------------------------------------------------------------------------------------------

_HEAD = {"in_channels", "in_index", "channels", "num_classes", "dropout_ratio", "norm_cfg", "align_corners"}
_FIXED = {"act_cfg": ({"type": "ReLU"},), "conv_cfg": (None,)}


def _shared(config: Config) -> dict[str, Any]:
    """Return the arguments that all heads share."""
    classes = config["num_classes"]
    if config.get("out_channels") not in (None, classes):
        raise Unsupported(f"mmseg {config['type']}: out_channels other than num_classes is not supported")
    index = config.get("in_index", -1)
    several = config.get("input_transform") == "resize_concat"
    if isinstance(index, Sequence) != several:
        raise Unsupported(f"mmseg {config['type']}: in_index={index!r} needs input_transform='resize_concat'")
    return {
        "num_classes": classes,
        "index": tuple(index) if several else index,
        "width": config["channels"],
        "dropout": max(config.get("dropout_ratio", 0.1), 0.0),
        "align_corners": config.get("align_corners", False),
        "norm": _norm(config),
    }


def fcn(config: Config, channels: Sequence[int], strides: Sequence[int], auxiliary: Head | None = None) -> FCNHead:
    """Build what mmseg's `FCNHead` is."""
    known = _HEAD | {"num_convs", "kernel_size", "concat_input", "dilation", "input_transform", "out_channels"}
    read(config, known, **_FIXED)
    return FCNHead(
        channels,
        strides,
        num_convs=config.get("num_convs", 2),
        kernel_size=config.get("kernel_size", 3),
        dilation=config.get("dilation", 1),
        concat_input=config.get("concat_input", True),
        auxiliary=auxiliary,
        **_shared(config),
    )


def psp(config: Config, channels: Sequence[int], strides: Sequence[int], auxiliary: Head | None = None) -> PSPHead:
    """Build what mmseg's `PSPHead` is."""
    read(config, _HEAD | {"pool_scales", "out_channels"}, input_transform=(None,), **_FIXED)
    bins = config.get("pool_scales", (1, 2, 3, 6))
    return PSPHead(channels, strides, bins=bins, auxiliary=auxiliary, **_shared(config))


def ocr(config: Config, channels: Sequence[int], strides: Sequence[int], auxiliary: Head | None = None) -> OCRHead:
    """Build what mmseg's `OCRHead` is; `auxiliary` is the head before it in the cascade."""
    known = _HEAD | {"ocr_channels", "input_transform", "out_channels"}
    read(config, known, scale=(1,), **_FIXED)
    key_width = config["ocr_channels"]
    return OCRHead(channels, strides, key_width=key_width, bias=False, auxiliary=auxiliary, **_shared(config))


def uper(config: Config, channels: Sequence[int], strides: Sequence[int], auxiliary: Head | None = None) -> UperHead:
    """Build what mmseg's `UPerHead` is."""
    read(config, _HEAD | {"pool_scales", "out_channels"}, input_transform=(None, "multiple_select"), **_FIXED)
    shared = _shared({**config, "in_index": -1, "input_transform": None})
    shared["index"] = tuple(config.get("in_index", range(len(channels))))
    bins = config.get("pool_scales", (1, 2, 3, 6))
    return UperHead(channels, strides, bins=bins, auxiliary=auxiliary, **shared)


def deeplab(
    config: Config, channels: Sequence[int], strides: Sequence[int], auxiliary: Head | None = None
) -> DeepLabV3PlusHead:
    """Build what mmseg's `DepthwiseSeparableASPPHead` is."""
    known = _HEAD | {"dilations", "c1_in_channels", "c1_channels", "out_channels"}
    read(config, known, input_transform=(None,), **_FIXED)
    return DeepLabV3PlusHead(
        channels,
        strides,
        fine_width=config["c1_channels"] if config["c1_in_channels"] else 0,
        dilations=config.get("dilations", (1, 6, 12, 18)),
        depthwise=True,
        auxiliary=auxiliary,
        **_shared(config),
    )


def segmenter(
    config: Config, channels: Sequence[int], strides: Sequence[int], auxiliary: Head | None = None
) -> MaskTransformerHead:
    """Build what mmseg's `SegmenterMaskTransformerHead` is."""
    read(
        config,
        _HEAD | {"num_layers", "num_heads", "embed_dims", "mlp_ratio", "drop_path_rate", "init_std", "out_channels"},
        input_transform=(None,), num_fcs=(2,), qkv_bias=(True,), act_cfg=({"type": "GELU"},), conv_cfg=(None,),
    )  # fmt: skip
    shared = _shared({**config, "norm_cfg": None})
    return MaskTransformerHead(
        channels,
        strides,
        shared["num_classes"],
        shared["index"],
        width=config["embed_dims"],
        depth=config["num_layers"],
        heads=config["num_heads"],
        mlp_ratio=config.get("mlp_ratio", 4),
        dropout=shared["dropout"],
        auxiliary=auxiliary,
    )


BACKBONES: dict[str, Callable[[Config], nn.Module]] = {
    "SwinTransformer": swin,
    "ResNet": resnet,
    "ResNetV1c": resnet,
    "ResNetV1d": resnet,
    "HRNet": hrnet,
    "VisionTransformer": vit,
}
"""Class name of an mmseg backbone -> builder."""

HEADS: dict[str, Callable[..., Head]] = {
    "FCNHead": fcn,
    "PSPHead": psp,
    "OCRHead": ocr,
    "UPerHead": uper,
    "DepthwiseSeparableASPPHead": deeplab,
    "SegmenterMaskTransformerHead": segmenter,
    "Mask2FormerHead": mask2former,
}
"""Class name of an mmseg head -> builder `(config, channels, strides, auxiliary)`."""


def build_backbone(config: Config) -> nn.Module:
    """Build a backbone from its mmseg configuration.

    Raises:
        Unsupported: a class or setting without a counterpart here.
    """
    if config["type"] not in BACKBONES:
        raise Unsupported(f"mmseg backbone {config['type']} is not built yet; there are {', '.join(BACKBONES)}")
    return BACKBONES[config["type"]](config)


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
        if stage["type"] not in HEADS:
            raise Unsupported(f"mmseg head {stage['type']} is not built yet; there are {', '.join(HEADS)}")
        head = _with_eps(HEADS[stage["type"]](stage, channels, strides, head), stage)
    return head
