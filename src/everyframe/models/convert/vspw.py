"""Checkpoints of the VSPW baseline code -> ours: the decoders `PPMDeepsup` and `SpatialOCRNet`."""

from __future__ import annotations

from everyframe.models.convert.keys import Rule, Table


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
