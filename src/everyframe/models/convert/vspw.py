"""Checkpoints of the VSPW baseline code -> ours: its decoders, and TCB, NetWarp and ETC around them.

The tables of `PSP` and `OCR` give names of a head; those of the video methods names of a `Segmenter` without its
backbone: `head.` and `temporal.`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from everyframe.models.convert.keys import Rule, Table, left_out, nested


def sequence(theirs: str, ours: str, *, first: int = 0) -> list[Rule]:
    """Return the rules of a convolution and the norm after it in a plain `Sequential`, at `first` and `first + 1`."""
    return [
        Rule(rf"{theirs}\.{first}\.(weight|bias)", rf"{ours}.conv.\1"),
        Rule(rf"{theirs}\.{first + 1}\.(.+)", rf"{ours}.norm.\1"),
    ]


def classifier(theirs: str, ours: str) -> Rule:
    """Return the rule of a classifying convolution."""
    return Rule(rf"{theirs}\.(weight|bias)", rf"{ours}.\1")


PSP: Table = [
    *(rule for i in range(9) for rule in sequence(rf"ppm\.{i}", f"pyramid.levels.{i}", first=1)),
    *sequence("conv_last_", "bottleneck"),
    classifier(r"conv_last_\.4", "classifier"),
    *sequence("cbr_deepsup", "auxiliary.convs.0"),
    classifier("conv_last_deepsup_", "auxiliary.classifier"),
]
"""`PPMDeepsup`."""

UPER: Table = [
    *(rule for i in range(9) for rule in sequence(rf"ppm_conv\.{i}", f"pyramid.levels.{i}")),
    *sequence("ppm_last_conv", "bottleneck"),
    *(rule for i in range(9) for rule in sequence(rf"fpn_in\.{i}", f"laterals.{i}")),
    *(rule for i in range(9) for rule in sequence(rf"fpn_out\.{i}\.0", f"smooth.{i}")),
    *sequence(r"conv_last_\.0", "fuse"),
    classifier(r"conv_last_\.1", "classifier"),
]
"""`UPerNet`, of which ours is one with `resize_first`."""


def image_first(weight: Tensor) -> Tensor:
    """Move the last fifth of a projection's input channels, which read the image average, before the others."""
    return weight.roll(weight.shape[1] // 5, 1)


def _plain(theirs: str, ours: str, conv: str = "conv1", norm: str = "bn1") -> list[Rule]:
    return [
        Rule(rf"{theirs}\.{conv}\.(weight)", rf"{ours}.conv.\1"),
        Rule(rf"{theirs}\.{norm}\.(.+)", rf"{ours}.norm.\1"),
    ]


DEEPLAB: Table = [
    *(rule for i in range(4)
      for rule in _plain(rf"aspp\.aspp{i + 1}", f"pyramid.branches.{i}", conv="atrous_conv", norm="bn")),
    *sequence(r"aspp\.global_avg_pool", "pyramid.image", first=1),
    Rule(r"aspp\.conv1\.weight", "pyramid.project.conv.weight", image_first),
    *_plain("aspp", "pyramid.project"),
    *_plain("decoder", "fine"),
    *sequence(r"decoder\.last_conv", "refine.0"),
    *sequence(r"decoder\.last_conv", "refine.1", first=4),
    classifier(r"decoder\.lastlast_conv\.1", "classifier"),
]  # fmt: skip
"""`DeepLab`, of which ours is one with `projection=1, align_corners=True`; there the image average comes last."""

_ATTENTION = r"spatial_ocr_head\.object_context_block"

OCR: Table = [
    *sequence("conv_3x3", "neck"),
    *sequence("dsn_head", "auxiliary.convs.0"),
    classifier(r"dsn_head\.4", "auxiliary.classifier"),
    *sequence(rf"{_ATTENTION}\.f_pixel", "attention.to_query.0"),
    *sequence(rf"{_ATTENTION}\.f_pixel", "attention.to_query.1", first=3),
    *sequence(rf"{_ATTENTION}\.f_object", "attention.to_key.0"),
    *sequence(rf"{_ATTENTION}\.f_object", "attention.to_key.1", first=3),
    *sequence(rf"{_ATTENTION}\.f_down", "attention.to_value.0"),
    *sequence(rf"{_ATTENTION}\.f_up", "attention.to_output.0"),
    *sequence(r"spatial_ocr_head\.conv_bn_dropout", "fuse"),
    classifier("head", "classifier"),
]
"""`SpatialOCRNet`."""

_PYRAMID = [rule for i in range(9) for rule in sequence(rf"ppm\.{i}", f"pyramid.levels.{i}")]

TCB_PSP: Table = [
    *nested([*_PYRAMID, *sequence("conv_last_", "bottleneck")], "ppm_conv.", "head."),
    Rule(r"ppm_conv\.conv_last_\.4\.(weight|bias)", r"head.classifier.\1"),
    *sequence("deepsup", "head.auxiliary.convs.0"),
    Rule(r"deepsup\.4\.(weight|bias)", r"head.auxiliary.classifier.\1"),
    Rule(r"pspweight_conv\.0\.weight", "temporal.score.weight"),
]
"""`Clip_PSP`."""

TCB_OCR: Table = nested(OCR, "", "head.")
"""`ClipOCRNet`; its `head` is the classifier, as in `SpatialOCRNet`."""

_RAFT = left_out(r"raft\..+", "the flow network, which is no part of the model here")

# The classifier stands outside the decoder; what the decoder has of its own is never used.
ETC_PSP: Table = [
    _RAFT,
    left_out(r"decoder\.conv_last_\..+", "the decoder's own classifier, never used"),
    *nested(PSP, "decoder.", "head."),
    *sequence("conv_last_", "head.bottleneck"),
    Rule(r"conv_last_\.4\.(weight|bias)", r"head.classifier.\1"),
]
"""`ETC`."""

ETC_OCR: Table = [
    _RAFT,
    *nested(OCR, "decoder.", "head."),
    Rule(r"conv_last_\.(weight|bias)", r"head.classifier.\1"),
]
"""`ETC_ocr`."""

_FLOW_CNN = [
    *(rule for i in range(3) for rule in sequence(rf"flowcnn\.conv{i + 1}", f"temporal.flow_cnn.convs.{i}")),
    *sequence(r"flowcnn\.conv4", "temporal.flow_cnn.join"),
]
_FACTORS = [Rule("w0_([01])", r"temporal.coarse_weights.\1"), Rule("w1_([01])", r"temporal.late_weights.\1")]

NETWARP_PSP: Table = [*ETC_PSP, *_FLOW_CNN, *_FACTORS]
"""`NetWarp` with `form="vspw"`; then `join_factors`."""

NETWARP_OCR: Table = [
    *nested(OCR, "decoder.", "head."), Rule(r"head\.(weight|bias)", r"head.classifier.\1"),
    *_FLOW_CNN, *_FACTORS, _RAFT,
]  # fmt: skip
"""`NetWarp_ocr` with `form="vspw"`; then `join_factors`."""


def join_factors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stack NetWarp's factors of the current and the previous frame: "temporal.late_weights.0" and ".1" become one."""
    joined = dict(state)
    for name in ("temporal.coarse_weights", "temporal.late_weights"):
        joined[name] = torch.stack([joined.pop(f"{name}.0"), joined.pop(f"{name}.1")])
    return joined
