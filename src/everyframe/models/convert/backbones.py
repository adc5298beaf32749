"""Checkpoints and configurations of single backbones' own repositories -> ours: InternImage, FocalNet, EVA-02."""

from __future__ import annotations

from collections.abc import Callable

from everyframe.models.backbones.eva02 import Eva02
from everyframe.models.backbones.focalnet import FocalNet
from everyframe.models.backbones.intern_image import InternImage
from everyframe.models.convert.keys import WEIGHT, Rule, Table, left_out
from everyframe.models.convert.mmseg_backbone_config import BackboneKind, Options
from everyframe.models.convert.settings import Config, read

_LEVEL = r"levels\.(\d+)"
_DCN = rf"{_LEVEL}\.blocks\.(\d+)\.dcn"
_OURS = r"stages.\1.blocks.\2"


def intern_image_table(config: Config) -> Table:
    """Return the table of OpenGVLab's `InternImage`; where its norms stand depends on the configuration."""
    post = config.get("post_norm", False)
    own = "after" if post else "before"
    post_norms = enumerate(config.get("level2_post_norm_block_ids") or ())
    return [
        *(rule for i in (0, 1) for rule in (
            Rule(rf"patch_embed\.conv{i + 1}\.{WEIGHT}", rf"stem.{i}.conv.\1"),
            Rule(rf"patch_embed\.norm{i + 1}\.1\.{WEIGHT}", rf"stem.{i}.norm.\1"),
        )),
        Rule(rf"{_LEVEL}\.blocks\.(\d+)\.(gamma[12])", rf"{_OURS}.\3"),
        Rule(rf"{_LEVEL}\.blocks\.(\d+)\.norm([12])\.0\.{WEIGHT}", rf"{_OURS}.{own}\3.\4"),
        Rule(rf"{_LEVEL}\.blocks\.(\d+)\.res_post_norm([12])\.0\.{WEIGHT}", rf"{_OURS}.after\3.\4"),
        Rule(rf"{_LEVEL}\.blocks\.(\d+)\.mlp\.fc1\.{WEIGHT}", rf"{_OURS}.mlp.0.\3"),
        Rule(rf"{_LEVEL}\.blocks\.(\d+)\.mlp\.fc2\.{WEIGHT}", rf"{_OURS}.mlp.2.\3"),
        Rule(rf"{_DCN}\.dw_conv\.0\.{WEIGHT}", rf"{_OURS}.dcn.conv.\3"),
        Rule(rf"{_DCN}\.dw_conv\.1\.1\.{WEIGHT}", rf"{_OURS}.dcn.norm.\3"),
        Rule(rf"{_DCN}\.offset\.{WEIGHT}", rf"{_OURS}.dcn.offset.\3"),
        Rule(rf"{_DCN}\.mask\.{WEIGHT}", rf"{_OURS}.dcn.weight.\3"),
        Rule(rf"{_DCN}\.(input|output)_proj\.{WEIGHT}", rf"{_OURS}.dcn.\3.\4"),
        Rule(rf"{_DCN}\.center_feature_scale_proj_{WEIGHT}", rf"{_OURS}.dcn.centre.\3"),
        Rule(rf"{_LEVEL}\.norm\.0\.{WEIGHT}", r"stages.\1.norm.\2"),
        *(Rule(rf"{_LEVEL}\.post_norms\.{i}\.0\.{WEIGHT}", rf"stages.\1.block_norms.{block}.\2")
          for i, block in post_norms),
        Rule(rf"{_LEVEL}\.downsample\.conv\.weight", r"stages.\1.downsample.conv.weight"),
        Rule(rf"{_LEVEL}\.downsample\.norm\.1\.{WEIGHT}", r"stages.\1.downsample.norm.\2"),
    ]  # fmt: skip


def intern_image_options(config: Config) -> Options:
    """Return `InternImage`'s arguments."""
    read(
        config,
        {"channels", "depths", "groups", "mlp_ratio", "drop_path_rate", "layer_scale", "offset_scale", "post_norm",
         "out_indices", "dw_kernel_size", "res_post_norm", "level2_post_norm", "level2_post_norm_block_ids",
         "center_feature_scale", "drop_path_type", "num_classes"},
        core_op=("DCNv3", "DCNv3_pytorch"), norm_layer=("LN",), act_layer=("GELU",), use_clip_projector=(False,),
        remove_center=(False,),
    )  # fmt: skip
    post_norm, scale = config.get("post_norm", False), config.get("layer_scale")
    return {
        "width": config.get("channels", 64),
        "depths": config.get("depths", (3, 4, 18, 5)),
        "groups": config.get("groups", (3, 6, 12, 24)),
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "offset_scale": config.get("offset_scale", 1.0),
        "kernel": config.get("dw_kernel_size") or 3,
        "post_norm": post_norm,
        # With layer scale or norms behind the branches the further norms do not exist there.
        "branch_norm": config.get("res_post_norm", False) and not post_norm and scale is None,
        "centre_scale": config.get("center_feature_scale", False),
        "layer_scale": scale,
        "block_norms": (config.get("level2_post_norm_block_ids") or ()) if config.get("level2_post_norm") else (),
        "drop_path": config.get("drop_path_rate", 0.2),
        "out_indices": config.get("out_indices", (0, 1, 2, 3)),
    }


_FOCAL = r"layers\.(\d+)\.blocks\.(\d+)"

FOCALNET: Table = [
    Rule(rf"patch_embed\.proj\.{WEIGHT}", r"patch_embed.projection.\1"),
    Rule(rf"patch_embed\.norm\.{WEIGHT}", r"patch_embed.norm.\1"),
    Rule(rf"{_FOCAL}\.gamma_([12])", rf"{_OURS}.gamma\3"),
    Rule(rf"{_FOCAL}\.(norm[12])\.{WEIGHT}", rf"{_OURS}.\3.\4"),
    Rule(rf"{_FOCAL}\.modulation\.f\.{WEIGHT}", rf"{_OURS}.modulation.input.\3"),
    Rule(rf"{_FOCAL}\.modulation\.h\.{WEIGHT}", rf"{_OURS}.modulation.mix.\3"),
    Rule(rf"{_FOCAL}\.modulation\.proj\.{WEIGHT}", rf"{_OURS}.modulation.output.\3"),
    Rule(rf"{_FOCAL}\.modulation\.ln\.{WEIGHT}", rf"{_OURS}.modulation.norm.\3"),
    Rule(rf"{_FOCAL}\.modulation\.focal_layers\.(\d+)\.0\.weight", rf"{_OURS}.modulation.contexts.\3.weight"),
    Rule(rf"{_FOCAL}\.mlp\.fc1\.{WEIGHT}", rf"{_OURS}.mlp.0.\3"),
    Rule(rf"{_FOCAL}\.mlp\.fc2\.{WEIGHT}", rf"{_OURS}.mlp.2.\3"),
    Rule(rf"layers\.(\d+)\.downsample\.proj\.{WEIGHT}", r"stages.\1.downsample.projection.\2"),
    Rule(rf"layers\.(\d+)\.downsample\.norm\.{WEIGHT}", r"stages.\1.downsample.norm.\2"),
]
"""Microsoft's `FocalNet`, without its output norms."""


def focalnet_table(config: Config) -> Table:
    """Return the table of Microsoft's `FocalNet`, which numbers output norms by stage."""
    norms = enumerate(config.get("out_indices", (0, 1, 2, 3)))
    return [*FOCALNET, *(Rule(rf"norm{stage}\.{WEIGHT}", rf"norms.{i}.\1") for i, stage in norms)]


def focalnet_options(config: Config) -> Options:
    """Return `FocalNet`'s arguments for the class of the segmentation code."""
    read(
        config,
        {"embed_dim", "depths", "focal_levels", "focal_windows", "mlp_ratio", "drop_path_rate", "use_conv_embed",
         "use_layerscale", "use_postln", "use_postln_in_modulation", "normalize_modulator", "scaling_modulator",
         "patch_norm", "out_indices", "in_chans", "use_checkpoint", "layerscale_value"},
        patch_size=(4,), use_pre_norms=([False] * 4, (False,) * 4),
    )  # fmt: skip
    stages = len(config.get("depths", (2, 2, 6, 2)))
    return {
        "width": config.get("embed_dim", 96),
        "depths": config.get("depths", (2, 2, 6, 2)),
        "levels": config.get("focal_levels", (2,) * stages),
        "windows": config.get("focal_windows", (9,) * stages),
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "overlap": config.get("use_conv_embed", False),
        "post_norm": config.get("use_postln", False),
        "modulation_norm": config.get("use_postln_in_modulation", False),
        "scaled": config.get("normalize_modulator", False) or config.get("scaling_modulator", False),
        "layer_scale": 1e-4 if config.get("use_layerscale", False) else None,
        "patch_norm": config.get("patch_norm", True),
        "drop_path": config.get("drop_path_rate", 0.2),
        "out_indices": config.get("out_indices", (0, 1, 2, 3)),
        "in_channels": config.get("in_chans", 3),
    }


_BLOCK = r"blocks\.(\d+)"

EVA02: Table = [
    Rule(r"(cls_token|pos_embed)", r"\1"),
    Rule(rf"patch_embed\.proj\.{WEIGHT}", r"patch_embed.projection.\1"),
    left_out(r"(?:blocks\.\d+\.attn\.)?rope\..+", "angles, computed here for any grid"),
    Rule(rf"{_BLOCK}\.gamma_([12])", r"blocks.\1.gamma\2"),
    Rule(rf"{_BLOCK}\.(norm[12])\.{WEIGHT}", r"blocks.\1.\2.\3"),
    Rule(rf"{_BLOCK}\.attn\.([qv]_bias)", r"blocks.\1.attention.\2"),
    *(Rule(rf"{_BLOCK}\.attn\.{name}\.weight", rf"blocks.\1.attention.projections.{i}.weight")
      for name, i in (("q_proj", 0), ("k_proj", 1), ("v_proj", 2), ("qkv", 0))),
    Rule(rf"{_BLOCK}\.attn\.proj\.{WEIGHT}", r"blocks.\1.attention.output.\2"),
    *(Rule(rf"{_BLOCK}\.mlp\.{theirs}\.{WEIGHT}", rf"blocks.\1.mlp.{ours}.\2")
      for theirs, ours in (("w1", "gate"), ("w2", "value"), ("w3", "output"), ("ffn_ln", "norm"), ("fc1", "0"),
                           ("fc2", "2"))),
    Rule(r"fpn1\.(\d)\.(\w+)", r"enlarge4.\1.\2"),
    Rule(rf"fpn2\.0\.{WEIGHT}", r"enlarge2.\1"),
]  # fmt: skip
"""BAAI's `EVA2` of the segmentation code."""


def eva02_options(config: Config) -> Options:
    """Return `Eva02`'s arguments for `EVA2`."""
    read(
        config,
        {"img_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "drop_path_rate", "init_values",
         "use_abs_pos_emb", "subln", "naiveswiglu", "rope", "pt_hw_seq_len", "out_indices", "in_chans", "patch_size",
         "use_checkpoint", "num_classes", "norm_layer"},
        use_rel_pos_bias=(False,), use_shared_rel_pos_bias=(False,), qk_scale=(None,), intp_freq=(True,),
        xattn=(False, True),
    )  # fmt: skip
    size = config.get("img_size", 224)
    depth = config.get("depth", 12)
    return {
        "width": config.get("embed_dim", 768),
        "depth": depth,
        "heads": config.get("num_heads", 12),
        "patch": config.get("patch_size", 16),
        "size": (size, size) if isinstance(size, int) else tuple(size),
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "qkv_bias": config.get("qkv_bias", False),
        "rotary": config.get("pt_hw_seq_len", 16) if config.get("rope", False) else None,
        "gated": config.get("naiveswiglu", False),
        "inner_norms": config.get("subln", False),
        "absolute_positions": config.get("use_abs_pos_emb", True),
        "layer_scale": config.get("init_values") or None,
        "drop_path": config.get("drop_path_rate", 0.0),
        "out_indices": config.get("out_indices", (3, 5, 7, 11)),
        "in_channels": config.get("in_chans", 3),
    }


TABLES: dict[str, Callable[[Config], Table]] = {
    "InternImage": intern_image_table,
    "FocalNet": focalnet_table,
    "EVA2": lambda config: EVA02,
}
"""Class name -> table for a configuration."""

BACKBONES: dict[str, BackboneKind] = {
    "InternImage": BackboneKind(InternImage, intern_image_options),
    "FocalNet": BackboneKind(FocalNet, focalnet_options),
    "EVA2": BackboneKind(Eva02, eva02_options),
}
"""Class name -> ours."""
