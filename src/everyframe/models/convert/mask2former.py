"""Mask2Former heads of mmdet 2.x (ViT-Adapter, EVA), of mmdet 3.x (mmsegmentation 1.x) and of transformers -> ours."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from everyframe.models.convert.keys import WEIGHT, Rule, Table, conv_module, left_out
from everyframe.models.convert.timm import merging_order
from everyframe.models.state import State

COMPUTED = "index of pairs, computed here"
NEVER_USED = "in published files, but never used"

_ENCODER = r"pixel_decoder\.encoder\.layers\.(\d+)"
_DECODER = r"transformer_decoder\.layers\.(\d+)"
_CROSS, _SELF = rf"{_DECODER}\.(?:attentions\.0|cross_attn)", rf"{_DECODER}\.(?:attentions\.1|self_attn)"

MASK2FORMER: Table = [
    *conv_module(r"pixel_decoder\.input_convs\.(\d+)", r"pixel_decoder.inputs.\1"),
    *conv_module(r"pixel_decoder\.lateral_convs\.0", "pixel_decoder.lateral"),
    *conv_module(r"pixel_decoder\.output_convs\.0", "pixel_decoder.output"),
    Rule(rf"pixel_decoder\.mask_feature\.{WEIGHT}", r"pixel_decoder.to_pixels.\1"),
    Rule(r"pixel_decoder\.level_encoding\.weight", "pixel_decoder.level_encoding"),
    Rule(rf"{_ENCODER}\.(?:attentions\.0|self_attn)\.(\w+)\.{WEIGHT}", r"pixel_decoder.layers.\1.attention.\2.\3"),
    Rule(rf"{_ENCODER}\.(?:ffns\.0|ffn)\.layers\.0\.0\.{WEIGHT}", r"pixel_decoder.layers.\1.mlp.0.\2"),
    Rule(rf"{_ENCODER}\.(?:ffns\.0|ffn)\.layers\.1\.{WEIGHT}", r"pixel_decoder.layers.\1.mlp.3.\2"),
    *(Rule(rf"{_ENCODER}\.norms\.{i}\.{WEIGHT}", rf"pixel_decoder.layers.\1.norm{i + 1}.\2") for i in (0, 1)),
    Rule(rf"{_CROSS}\.attn\.in_proj_{WEIGHT}", r"layers.\1.cross_attention.qkv.\2"),
    Rule(rf"{_CROSS}\.attn\.out_proj\.{WEIGHT}", r"layers.\1.cross_attention.output.\2"),
    Rule(rf"{_SELF}\.attn\.in_proj_{WEIGHT}", r"layers.\1.self_attention.qkv.\2"),
    Rule(rf"{_SELF}\.attn\.out_proj\.{WEIGHT}", r"layers.\1.self_attention.output.\2"),
    Rule(rf"{_DECODER}\.(?:ffns\.0|ffn)\.layers\.0\.0\.{WEIGHT}", r"layers.\1.mlp.0.\2"),
    Rule(rf"{_DECODER}\.(?:ffns\.0|ffn)\.layers\.1\.{WEIGHT}", r"layers.\1.mlp.3.\2"),
    *(Rule(rf"{_DECODER}\.norms\.{i}\.{WEIGHT}", rf"layers.\1.norm{i + 1}.\2") for i in (0, 1, 2)),
    Rule(rf"transformer_decoder\.post_norm\.{WEIGHT}", r"norm.\1"),
    Rule(rf"cls_embed\.{WEIGHT}", r"cls_embed.\1"),
    Rule(rf"mask_embed\.(\d)\.{WEIGHT}", r"mask_embed.\1.\2"),
    Rule(r"(level_embed|query_embed|query_feat)\.weight", r"\1.weight"),
    left_out(r"conv_seg\..+", NEVER_USED),
]  # fmt: skip
"""mmdet's `Mask2FormerHead`, with the names of mmdet 2.x (`attentions.0`) or of mmdet 3.x (`cross_attn`)."""

# -- transformers ------------------------------------------------------------------------------------------------------

_HF_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)"
_HF_PIXELS = r"model\.pixel_level_module\.decoder"
_HF_QUERIES = r"model\.transformer_module"
_HF_ENCODER = rf"{_HF_PIXELS}\.encoder\.layers\.(\d+)"
_HF_DECODER = rf"{_HF_QUERIES}\.decoder\.layers\.(\d+)"


HF_SWIN: Table = [
    Rule(rf"embeddings\.patch_embeddings\.projection\.{WEIGHT}", r"patch_embed.projection.\1"),
    Rule(rf"embeddings\.norm\.{WEIGHT}", r"patch_embed.norm.\1"),
    Rule(r"embeddings\.position_embeddings", "absolute_positions"),
    Rule(rf"{_HF_BLOCK}\.attention\.self\.qkv\.{WEIGHT}", r"stages.\1.blocks.\2.attention.qkv.\3"),
    Rule(rf"{_HF_BLOCK}\.attention\.self\.relative_position_bias_table",
         r"stages.\1.blocks.\2.attention.relative_position_bias_table"),
    left_out(rf"{_HF_BLOCK}\.attention\.self\.relative_position_index", COMPUTED),
    Rule(rf"{_HF_BLOCK}\.attention\.output\.dense\.{WEIGHT}", r"stages.\1.blocks.\2.attention.projection.\3"),
    Rule(rf"{_HF_BLOCK}\.layernorm_before\.{WEIGHT}", r"stages.\1.blocks.\2.norm1.\3"),
    Rule(rf"{_HF_BLOCK}\.layernorm_after\.{WEIGHT}", r"stages.\1.blocks.\2.norm2.\3"),
    Rule(rf"{_HF_BLOCK}\.intermediate\.dense\.{WEIGHT}", r"stages.\1.blocks.\2.mlp.0.\3"),
    Rule(rf"{_HF_BLOCK}\.output\.dense\.{WEIGHT}", r"stages.\1.blocks.\2.mlp.2.\3"),
    Rule(rf"encoder\.layers\.(\d+)\.downsample\.(norm|reduction)\.{WEIGHT}", r"stages.\1.downsample.\2.\3",
         merging_order),
    *(Rule(rf"hidden_states_norms\.stage{i + 1}\.{WEIGHT}", rf"norms.{i}.\1") for i in range(8)),
    left_out(r"(?:swin\.)?layernorm\..+", "after the last stage, past the maps"),
]  # fmt: skip
"""transformers' `SwinBackbone` with all of its stages as outputs, after `join_projections`."""

HF_HEAD: Table = [
    Rule(rf"{_HF_PIXELS}\.input_projections\.(\d)\.0\.{WEIGHT}", r"pixel_decoder.inputs.\1.conv.\2"),
    Rule(rf"{_HF_PIXELS}\.input_projections\.(\d)\.1\.{WEIGHT}", r"pixel_decoder.inputs.\1.norm.\2"),
    Rule(rf"{_HF_PIXELS}\.level_embed", "pixel_decoder.level_encoding"),
    Rule(rf"{_HF_ENCODER}\.self_attn\.(\w+)\.{WEIGHT}", r"pixel_decoder.layers.\1.attention.\2.\3"),
    Rule(rf"{_HF_ENCODER}\.self_attn_layer_norm\.{WEIGHT}", r"pixel_decoder.layers.\1.norm1.\2"),
    Rule(rf"{_HF_ENCODER}\.fc1\.{WEIGHT}", r"pixel_decoder.layers.\1.mlp.0.\2"),
    Rule(rf"{_HF_ENCODER}\.fc2\.{WEIGHT}", r"pixel_decoder.layers.\1.mlp.3.\2"),
    Rule(rf"{_HF_ENCODER}\.final_layer_norm\.{WEIGHT}", r"pixel_decoder.layers.\1.norm2.\2"),
    Rule(rf"{_HF_PIXELS}\.adapter_1\.0\.{WEIGHT}", r"pixel_decoder.lateral.conv.\1"),
    Rule(rf"{_HF_PIXELS}\.adapter_1\.1\.{WEIGHT}", r"pixel_decoder.lateral.norm.\1"),
    Rule(rf"{_HF_PIXELS}\.layer_1\.0\.{WEIGHT}", r"pixel_decoder.output.conv.\1"),
    Rule(rf"{_HF_PIXELS}\.layer_1\.1\.{WEIGHT}", r"pixel_decoder.output.norm.\1"),
    Rule(rf"{_HF_PIXELS}\.mask_projection\.{WEIGHT}", r"pixel_decoder.to_pixels.\1"),
    Rule(rf"{_HF_QUERIES}\.queries_embedder\.weight", "query_embed.weight"),
    Rule(rf"{_HF_QUERIES}\.queries_features\.weight", "query_feat.weight"),
    Rule(rf"{_HF_QUERIES}\.level_embed\.weight", "level_embed.weight"),
    Rule(rf"{_HF_DECODER}\.cross_attn\.in_proj_{WEIGHT}", r"layers.\1.cross_attention.qkv.\2"),
    Rule(rf"{_HF_DECODER}\.cross_attn\.out_proj\.{WEIGHT}", r"layers.\1.cross_attention.output.\2"),
    Rule(rf"{_HF_DECODER}\.cross_attn_layer_norm\.{WEIGHT}", r"layers.\1.norm1.\2"),
    Rule(rf"{_HF_DECODER}\.self_attn\.qkv\.{WEIGHT}", r"layers.\1.self_attention.qkv.\2"),
    Rule(rf"{_HF_DECODER}\.self_attn\.out_proj\.{WEIGHT}", r"layers.\1.self_attention.output.\2"),
    Rule(rf"{_HF_DECODER}\.self_attn_layer_norm\.{WEIGHT}", r"layers.\1.norm2.\2"),
    Rule(rf"{_HF_DECODER}\.fc1\.{WEIGHT}", r"layers.\1.mlp.0.\2"),
    Rule(rf"{_HF_DECODER}\.fc2\.{WEIGHT}", r"layers.\1.mlp.3.\2"),
    Rule(rf"{_HF_DECODER}\.final_layer_norm\.{WEIGHT}", r"layers.\1.norm3.\2"),
    Rule(rf"{_HF_QUERIES}\.decoder\.layernorm\.{WEIGHT}", r"norm.\1"),
    *(Rule(rf"{_HF_QUERIES}\.decoder\.mask_predictor\.mask_embedder\.{i}\.0\.{WEIGHT}", rf"mask_embed.{2 * i}.\1")
      for i in range(3)),
    Rule(rf"class_predictor\.{WEIGHT}", r"cls_embed.\1"),
    left_out(r"criterion\..+", "of the loss"),
]  # fmt: skip
"""transformers' `Mask2FormerForUniversalSegmentation` without its backbone, after `join_projections`."""


_PARTS = {"query": 0, "key": 1, "value": 2, "q_proj": 0, "k_proj": 1, "v_proj": 2}


def joined_name(key: str) -> tuple[str, int] | None:
    """Return the name of the joint projection that a separate one becomes part of, and its place there."""
    match = re.fullmatch(r"(.+\.(?:self|self_attn))\.(query|key|value|[qkv]_proj)\.(weight|bias)", key)
    return (f"{match[1]}.qkv.{match[3]}", _PARTS[match[2]]) if match else None


def join_projections(state: State) -> dict[str, Tensor]:
    """Lay the separate query, key and value projections of transformers one below the other, as our `qkv`."""
    joined: dict[str, Tensor] = {}
    found: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        target = joined_name(key)
        if target is None:
            joined[key] = value
        else:
            found.setdefault(target[0], {})[target[1]] = value
    return joined | {key: torch.cat([three[i] for i in range(3)]) for key, three in found.items() if len(three) == 3}
