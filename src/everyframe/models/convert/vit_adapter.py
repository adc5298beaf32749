"""Checkpoints and configurations of ViT-Adapter and of EVA-01's segmentation code (mmcv 1.x, mmseg 0.x) -> ours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from everyframe.models.backbones.beit import Beit
from everyframe.models.backbones.large import adapter
from everyframe.models.backbones.window_vit import WindowVit
from everyframe.models.convert.keys import WEIGHT, Rule, Table, convert, left_out, nested
from everyframe.models.convert.mask2former import COMPUTED
from everyframe.models.convert.mmseg_backbone_config import BackboneKind, Options
from everyframe.models.convert.positions import fit_positions
from everyframe.models.convert.settings import Config, read
from everyframe.models.convert.timm import PRETRAINING
from everyframe.models.state import State, load_state

_BLOCK = r"blocks\.(\d+)"

TRUNK: Table = [
    Rule(r"cls_token", "cls_token"),
    Rule(r"pos_embed", "pos_embed"),
    Rule(rf"patch_embed\.proj\.{WEIGHT}", r"patch_embed.projection.\1"),
    Rule(rf"{_BLOCK}\.gamma_?([12])", r"blocks.\1.gamma\2"),
    Rule(rf"{_BLOCK}\.(norm[12])\.{WEIGHT}", r"blocks.\1.\2.\3"),
    left_out(rf"{_BLOCK}\.attn\.relative_position_index", COMPUTED),  # 75 MiB per block at 896
    Rule(rf"{_BLOCK}\.attn\.(q_bias|v_bias|relative_position_bias_table)", r"blocks.\1.attention.\2"),
    Rule(rf"{_BLOCK}\.attn\.qkv\.{WEIGHT}", r"blocks.\1.attention.qkv.\2"),
    Rule(rf"{_BLOCK}\.mlp\.fc1\.{WEIGHT}", r"blocks.\1.mlp.0.\2"),
    Rule(rf"{_BLOCK}\.mlp\.fc2\.{WEIGHT}", r"blocks.\1.mlp.2.\2"),
]
"""What BEiT and plain ViT trunks share."""

BEIT: Table = [*TRUNK, Rule(rf"{_BLOCK}\.attn\.proj\.{WEIGHT}", r"blocks.\1.attention.projection.\2")]
"""`BEiT` of ViT-Adapter, EVA-01 and timm."""

WINDOW_VIT: Table = [*TRUNK, Rule(rf"{_BLOCK}\.attn\.proj\.{WEIGHT}", r"blocks.\1.attention.output.\2")]
"""`TIMMVisionTransformer` of ViT-Adapter."""


def _extractor(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(rf"{theirs}\.(query_norm|feat_norm|ffn_norm)\.{WEIGHT}", rf"{ours}.\2.\3"),
        Rule(rf"{theirs}\.attn\.(\w+)\.{WEIGHT}", rf"{ours}.attention.\2.\3"),
        Rule(rf"{theirs}\.ffn\.(fc[12])\.{WEIGHT}", rf"{ours}.ffn.\2.\3"),
        Rule(rf"{theirs}\.ffn\.dwconv\.dwconv\.{WEIGHT}", rf"{ours}.ffn.conv.\2"),
    ]


ADAPTER: Table = [
    Rule(r"level_embed", "level_embed"),
    *(rule for i in range(3) for rule in (
        Rule(rf"spm\.stem\.{3 * i}\.weight", f"spm.stem.{i}.conv.weight"),
        Rule(rf"spm\.stem\.{3 * i + 1}\.(\w+)", rf"spm.stem.{i}.norm.\1"),
        Rule(rf"spm\.conv{i + 2}\.0\.weight", f"spm.convs.{i}.conv.weight"),
        Rule(rf"spm\.conv{i + 2}\.1\.(\w+)", rf"spm.convs.{i}.norm.\1"),
    )),
    *(Rule(rf"spm\.fc{i + 1}\.{WEIGHT}", rf"spm.projections.{i}.\1") for i in range(4)),
    Rule(r"interactions\.(\d+)\.injector\.gamma", r"injectors.\1.gamma"),
    Rule(rf"interactions\.(\d+)\.injector\.(query_norm|feat_norm)\.{WEIGHT}", r"injectors.\1.\2.\3"),
    Rule(rf"interactions\.(\d+)\.injector\.attn\.(\w+)\.{WEIGHT}", r"injectors.\1.attention.\2.\3"),
    *_extractor(r"interactions\.(\d+)\.extractor", r"extractors.\1"),
    *_extractor(r"interactions\.\d+\.extra_extractors\.(\d+)", r"extra_extractors.\1"),
    Rule(rf"up\.{WEIGHT}", r"up.\1"),
    *(Rule(rf"norm{i + 1}\.(\w+)", rf"norms.{i}.\1") for i in range(4)),
]  # fmt: skip
"""What the adapter adds to its trunk."""


def adapter_table(trunk: Table) -> Table:
    """Return the table of a `ViTAdapter` on this trunk; their trunk and adapter share one class, ours do not."""
    return [*ADAPTER, *nested(trunk, "", "trunk.")]


BACKBONES: dict[str, Table] = {"BEiTAdapter": adapter_table(BEIT), "ViTAdapter": adapter_table(WINDOW_VIT)}
"""Class name of a backbone -> table."""


# -- configurations ----------------------------------------------------------------------------------------------------

_KNOWN = {
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "drop_path_rate",
    "conv_inplane", "n_points", "deform_num_heads", "cffn_ratio", "deform_ratio", "interaction_indexes", "init_values",
    "with_cffn", "use_extra_extractor", "add_vit_feature", "in_chans", "pretrain_size", "num_classes", "norm_layer",
}  # fmt: skip


def beit_adapter_options(config: Config) -> Options:
    """Return the arguments of `backbones.large.adapter` with a `Beit` for ViT-Adapter's or EVA-01's `BEiTAdapter`."""
    read(
        config,
        _KNOWN | {"use_abs_pos_emb", "use_rel_pos_bias", "use_checkpoint"},
        use_shared_rel_pos_bias=(False,), qk_scale=(None,), hybrid_backbone=(None,),
    )  # fmt: skip
    return {
        **_shared(config, config.get("img_size", 512)),
        "qkv_bias": config.get("qkv_bias", False),
        "relative_positions": config.get("use_rel_pos_bias", False),
        "absolute_positions": config.get("use_abs_pos_emb", True),
        # There None and 0 both mean: no layer scale.
        "layer_scale": config.get("init_values", 0.0) or None,
    }


def vit_adapter_options(config: Config) -> Options:
    """Return the arguments of `backbones.large.adapter` with a `WindowVit` for `ViTAdapter`."""
    read(config, _KNOWN | {"layer_scale", "window_attn", "window_size"})
    depth = config.get("depth", 12)
    windowed, sides = (
        value if isinstance(value, Sequence) else [value] * depth
        for value in (config.get("window_attn", False), config.get("window_size", 14))
    )
    return {
        **_shared(config, config.get("pretrain_size", 224)),
        "qkv_bias": config.get("qkv_bias", True),
        "windows": [side if on else None for on, side in zip(windowed, sides, strict=True)],
        "layer_scale": 1.0 if config.get("layer_scale", True) else None,
    }


KINDS: dict[str, BackboneKind] = {
    "BEiTAdapter": BackboneKind(partial(adapter, False, trunk=Beit, weights=None), beit_adapter_options),
    "ViTAdapter": BackboneKind(partial(adapter, False, trunk=WindowVit, weights=None), vit_adapter_options),
}
"""Class name of a backbone -> ours."""


def _shared(config: Config, size: int | Sequence[int]) -> Options:
    """Return what both have, of the trunk and, under "adapter", of what is around it."""
    channels = config.get("in_chans", 3)
    return {
        "width": config.get("embed_dim", 768),
        "depth": config.get("depth", 12),
        "heads": config.get("num_heads", 12),
        "patch": config.get("patch_size", 16),
        "size": _pair(size),
        "mlp_ratio": config.get("mlp_ratio", 4.0),
        "drop_path": config.get("drop_path_rate", 0.0),
        "in_channels": channels,
        "adapter": {
            "groups": [(group[0], group[-1]) for group in config["interaction_indexes"]],
            "inner": config.get("conv_inplane", 64),
            "heads": config.get("deform_num_heads", 6),
            "points": config.get("n_points", 4),
            "ratio": config.get("deform_ratio", 1.0),
            "mlp_ratio": config.get("cffn_ratio", 0.25) if config.get("with_cffn", True) else 0.0,
            "gamma": config.get("init_values") or 0.0,
            "extra_extractors": 2 if config.get("use_extra_extractor", True) else 0,
            "add_trunk": config.get("add_vit_feature", True),
            "in_channels": channels,
        },
    }


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# -- pretrained trunks -------------------------------------------------------------------------------------------------


def trunk_state(state: State, trunk: Beit | WindowVit, source: str | Path = "weights") -> dict[str, Tensor]:
    """Convert a classification model (timm's names, or the BEiT code's) into a trunk, its positions fitted.

    Relative tables are grown as published or cut to their centre; absolute positions are resized bicubically. What the
    trunk lacks of it (heads, final norms) is left out; what it has beyond it keeps its own values.
    """
    table = BEIT if isinstance(trunk, Beit) else WINDOW_VIT
    unused = [
        left_out(r"(?:head|fc_norm|norm)\..+", PRETRAINING),
        left_out(rf"{_BLOCK}\.attn\.k_bias", "always zero"),
        *([] if isinstance(trunk, Beit) else [left_out("cls_token", "this trunk has no class token")]),
    ]
    converted = convert(state, [*unused, *table], source)
    return {**trunk.state_dict(), **fit_positions(converted, trunk)[0]}


def load_trunk(trunk: Beit | WindowVit, name: str) -> None:
    """Download timm's weights `name` and put them into a trunk.

    Raises:
        InputError: the weights cannot be had, or do not fit.
    """
    from everyframe.models.convert.timm import download

    source = f"timm {name}"
    load_state(trunk, trunk_state(download(name), trunk, source), source)
