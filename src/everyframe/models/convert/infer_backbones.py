"""Weights of a published backbone -> its configuration, read off the shapes.

What shapes do not say is taken from the published configurations, and noted in `Shapes.assumed`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from everyframe.models.convert.mmseg_backbone_config import DEPTHS
from everyframe.models.convert.settings import Unsupported
from everyframe.models.convert.shapes import Shapes, grid_side, ratio
from everyframe.models.ops.relative_position import CLASS_ROWS

Config = dict[str, Any]

HEAD_WIDTHS = {1408: 88, 1280: 80}
"""Width of a plain transformer -> channels per attention head, where it is not 64: EVA's and ViT's giant and huge."""


def swin(shapes: Shapes) -> Config:
    """`SwinTransformer`."""
    width, channels, patch, _ = shapes.of("patch_embed.projection.weight")
    stages = range(shapes.count(r"stages\.(\d+)\..+"))
    first = "stages.0.blocks.0"
    tables = [shapes.of(f"stages.{i}.blocks.0.attn.w_msa.relative_position_bias_table") for i in stages]
    hidden = shapes.of(f"{first}.ffn.layers.0.0.weight")[0]
    config = {
        "type": "SwinTransformer",
        "embed_dims": width,
        "patch_size": patch,
        "in_channels": channels,
        "depths": [shapes.count(rf"stages\.{i}\.blocks\.(\d+)\..+") for i in stages],
        "num_heads": [heads for _, heads in tables],
        "window_size": (grid_side(tables[0][0], "relative positions") + 1) // 2,
        "mlp_ratio": ratio(hidden, width),
        "qkv_bias": f"{first}.attn.w_msa.qkv.bias" in shapes,
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "out_indices": shapes.numbers(r"norm(\d+)\.weight"),
        "strides": [patch] + [2] * (len(stages) - 1),
    }
    if "absolute_pos_embed" in shapes:
        config["use_abs_pos_embed"] = True
        config["pretrain_img_size"] = patch * grid_side(shapes["absolute_pos_embed"][1], "absolute positions")
    return config


def resnet(shapes: Shapes) -> Config:
    """`ResNet`, `ResNetV1c`, `ResNetV1d`, with the stages dilated to stride 8 (`resnet_plain` undoes that)."""
    deep = "stem.0.weight" in shapes
    depths = tuple(shapes.count(rf"layer{i}\.(\d+)\..+") for i in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in shapes
    depth = next((d for d, blocks in DEPTHS.items() if blocks == depths and (d >= 50) == bottleneck), None)
    if depth is None:
        raise Unsupported(f"ResNet: expected the blocks of one of {', '.join(map(str, DEPTHS))}, came {depths}")
    averaged = "layer2.0.downsample.2.weight" in shapes
    shapes.assume("ResNet stages dilated to stride 8, as in the published PSPNet, DeepLab, FCN and OCRNet")
    return {
        "type": "ResNetV1d" if averaged else "ResNetV1c" if deep else "ResNet",
        "depth": depth,
        "base_channels": shapes.of("layer1.0.conv1.weight")[0],
        "stem_channels": shapes.of("stem.6.weight" if deep else "conv1.weight")[0],
        "in_channels": shapes.of("stem.0.weight" if deep else "conv1.weight")[1],
        "strides": (1, 2, 1, 1),
        "dilations": (1, 1, 2, 4),
        "contract_dilation": True,
        "norm_cfg": {"type": "BN"},
    }


def resnet_plain(config: Config, shapes: Shapes) -> Config:
    """Take the dilation back: for UperNet, whose published ResNets have maps of stride 4, 8, 16, 32."""
    shapes.assumed[:] = [line for line in shapes.assumed if not line.startswith("ResNet stages")]
    shapes.assume("ResNet stages of stride 4, 8, 16, 32, as in the published UperNet")
    return {**config, "strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1), "contract_dilation": False}


def hrnet(shapes: Shapes) -> Config:
    """`HRNet`."""
    bottleneck = "layer1.0.conv3.weight" in shapes
    stages: Config = {
        "stage1": {
            "num_modules": 1,
            "num_branches": 1,
            "block": "BOTTLENECK" if bottleneck else "BASIC",
            "num_blocks": [shapes.count(r"layer1\.(\d+)\..+")],
            "num_channels": [shapes.of("layer1.0.conv1.weight")[0]],
        }
    }
    for i in range(2, 5):
        branch = rf"stage{i}\.0\.branches"
        count = shapes.count(rf"{branch}\.(\d+)\..+")
        stages[f"stage{i}"] = {
            "num_modules": shapes.count(rf"stage{i}\.(\d+)\..+"),
            "num_branches": count,
            "block": "BOTTLENECK" if f"stage{i}.0.branches.0.0.conv3.weight" in shapes else "BASIC",
            "num_blocks": [shapes.count(rf"{branch}\.{b}\.(\d+)\..+") for b in range(count)],
            "num_channels": [shapes.of(f"stage{i}.0.branches.{b}.0.conv1.weight")[0] for b in range(count)],
        }
    return {"type": "HRNet", "extra": stages, "norm_cfg": {"type": "BN"}}


def vision_transformer(shapes: Shapes) -> Config:
    """`VisionTransformer` as in the published Segmenter."""
    width, channels, patch, _ = shapes.of("patch_embed.projection.weight")
    side = grid_side(shapes.of("pos_embed")[1] - 1, "absolute positions")
    shapes.assume("ViT positions resized bicubically, LayerNorm epsilon 1e-6, as in the published Segmenter")
    return {
        "type": "VisionTransformer",
        "img_size": (side * patch, side * patch),
        "patch_size": patch,
        "in_channels": channels,
        "embed_dims": width,
        "num_layers": shapes.count(r"layers\.(\d+)\..+"),
        "num_heads": _heads(shapes, width),
        "mlp_ratio": ratio(shapes.of("layers.0.ffn.layers.0.0.weight")[0], width),
        "qkv_bias": "layers.0.attn.attn.in_proj_bias" in shapes,
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "patch_bias": "patch_embed.projection.bias" in shapes,
        "pre_norm": "pre_ln.weight" in shapes,
        "final_norm": "ln1.weight" in shapes,
        "with_cls_token": "cls_token" in shapes,
        "norm_cfg": {"type": "LN", "eps": 1e-6},
        "interpolate_mode": "bicubic",
    }


def adapter(shapes: Shapes) -> Config:
    """`BEiTAdapter` and `ViTAdapter` of ViT-Adapter and EVA-01."""
    width, channels, patch, _ = shapes.of("patch_embed.proj.weight")
    depth, groups = shapes.count(r"blocks\.(\d+)\..+"), shapes.count(r"interactions\.(\d+)\..+")
    extractor = "interactions.0.extractor"
    sampled = shapes.of(f"{extractor}.attn.attention_weights.weight")[0]
    shapes.assume("4 sampling points per head in the adapter, groups of equally many blocks")
    fc1 = shapes.get(f"{extractor}.ffn.fc1.weight")
    config: Config = {
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": depth,
        "mlp_ratio": ratio(shapes.of("blocks.0.mlp.fc1.weight")[0], width),
        "conv_inplane": shapes.of("spm.stem.0.weight")[0],
        "n_points": 4,
        "deform_num_heads": sampled // 4,
        "deform_ratio": shapes.of(f"{extractor}.attn.value_proj.weight")[0] / width,
        "with_cffn": fc1 is not None,
        "cffn_ratio": 0.25 if fc1 is None else ratio(fc1[0], width),
        "interaction_indexes": [[i * depth // groups, (i + 1) * depth // groups - 1] for i in range(groups)],
        "use_extra_extractor": shapes.has(r"interactions\.\d+\.extra_extractors\..+"),
        "drop_path_rate": 0.3,
    }
    if "blocks.0.attn.qkv.bias" in shapes:
        return _plain_adapter(shapes, config)
    table = shapes.get("blocks.0.attn.relative_position_bias_table")
    if table is not None:
        side = (grid_side(table[0] - CLASS_ROWS, "relative positions") + 1) // 2
        config["num_heads"] = table[1]
    else:
        side = grid_side(shapes.of("pos_embed")[1] - 1, "absolute positions")
        config["num_heads"] = _heads(shapes, width)
    return {
        **config,
        "type": "BEiTAdapter",
        "img_size": side * patch,
        "qkv_bias": "blocks.0.attn.q_bias" in shapes,
        "use_abs_pos_emb": "pos_embed" in shapes,
        "use_rel_pos_bias": table is not None,
        "init_values": 1e-6 if shapes.has(r"blocks\.0\.gamma_?1") else None,
    }


def _plain_adapter(shapes: Shapes, config: Config) -> Config:
    patch = config["patch_size"]
    shapes.assume("global attention in all blocks of the ViT, as in the published segmentation models")
    return {
        **config,
        "type": "ViTAdapter",
        "pretrain_size": patch * grid_side(shapes.of("pos_embed")[1] - 1, "absolute positions"),
        "num_heads": _heads(shapes, config["embed_dim"]),
        "layer_scale": shapes.has(r"blocks\.0\.gamma_?1"),
    }


def intern_image(shapes: Shapes) -> Config:
    """`InternImage`."""
    width = shapes.of("patch_embed.conv2.weight")[0]
    stages = range(shapes.count(r"levels\.(\d+)\..+"))
    first = "levels.0.blocks.0"
    depths = [shapes.count(rf"levels\.{i}\.blocks\.(\d+)\..+") for i in stages]
    centre = f"{first}.dcn.center_feature_scale_proj_weight" in shapes
    last_norm = "levels.0.norm.0.weight" in shapes
    post_norms = shapes.count(r"levels\.2\.post_norms\.(\d+)\..+")
    scale = 2.0 if width in (160, 192) and not last_norm else 1.0
    shapes.assume(f"InternImage offsets scaled by {scale:g}, as published for this width")
    if post_norms:
        shapes.assume("further norms behind every sixth block of the third stage, as in InternImage-H")
    return {
        "type": "InternImage",
        "channels": width,
        "depths": depths,
        "groups": [shapes.of(f"levels.{i}.blocks.0.dcn.offset.weight")[0] // 18 for i in stages],
        "mlp_ratio": ratio(shapes.of(f"{first}.mlp.fc1.weight")[0], width),
        "layer_scale": 1.0 if f"{first}.gamma1" in shapes else None,
        "offset_scale": scale,
        "post_norm": not last_norm,
        "dw_kernel_size": shapes.of(f"{first}.dcn.dw_conv.0.weight")[-1],
        "res_post_norm": f"{first}.res_post_norm1.0.weight" in shapes,
        "level2_post_norm": post_norms > 0,
        "level2_post_norm_block_ids": [6 * i + 5 for i in range(post_norms)],
        "center_feature_scale": centre,
        "drop_path_rate": 0.4,
    }


def focalnet(shapes: Shapes) -> Config:
    """`FocalNet` of the segmentation code."""
    width, channels, kernel, _ = shapes.of("patch_embed.proj.weight")
    stages = range(shapes.count(r"layers\.(\d+)\..+"))
    scaled = "layers.0.blocks.0.gamma_1" in shapes
    focal = "layers.{}.blocks.0.modulation.focal_layers"
    shapes.assume(f"FocalNet norms {'behind' if scaled else 'before'} the branches, as published")
    return {
        "type": "FocalNet",
        "embed_dim": width,
        "in_chans": channels,
        "depths": [shapes.count(rf"layers\.{i}\.blocks\.(\d+)\..+") for i in stages],
        "focal_levels": [shapes.count(rf"layers\.{i}\.blocks\.0\.modulation\.focal_layers\.(\d+)\..+") for i in stages],
        "focal_windows": [shapes.of(f"{focal.format(i)}.0.0.weight")[-1] for i in stages],
        "mlp_ratio": ratio(shapes.of("layers.0.blocks.0.mlp.fc1.weight")[0], width),
        "use_conv_embed": kernel == 7,
        "use_layerscale": scaled,
        "use_postln": scaled,
        "use_postln_in_modulation": "layers.0.blocks.0.modulation.ln.weight" in shapes,
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "out_indices": shapes.numbers(r"norm(\d+)\.weight"),
        "drop_path_rate": 0.3,
    }


def eva02(shapes: Shapes) -> Config:
    """`EVA2` of the segmentation code."""
    width, channels, patch, _ = shapes.of("patch_embed.proj.weight")
    depth = shapes.count(r"blocks\.(\d+)\..+")
    gated = "blocks.0.mlp.w1.weight" in shapes
    hidden = shapes.of("blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight")[0]
    shapes.assume("EVA-02 maps after blocks 8, 12, 16, 24 of 24, rotary positions of 16 patches, as published")
    return {
        "type": "EVA2",
        "img_size": patch * grid_side(shapes.of("pos_embed")[1] - 1, "absolute positions"),
        "patch_size": patch,
        "in_chans": channels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": _heads(shapes, width),
        "mlp_ratio": ratio(hidden, width),
        "qkv_bias": "blocks.0.attn.q_bias" in shapes,
        "rope": True,
        "pt_hw_seq_len": 16,
        "naiveswiglu": gated,
        "subln": "blocks.0.mlp.ffn_ln.weight" in shapes,
        "init_values": 1.0 if "blocks.0.gamma_1" in shapes else None,
        "out_indices": [depth * third // 6 - 1 for third in (2, 3, 4, 6)],
    }


def _heads(shapes: Shapes, width: int) -> int:
    heads = max(1, width // HEAD_WIDTHS.get(width, 64))
    shapes.assume(f"{heads} attention heads ({width // heads} channels each)")
    return heads


class Mark(NamedTuple):
    """How a backbone is known by its keys, and how its configuration is read off them."""

    patterns: tuple[str, ...]
    infer: Callable[[Shapes], Config]


BACKBONES: dict[str, Mark] = {
    "vit-adapter": Mark((r"spm\.stem\.0\.weight", r"interactions\.0\..+"), adapter),
    "internimage": Mark((r"levels\.0\.blocks\.0\.dcn\..+",), intern_image),
    "focalnet": Mark((r"layers\.0\.blocks\.0\.modulation\.f\.weight", r"patch_embed\.proj\.weight"), focalnet),
    "eva02": Mark((r"blocks\.0\.attn\.(?:q_proj|rope).+", r"fpn1\..+"), eva02),
    "swin": Mark((r"stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight",), swin),
    "vit": Mark((r"layers\.0\.attn\.attn\.in_proj_weight", "pos_embed"), vision_transformer),
    "hrnet": Mark((r"stage2\.0\.branches\..+",), hrnet),
    "resnet": Mark((r"layer1\.0\.conv1\.weight", r"(?:stem\.0|conv1)\.weight"), resnet),
}
"""Backbone -> its marks; the first whose patterns all fit is it."""


def find_backbone(shapes: Shapes) -> str | None:
    """Return the key of `BACKBONES` that weights without prefix belong to."""
    return next((name for name, mark in BACKBONES.items() if all(map(shapes.has, mark.patterns))), None)
