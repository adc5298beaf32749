"""Weights of a head in mmsegmentation's or mmdet's layout -> its configuration, read off the shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from everyframe.errors import InputError
from everyframe.models.convert.shapes import Shapes

Config = dict[str, Any]


def _norm(shapes: Shapes, conv: str) -> Config | None:
    """Return `norm_cfg` of the `ConvModule` at `conv`."""
    if f"{conv}.bn.running_mean" in shapes:
        return {"type": "BN"}
    if f"{conv}.gn.weight" in shapes:
        shapes.assume("group norms of 32 groups")
        return {"type": "GN", "num_groups": 32}
    return None


def _classes(shapes: Shapes) -> int:
    return shapes.of("conv_seg.weight")[0]


def _position(wanted: int, channels: Sequence[int], usual: int) -> int:
    """Return which map of the backbone has so many channels; the usual one where several have."""
    found = [i for i, c in enumerate(channels) if c == wanted]
    if not found:
        raise InputError(
            f"expected a head that reads one of the backbone's maps of {', '.join(map(str, channels))} channels, came "
            f"{wanted}; give the configuration (--config)"
        )
    usual = usual % len(channels)
    return usual if usual in found else found[-1]


def fcn(shapes: Shapes, channels: Sequence[int]) -> Config:
    """`FCNHead`."""
    convs = shapes.count(r"convs\.(\d+)\..+")
    if not convs:
        raise InputError("an FCNHead without convolutions: give the configuration (--config)")
    first = shapes.of("convs.0.conv.weight")
    config: Config = {
        "type": "FCNHead",
        "channels": first[0],
        "num_convs": convs,
        "kernel_size": first[-1],
        "concat_input": shapes.has(r"conv_cat\..+"),
        "num_classes": _classes(shapes),
        "norm_cfg": _norm(shapes, "convs.0"),
    }
    return {**config, **_joined(first[1], channels, usual=-2)}


def _joined(wanted: int, channels: Sequence[int], usual: int) -> Config:
    """Return which map, or that all of them side by side, a head reads."""
    if wanted == sum(channels) and len(channels) > 1:
        several = tuple(range(len(channels)))
        return {"in_channels": list(channels), "in_index": several, "input_transform": "resize_concat"}
    return {"in_channels": wanted, "in_index": _position(wanted, channels, usual)}


def _pyramid(shapes: Shapes) -> tuple[int, ...]:
    count = shapes.count(r"psp_modules\.(\d+)\..+")
    if count != 4:
        raise InputError(f"expected 4 levels of pyramid pooling, came {count}; give the configuration (--config)")
    shapes.assume("pyramid pooling over 1, 2, 3 and 6 cells")
    return (1, 2, 3, 6)


def psp(shapes: Shapes, channels: Sequence[int]) -> Config:
    """`PSPHead`."""
    width, source = shapes.of("psp_modules.0.1.conv.weight")[:2]
    return {
        "type": "PSPHead",
        "in_channels": source,
        "in_index": _position(source, channels, -1),
        "channels": width,
        "pool_scales": _pyramid(shapes),
        "num_classes": _classes(shapes),
        "norm_cfg": _norm(shapes, "bottleneck"),
    }


def uper(shapes: Shapes, channels: Sequence[int]) -> Config:
    """`UPerHead`."""
    return {
        "type": "UPerHead",
        "in_channels": list(channels),
        "in_index": tuple(range(len(channels))),
        "channels": shapes.of("fpn_bottleneck.conv.weight")[0],
        "pool_scales": _pyramid(shapes),
        "num_classes": _classes(shapes),
        "norm_cfg": _norm(shapes, "fpn_bottleneck"),
    }


def ocr(shapes: Shapes, channels: Sequence[int]) -> Config:
    """`OCRHead`, the second of a cascade."""
    width, source = shapes.of("bottleneck.conv.weight")[:2]
    return {
        "type": "OCRHead",
        "channels": width,
        "ocr_channels": shapes.of("object_context_block.query_project.0.conv.weight")[0],
        "num_classes": _classes(shapes),
        "norm_cfg": _norm(shapes, "bottleneck"),
        **_joined(source, channels, usual=-1),
    }


def deeplab(shapes: Shapes, channels: Sequence[int]) -> Config:
    """`DepthwiseSeparableASPPHead`."""
    width, source = shapes.of("image_pool.1.conv.weight")[:2]
    fine = shapes.get("c1_bottleneck.conv.weight")
    shapes.assume("dilations 1, 12, 24, 36, as in the published DeepLabv3+ of stride 8")
    return {
        "type": "DepthwiseSeparableASPPHead",
        "in_channels": source,
        "in_index": _position(source, channels, -1),
        "channels": width,
        "dilations": (1, 12, 24, 36),
        "c1_in_channels": fine[1] if fine else 0,
        "c1_channels": fine[0] if fine else 0,
        "num_classes": _classes(shapes),
        "norm_cfg": _norm(shapes, "bottleneck"),
    }


def segmenter(shapes: Shapes, channels: Sequence[int]) -> Config:
    """`SegmenterMaskTransformerHead`."""
    width, source = shapes.of("dec_proj.weight")
    hidden = shapes.of("layers.0.ffn.layers.0.0.weight")[0]
    shapes.assume(f"{max(1, width // 64)} attention heads in the mask transformer")
    return {
        "type": "SegmenterMaskTransformerHead",
        "in_channels": source,
        "in_index": _position(source, channels, -1),
        "channels": width,
        "embed_dims": width,
        "num_layers": shapes.count(r"layers\.(\d+)\..+"),
        "num_heads": max(1, width // 64),
        "mlp_ratio": hidden / width,
        "num_classes": shapes.of("cls_emb")[1],
        "dropout_ratio": 0.0,
    }


def mask2former(shapes: Shapes, channels: Sequence[int]) -> Config:
    """`Mask2FormerHead` of mmdet 2.x (`attentions.0`) and 3.x (`cross_attn`)."""
    queries, width = shapes.of("query_feat.weight")
    newer = shapes.has(r"transformer_decoder\.layers\.0\.cross_attn\..+")
    levels = shapes.of("level_embed.weight")[0]
    encoder, decoder = "pixel_decoder.encoder.layers", "transformer_decoder.layers"
    attention, mlp = ("self_attn", "ffn") if newer else ("attentions.0", "ffns.0")
    heads = shapes.of(f"{encoder}.0.{attention}.attention_weights.weight")[0] // (levels * 4)
    shapes.assume(f"{heads} attention heads, 4 sampling points and 32 groups in both decoders of Mask2Former")
    sampling = {"num_levels": levels, "num_heads": heads, "num_points": 4}
    perceptrons = [shapes.of(f"{layers}.0.{mlp}.layers.0.0.weight")[0] for layers in (encoder, decoder)]
    ffns = [{"feedforward_channels": hidden} for hidden in perceptrons]
    if newer:
        layers = [
            {"self_attn_cfg": sampling, "ffn_cfg": ffns[0]},
            {"cross_attn_cfg": {"num_heads": heads}, "ffn_cfg": ffns[1]},
        ]
    else:
        layers = [
            {"attn_cfgs": sampling, "ffn_cfgs": ffns[0]},
            {"attn_cfgs": {"num_heads": heads}, "ffn_cfgs": ffns[1]},
        ]
    key = "layer_cfg" if newer else "transformerlayers"
    positions = {"num_feats": width // 2, "normalize": True}
    return {
        "type": "Mask2FormerHead",
        "in_channels": list(channels),
        "in_index": tuple(range(len(channels))),
        "feat_channels": width,
        "out_channels": width,
        "num_classes": shapes.of("cls_embed.weight")[0] - 1,
        "num_queries": queries,
        "num_transformer_feat_level": levels,
        "pixel_decoder": {
            "norm_cfg": {"type": "GN", "num_groups": 32},
            "encoder": {"num_layers": shapes.count(rf"{re.escape(encoder)}\.(\d+)\..+"), key: layers[0]},
        },
        "positional_encoding": positions,
        "transformer_decoder": {"num_layers": shapes.count(rf"{re.escape(decoder)}\.(\d+)\..+"), key: layers[1]},
    }


class Mark(NamedTuple):
    """How a head is known by one of its keys, and how its configuration is read off them."""

    pattern: str
    infer: Callable[[Shapes, Sequence[int]], Config]


HEADS: dict[str, Mark] = {
    "mask2former": Mark(r"transformer_decoder\.post_norm\.weight", mask2former),
    "segmenter": Mark("cls_emb", segmenter),
    "ocr": Mark(r"object_context_block\..+", ocr),
    "deeplab": Mark(r"sep_bottleneck\..+", deeplab),
    "uper": Mark(r"fpn_bottleneck\..+", uper),
    "psp": Mark(r"psp_modules\..+", psp),
    "fcn": Mark(r"conv_seg\.weight", fcn),
}
"""Head -> its mark; the first that fits is it."""


def infer_head(shapes: Shapes, channels: Sequence[int]) -> Config:
    """Return the configuration of the head whose keys, without prefix, these are.

    Args:
        shapes: of its weights.
        channels: of the backbone's maps.

    Raises:
        InputError: no head of `HEADS`.
    """
    for mark in HEADS.values():
        if shapes.has(mark.pattern):
            return mark.infer(shapes, channels)
    raise InputError(
        f"expected one of the heads {', '.join(HEADS)}, came the keys {', '.join(list(shapes)[:4])}; a head that is "
        f"not among them cannot be converted"
    )
