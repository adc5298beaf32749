"""Configurations of mmsegmentation's backbones -> arguments of ours.

Only what changes the numbers in eval mode and the training of the same network is read; a setting that our modules
cannot express is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from everyframe.models.backbones.hrnet import HRNet
from everyframe.models.backbones.resnet import ResNet
from everyframe.models.backbones.swin import SwinTransformer
from everyframe.models.backbones.vit import VisionTransformer
from everyframe.models.convert.settings import Config, Unsupported, read

Options = dict[str, Any]
"""Arguments of one of our constructors."""

NORMS = nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm
"""Normalisations with an epsilon."""


def norm_of(config: Config) -> str:
    """Return the name of the normalisation (see `ops.conv.NORMS`)."""
    norm = config.get("norm_cfg", {"type": "BN"} if "Res" in config.get("type", "") else None)
    if norm is None:
        return "none"
    if norm["type"] in ("BN", "BN2d", "SyncBN"):
        return "batch"
    if norm["type"] == "GN" and norm.get("num_groups", 32) == 32:
        return "group"
    raise Unsupported(f"mmseg {config.get('type')}: norm_cfg={norm!r} is not supported")


def with_eps(module: nn.Module, config: Config) -> Any:
    """Give every normalisation the configured epsilon."""
    eps = (config.get("norm_cfg") or {}).get("eps")
    if eps is not None:
        for part in module.modules():
            if isinstance(part, NORMS):
                part.eps = eps
    return module


def swin_options(config: Config) -> Options:
    """Return `SwinTransformer`'s arguments."""
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
    return {
        "width": config.get("embed_dims", 96),
        "depths": depths,
        "heads": config.get("num_heads", (3, 6, 12, 24)),
        "window": config.get("window_size", 7),
        "patch": patch,
        "mlp_ratio": config.get("mlp_ratio", 4),
        "qkv_bias": config.get("qkv_bias", True),
        "qk_scale": config.get("qk_scale"),
        "drop_path": config.get("drop_path_rate", 0.1),
        "out_indices": config.get("out_indices", (0, 1, 2, 3)),
        "output_norms": True,
        "patch_norm": config.get("patch_norm", True),
        "positions": (rows // patch, columns // patch) if config.get("use_abs_pos_embed", False) else None,
        "in_channels": config.get("in_channels", 3),
    }


DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Number in a ResNet's name -> blocks of each stage."""


def resnet_options(config: Config) -> Options:
    """Return `ResNet`'s arguments for mmseg's `ResNet`, `ResNetV1c` or `ResNetV1d`."""
    read(
        config,
        {"depth", "in_channels", "stem_channels", "base_channels", "num_stages", "strides", "dilations", "out_indices",
         "norm_cfg", "contract_dilation", "deep_stem", "avg_down"},
        style=("pytorch",), conv_cfg=(None,), dcn=(None,), plugins=(None,), multi_grid=(None,),
        stage_with_dcn=([False] * 4, (False,) * 4),
    )  # fmt: skip
    stages = config.get("num_stages", 4)
    kind = config["type"]
    if config["depth"] not in DEPTHS:
        raise Unsupported(
            f"mmseg {kind}: depth={config['depth']!r} is not supported, only {', '.join(map(str, DEPTHS))}"
        )
    return {
        "depths": DEPTHS[config["depth"]][:stages],
        "bottleneck": config["depth"] >= 50,
        "width": config.get("base_channels", 64),
        "stem_width": config.get("stem_channels", 64),
        "deep_stem": config.get("deep_stem", kind in ("ResNetV1c", "ResNetV1d")),
        "strides": config.get("strides", (1, 2, 2, 2)),
        "dilations": config.get("dilations", (1, 1, 1, 1)),
        "contract_dilation": config.get("contract_dilation", False),
        "avg_down": config.get("avg_down", kind == "ResNetV1d"),
        "out_indices": config.get("out_indices", (0, 1, 2, 3)),
        "norm": norm_of(config),
        "in_channels": config.get("in_channels", 3),
    }


def hrnet_options(config: Config) -> Options:
    """Return `HRNet`'s arguments."""
    read(config, {"extra", "in_channels", "norm_cfg", "multiscale_output"}, conv_cfg=(None,))
    return {
        "stages": [config["extra"][f"stage{i}"] for i in range(1, 5)],
        "multiscale": config.get("multiscale_output", True),
        "norm": norm_of({"norm_cfg": {"type": "BN"}, **config}),
        "in_channels": config.get("in_channels", 3),
    }


def vit_options(config: Config) -> Options:
    """Return `VisionTransformer`'s arguments."""
    read(
        config,
        {"img_size", "patch_size", "in_channels", "embed_dims", "num_layers", "num_heads", "mlp_ratio", "qkv_bias",
         "drop_path_rate", "with_cls_token", "norm_cfg", "patch_norm", "patch_bias", "pre_norm", "final_norm",
         "interpolate_mode", "out_indices"},
        patch_pad=("corner",), output_cls_token=(False,), out_origin=(False,), num_fcs=(2,),
        act_cfg=({"type": "GELU"},), frozen_exclude=(["all"],),
    )  # fmt: skip
    size, out_indices = config.get("img_size", 224), config.get("out_indices", -1)
    return {
        "width": config.get("embed_dims", 768),
        "depth": config.get("num_layers", 12),
        "heads": config.get("num_heads", 12),
        "patch": config.get("patch_size", 16),
        "size": (size, size) if isinstance(size, int) else tuple(size),
        "mlp_ratio": config.get("mlp_ratio", 4),
        "qkv_bias": config.get("qkv_bias", True),
        "patch_norm": config.get("patch_norm", False),
        "patch_bias": config.get("patch_bias", False),
        "class_token": config.get("with_cls_token", True),
        "pre_norm": config.get("pre_norm", False),
        "final_norm": config.get("final_norm", False),
        "eps": (config.get("norm_cfg") or {}).get("eps", 1e-5),
        "drop_path": config.get("drop_path_rate", 0.0),
        "interpolation": config.get("interpolate_mode", "bicubic"),
        "out_indices": (out_indices,) if isinstance(out_indices, int) else out_indices,
        "in_channels": config.get("in_channels", 3),
    }


class BackboneKind(NamedTuple):
    """What stands behind a class name: our module, and how its arguments are read."""

    build: Callable[..., nn.Module]
    options: Callable[[Config], Options]

    def from_config(self, config: Config) -> Any:
        """Build our module from the published configuration."""
        return self.build(**self.options(config))


_RESNET = BackboneKind(ResNet, resnet_options)

BACKBONES: dict[str, BackboneKind] = {
    "SwinTransformer": BackboneKind(SwinTransformer, swin_options),
    "ResNet": _RESNET,
    "ResNetV1c": _RESNET,
    "ResNetV1d": _RESNET,
    "HRNet": BackboneKind(HRNet, hrnet_options),
    "VisionTransformer": BackboneKind(VisionTransformer, vit_options),
}
"""Class name of an mmseg backbone -> ours."""


def build_backbone(config: Config) -> nn.Module:
    """Build a backbone from its mmseg configuration.

    Raises:
        Unsupported: a class or setting without a counterpart here.
    """
    if config["type"] not in BACKBONES:
        raise Unsupported(f"mmseg backbone {config['type']} is not built yet; there are {', '.join(BACKBONES)}")
    return with_eps(BACKBONES[config["type"]].from_config(config), config)
