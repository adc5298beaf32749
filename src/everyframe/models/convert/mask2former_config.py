"""Configurations of Mask2Former heads, of mmdet 2.x, mmdet 3.x and transformers -> our modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everyframe.models.convert.settings import Config, Unsupported, read


def mask2former_options(config: Config) -> dict[str, Any]:
    """Return `Mask2FormerHead`'s arguments for mmdet's class of that name.

    Args:
        config: `decode_head` of ViT-Adapter (mmdet 2.x) or mmsegmentation 1.x (mmdet 3.x).
    """
    width = config["feat_channels"]
    read(
        config,
        {"in_channels", "in_index", "strides", "num_classes", "num_things_classes", "num_stuff_classes", "num_queries",
         "num_transformer_feat_level", "pixel_decoder", "transformer_decoder", "feat_channels", "loss_cls", "loss_mask",
         "loss_dice", "train_cfg", "test_cfg", "align_corners", "channels"},
        out_channels=(width,), enforce_decoder_input_project=(False,), positional_encoding=_positions(width),
        input_transform=(None, "multiple_select"), loss_panoptic=(None,),
    )  # fmt: skip
    pixels, queries = config["pixel_decoder"], config["transformer_decoder"]
    encoder, decoder = pixels["encoder"], queries
    encoder_layer = encoder.get("transformerlayers") or encoder["layer_cfg"]
    decoder_layer = decoder.get("transformerlayers") or decoder["layer_cfg"]
    sampling = _only(encoder_layer.get("attn_cfgs") or encoder_layer["self_attn_cfg"])
    attention = _only(decoder_layer.get("attn_cfgs") or decoder_layer["cross_attn_cfg"])
    levels = len(config["in_channels"]) - 1
    if {sampling["num_levels"], config["num_transformer_feat_level"], levels} != {levels}:
        raise Unsupported(
            f"mmdet Mask2FormerHead: expected all maps but the finest ({levels}) to be read by both decoders, came "
            f"{sampling['num_levels']} and {config['num_transformer_feat_level']}"
        )
    index = config.get("in_index")
    return {
        "index": None if index is None else tuple(index),
        "width": width,
        "queries": config["num_queries"],
        "heads": _same(sampling["num_heads"], attention["num_heads"]),
        "points": sampling["num_points"],
        "encoder_layers": encoder["num_layers"],
        "encoder_hidden": _hidden(encoder_layer),
        "decoder_layers": decoder["num_layers"],
        "decoder_hidden": _hidden(decoder_layer),
        "groups": _groups(pixels["norm_cfg"]),
        "upsample_first": "layer_cfg" in decoder,  # mmsegmentation 1.x; ViT-Adapter enlarges the finished scores
        "encoder_dropout": sampling.get("dropout", 0.0),
        "attention_dropout": attention.get("attn_drop", 0.0),
        "projection_dropout": attention.get("proj_drop", 0.0),
        "mlp_dropout": (decoder_layer.get("ffn_cfgs") or decoder_layer.get("ffn_cfg")).get("ffn_drop", 0.0),
    }


def _positions(width: int) -> tuple[Config, ...]:
    same = {"num_feats": width // 2, "normalize": True}
    return ({"type": "SinePositionalEncoding", **same}, same)


def _only(configs: Config | Sequence[Config]) -> Config:
    return configs if not isinstance(configs, Sequence) else configs[0]


def _same(first: int, second: int) -> int:
    if first != second:
        raise Unsupported(f"mmdet Mask2FormerHead: expected as many heads in both decoders, came {first} and {second}")
    return first


def _hidden(layer: Config) -> int:
    own = layer.get("feedforward_channels")  # an older way to say it, which wins in mmcv
    return own or (layer.get("ffn_cfgs") or layer["ffn_cfg"])["feedforward_channels"]


def _groups(norm: Config) -> int:
    if norm["type"] != "GN":
        raise Unsupported(f"mmdet MSDeformAttnPixelDecoder: norm_cfg={norm!r} is not supported, only GN")
    return norm["num_groups"]


# -- transformers ------------------------------------------------------------------------------------------------------


def hf_swin_options(config: Config) -> dict[str, Any]:
    """Return `SwinTransformer`'s arguments for transformers' `SwinBackbone` with all stages as outputs.

    Args:
        config: its `backbone_config`.
    """
    depths = config["depths"]
    if config.get("out_indices", list(range(1, len(depths) + 1))) != list(range(1, len(depths) + 1)):
        raise Unsupported(f"transformers SwinBackbone: out_indices={config['out_indices']} is not supported, only all")
    grid = config["image_size"] // config["patch_size"]
    return {
        "width": config["embed_dim"],
        "depths": depths,
        "heads": config["num_heads"],
        "window": config["window_size"],
        "patch": config["patch_size"],
        "mlp_ratio": config["mlp_ratio"],
        "qkv_bias": config["qkv_bias"],
        "drop_path": config.get("drop_path_rate", 0.1),
        "out_indices": tuple(range(len(depths))),
        "output_norms": True,
        "positions": (grid, grid) if config.get("use_absolute_embeddings") else None,
        "in_channels": config.get("num_channels", 3),
    }


def hf_head_options(config: Config) -> dict[str, Any]:
    """Return `Mask2FormerHead`'s arguments for transformers' `Mask2FormerForUniversalSegmentation`.

    Args:
        config: `config.json`.
    """
    width = config["hidden_dim"]
    other: dict[str, Any] = {key: config[key] for key in ("feature_size", "mask_feature_size") if config[key] != width}
    if other or config.get("pre_norm") or config.get("activation_function", "relu") != "relu":
        raise Unsupported(f"transformers Mask2Former: expected post-norm, ReLU and one width ({width}), came {other}")
    return {
        "width": width,
        "queries": config["num_queries"],
        "heads": config["num_attention_heads"],
        "encoder_layers": config["encoder_layers"],
        "encoder_hidden": config["encoder_feedforward_dim"],
        "decoder_layers": config["decoder_layers"] - 1,  # theirs counts the prediction before the first layer
        "decoder_hidden": config["dim_feedforward"],
        "upsample_first": True,
    }
