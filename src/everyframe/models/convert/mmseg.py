"""Checkpoints of mmsegmentation 1.x -> ours: one table per part, in the order of its forward pass.

The layouts were read off published checkpoints' keys; the numbers behind them are held by the parity cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from everyframe.errors import InputError
from everyframe.models.convert.keys import WEIGHT, Rule, Table, conv_module, convert, left_out, nested
from everyframe.models.convert.mask2former import COMPUTED, MASK2FORMER, NEVER_USED
from everyframe.models.state import State

CLASSIFIER = Rule(rf"conv_seg\.{WEIGHT}", r"classifier.\1")

SWIN: Table = [
    Rule(r"absolute_pos_embed", "absolute_positions"),
    Rule(rf"patch_embed\.(projection|norm)\.{WEIGHT}", r"patch_embed.\1.\2"),
    left_out(r"(stages\.\d+\.blocks\.\d+)\.attn\.w_msa\.relative_position_index", COMPUTED),
    Rule(r"(stages\.\d+\.blocks\.\d+)\.attn\.w_msa\.relative_position_bias_table",
         r"\1.attention.relative_position_bias_table"),
    Rule(rf"(stages\.\d+\.blocks\.\d+)\.attn\.w_msa\.qkv\.{WEIGHT}", r"\1.attention.qkv.\2"),
    Rule(rf"(stages\.\d+\.blocks\.\d+)\.attn\.w_msa\.proj\.{WEIGHT}", r"\1.attention.projection.\2"),
    Rule(rf"(stages\.\d+\.blocks\.\d+)\.(norm1|norm2)\.{WEIGHT}", r"\1.\2.\3"),
    Rule(rf"(stages\.\d+\.blocks\.\d+)\.ffn\.layers\.0\.0\.{WEIGHT}", r"\1.mlp.0.\2"),
    Rule(rf"(stages\.\d+\.blocks\.\d+)\.ffn\.layers\.1\.{WEIGHT}", r"\1.mlp.2.\2"),
    Rule(rf"(stages\.\d+)\.downsample\.(norm|reduction)\.{WEIGHT}", r"\1.downsample.\2.\3"),
]  # fmt: skip
"""`SwinTransformer`, without its output norms (`backbone_table` adds them)."""

RESNET: Table = [
    Rule(r"(stem|layer\d+\.\d+\.(?:conv|bn)\d|layer\d+\.\d+\.downsample)\.(.+)", r"\1.\2"),
    Rule(r"conv1\.(.+)", r"stem.0.\1"),
    Rule(r"bn1\.(.+)", r"stem.1.\1"),
]
"""`ResNet`, `ResNetV1c`, `ResNetV1d`: torchvision's names, with mmseg's `stem` for the deep stem."""

HRNET: Table = [Rule(r"((?:conv|bn)\d|layer1|transition\d|stage\d)(\..+)", r"\1\2")]
"""`HRNet`: the same names."""

_BLOCK = [
    Rule(rf"layers\.(\d+)\.ln(\d)\.{WEIGHT}", r"blocks.\1.norm\2.\3"),
    Rule(rf"layers\.(\d+)\.attn\.attn\.in_proj_{WEIGHT}", r"blocks.\1.attention.qkv.\2"),
    Rule(rf"layers\.(\d+)\.attn\.attn\.out_proj\.{WEIGHT}", r"blocks.\1.attention.output.\2"),
    Rule(rf"layers\.(\d+)\.ffn\.layers\.0\.0\.{WEIGHT}", r"blocks.\1.mlp.0.\2"),
    Rule(rf"layers\.(\d+)\.ffn\.layers\.1\.{WEIGHT}", r"blocks.\1.mlp.3.\2"),
]
"""`TransformerEncoderLayer`."""

VIT: Table = [
    *_BLOCK,
    Rule(r"cls_token", "class_token"),
    Rule(r"pos_embed", "positions"),
    Rule(rf"patch_embed\.(projection|norm)\.{WEIGHT}", r"patch_embed.\1.\2"),
    Rule(rf"pre_ln\.{WEIGHT}", r"pre_norm.\1"),
    Rule(rf"ln1\.{WEIGHT}", r"norm.\1"),
]
"""`VisionTransformer`."""

FCN: Table = [
    *conv_module(r"convs\.(\d+)", r"convs.\1"),
    *conv_module("conv_cat", "join"),
    CLASSIFIER,
]
"""`FCNHead`."""

PSP: Table = [
    *conv_module(r"psp_modules\.(\d+)\.1", r"pyramid.levels.\1"),
    *conv_module("bottleneck", "bottleneck"),
    CLASSIFIER,
]
"""`PSPHead`."""

OCR: Table = [
    *conv_module("bottleneck", "neck"),
    *conv_module(r"object_context_block\.query_project\.(\d+)", r"attention.to_query.\1"),
    *conv_module(r"object_context_block\.key_project\.(\d+)", r"attention.to_key.\1"),
    *conv_module(r"object_context_block\.value_project", "attention.to_value.0"),
    *conv_module(r"object_context_block\.out_project", "attention.to_output.0"),
    *conv_module(r"object_context_block\.bottleneck", "fuse"),
    CLASSIFIER,
]
"""`OCRHead`, without the head before it in the cascade."""

UPER: Table = [
    *PSP,
    *conv_module(r"lateral_convs\.(\d+)", r"laterals.\1"),
    *conv_module(r"fpn_convs\.(\d+)", r"smooth.\1"),
    *conv_module("fpn_bottleneck", "fuse"),
]
"""`UPerHead`."""


def separable(theirs: str, ours: str) -> list[Rule]:
    """Return the rules of an mmcv `DepthwiseSeparableConvModule` that is our pair of `ConvNormAct`."""
    return [
        *conv_module(rf"{theirs}\.depthwise_conv", f"{ours}.0"),
        *conv_module(rf"{theirs}\.pointwise_conv", f"{ours}.1"),
    ]


DEEPLAB: Table = [
    *conv_module(r"image_pool\.1", "pyramid.image"),
    *separable(r"aspp_modules\.(\d+)", r"pyramid.branches.\1"),
    *conv_module(r"aspp_modules\.(\d+)", r"pyramid.branches.\1"),
    *conv_module("bottleneck", "pyramid.project"),
    *conv_module("c1_bottleneck", "fine"),
    *separable(r"sep_bottleneck\.(\d+)", r"refine.\1"),
    CLASSIFIER,
]
"""`DepthwiseSeparableASPPHead`."""

SEGMENTER: Table = [
    *_BLOCK,
    Rule(rf"dec_proj\.{WEIGHT}", r"project.\1"),
    Rule(r"cls_emb", "classes"),
    Rule(rf"decoder_norm\.{WEIGHT}", r"norm.\1"),
    Rule(r"patch_proj\.weight", "to_patch.weight"),
    Rule(r"classes_proj\.weight", "to_class.weight"),
    Rule(rf"mask_norm\.{WEIGHT}", r"mask_norm.\1"),
]
"""`SegmenterMaskTransformerHead`."""

BACKBONES: dict[str, Table] = {
    "SwinTransformer": SWIN,
    "ResNet": RESNET,
    "ResNetV1c": RESNET,
    "ResNetV1d": RESNET,
    "HRNet": HRNET,
    "VisionTransformer": VIT,
}
"""Class name of an mmseg backbone -> table."""

HEADS: dict[str, Table] = {
    "FCNHead": FCN,
    "PSPHead": PSP,
    "OCRHead": OCR,
    "UPerHead": UPER,
    "DepthwiseSeparableASPPHead": DEEPLAB,
    "SegmenterMaskTransformerHead": SEGMENTER,
    "Mask2FormerHead": MASK2FORMER,
}
"""Class name of an mmseg head -> table."""


def backbone_table(config: Mapping[str, Any]) -> Table:
    """Return the table of a backbone with this mmseg configuration.

    Raises:
        InputError: there is no converter for its class.
    """
    table = _table(config["type"], BACKBONES)
    if config["type"] == "VisionTransformer" and not config.get("with_cls_token", True):
        return [left_out("cls_token", NEVER_USED), *table]
    if config["type"] != "SwinTransformer":
        return table
    # mmseg numbers output norms by stage, we by output.
    norms = enumerate(config.get("out_indices", (0, 1, 2, 3)))
    return [*table, *(Rule(rf"norm{stage}\.{WEIGHT}", rf"norms.{i}.\1") for i, stage in norms)]


def head_table(config: Mapping[str, Any] | Sequence[Mapping[str, Any]], theirs: str, ours: str) -> Table:
    """Return the table of a head, or of a cascade of heads, that stands under `theirs` there and `ours` here.

    In a cascade, mmseg numbers the heads; here each one is the auxiliary head of the next.

    Raises:
        InputError: there is no converter for its class.
    """
    if isinstance(config, Mapping):
        return nested(_table(config["type"], HEADS), theirs, ours)
    rules: list[Rule] = []
    for i, stage in enumerate(config):
        inner = ours + "auxiliary." * (len(config) - 1 - i)
        rules += nested(_table(stage["type"], HEADS), f"{theirs}{i}.", inner)
    return rules


def convert_model(
    state: State, config: Mapping[str, Any], source: str | Path = "weights", backbone: Table | None = None
) -> dict[str, Tensor]:
    """Convert a whole `EncoderDecoder` or `CascadeEncoderDecoder` into the names of a `Segmenter`.

    Args:
        state: the checkpoint's weights (`everyframe.models.state.read_state`).
        config: mmseg's `model` configuration: "backbone", "decode_head", perhaps "auxiliary_head".
        source: named in messages, normally the file.
        backbone: table of the backbone, where it is not mmseg's own.

    Raises:
        InputError: a class without converter, or keys that its layout does not have.
    """
    rules = nested(backbone or backbone_table(config["backbone"]), "backbone.", "backbone.")
    rules += head_table(config["decode_head"], "decode_head.", "head.")
    if config.get("auxiliary_head"):
        rules += head_table(config["auxiliary_head"], "auxiliary_head.", "head.auxiliary.")
    return convert(state, rules, source)


def _table(kind: str, tables: Mapping[str, Table]) -> Table:
    if kind not in tables:
        raise InputError(f"no converter for mmseg's {kind!r}; there are {', '.join(tables)}")
    return tables[kind]
