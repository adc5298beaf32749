"""The RAFT authors' checkpoints (raft-things.pth and its kin) -> torchvision's `raft_large`, the same network."""

from __future__ import annotations

from everyframe.errors import InputError
from everyframe.models.convert.keys import Rewritten, Rule, Table, left_out, rewrite
from everyframe.models.convert.shapes import Shapes
from everyframe.models.state import State

_ENCODERS = {"fnet": "feature_encoder", "cnet": "context_encoder"}
_UPDATE = "update_block"


def _encoder(theirs: str, ours: str) -> list[Rule]:
    block = r"(layer\d\.\d)"
    return [
        left_out(rf"{theirs}\.{block}\.norm3\..+", "the same tensors as downsample.1"),
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

TORCHVISION: Table = [Rule(r"((?:feature_encoder|context_encoder|update_block|mask_predictor)\..+)", r"\1")]
"""torchvision's own keys."""


def is_raft(shapes: Shapes) -> bool:
    """Whether weights are a RAFT's, of the authors or of torchvision."""
    return shapes.has(r"fnet\.conv1\..+") or shapes.has(r"feature_encoder\.convnormrelu\..+")


def read_raft(state: State, shapes: Shapes) -> Rewritten:
    """Rewrite a RAFT's weights for torchvision's `raft_large`.

    Raises:
        InputError: the small RAFT, or names or shapes that are not those of `raft_large`.
    """
    authors = shapes.has(r"fnet\.conv1\..+")
    done = rewrite(state, RAFT if authors else TORCHVISION)
    expected = raft_shapes()
    got = {name: tuple(value.shape) for name, value in done.state.items()}
    wrong = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
    counters = [name for name in wrong if name.endswith("num_batches_tracked")]
    if len(wrong) > len(counters) or done.unknown:
        raise InputError(
            f"expected the weights of RAFT (large, as raft-things.pth), came others: {len(wrong) + len(done.unknown)} "
            f"keys differ, first {[*wrong, *done.unknown][0]}; the small RAFT cannot be converted"
        )
    return done


def raft_shapes() -> dict[str, tuple[int, ...]]:
    """Return names and shapes of torchvision's `raft_large`."""
    from torchvision.models.optical_flow import raft_large

    return {name: tuple(value.shape) for name, value in raft_large(weights=None).state_dict().items()}
