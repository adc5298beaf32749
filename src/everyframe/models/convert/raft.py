"""The RAFT authors' checkpoints (raft-things.pth and its kin) -> torchvision's `raft_large`, the same network."""

from __future__ import annotations

from everyframe.models.convert.keys import Rule, Table

_ENCODERS = {"fnet": "feature_encoder", "cnet": "context_encoder"}
_UPDATE = "update_block"


def _encoder(theirs: str, ours: str) -> list[Rule]:
    block = r"(layer\d\.\d)"
    return [
        Rule(rf"{theirs}\.{block}\.norm3\..+", None),  # the same tensors as downsample.1
        Rule(rf"{theirs}\.{block}\.conv(\d)\.(.+)", rf"{ours}.\1.convnormrelu\2.0.\3"),
        Rule(rf"{theirs}\.{block}\.norm(\d)\.(.+)", rf"{ours}.\1.convnormrelu\2.1.\3"),
        Rule(rf"{theirs}\.{block}\.(downsample\..+)", rf"{ours}.\1.\2"),
        Rule(rf"{theirs}\.conv1\.(.+)", rf"{ours}.convnormrelu.0.\1"),
        Rule(rf"{theirs}\.norm1\.(.+)", rf"{ours}.convnormrelu.1.\1"),
        Rule(rf"{theirs}\.conv2\.(.+)", rf"{ours}.conv.\1"),
    ]


RAFT: Table = [
    *(rule for theirs, ours in _ENCODERS.items() for rule in _encoder(theirs, ours)),
    Rule(rf"{_UPDATE}\.encoder\.convc(\d)\.(.+)", rf"{_UPDATE}.motion_encoder.convcorr\1.0.\2"),
    Rule(rf"{_UPDATE}\.encoder\.convf(\d)\.(.+)", rf"{_UPDATE}.motion_encoder.convflow\1.0.\2"),
    Rule(rf"{_UPDATE}\.encoder\.conv\.(.+)", rf"{_UPDATE}.motion_encoder.conv.0.\1"),
    Rule(rf"{_UPDATE}\.gru\.conv([zrq])(\d)\.(.+)", rf"{_UPDATE}.recurrent_block.convgru\2.conv\1.\3"),
    Rule(rf"({_UPDATE}\.flow_head\.conv\d\..+)", r"\1"),
    Rule(rf"{_UPDATE}\.mask\.0\.(.+)", r"mask_predictor.convrelu.0.\1"),
    Rule(rf"{_UPDATE}\.mask\.2\.(.+)", r"mask_predictor.conv.\1"),
]
"""Keys without the leading "module." (`everyframe.models.state.read_state` takes it off)."""
