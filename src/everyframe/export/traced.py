"""`Segmenter.step` as a graph of tensors: what a stream remembers is given, and given back, tensor by tensor.

A graph has no "first frame". It starts from zeros instead: for rings whatever follows a zero signature begins a new
scene (`advance`, `models/temporal/ring.py`), and a recurrent map begins with zeros anyway. Rings are full from the
start then, with the first frame standing in for those before it, as on a stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from everyframe.errors import InputError
from everyframe.models.ops.deform_attn_forms import by_grid_sample
from everyframe.models.segmenter import Segmenter

Output = Literal["logits", "labels"]
"""What a graph gives: logits [B, K, h, w] at the head's stride, or label maps uint8 [B, H, W] of the frame's size."""

LONGEST = 64
"""Frames within which a memory must have grown to its full size."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Traced:
    """A model's step as a graph.

    Attributes:
        program: takes the frames, uint8 [B, 3, H, W], and the state's tensors; returns the output and the next ones.
        model: what was traced.
        output: see `Output`.
        state: name of each tensor of the state -> zeros of its shape and type, which a video begins with.
    """

    program: torch.export.ExportedProgram
    model: Segmenter
    output: Output
    state: dict[str, Tensor]
    size: Size

    @property
    def inputs(self) -> list[str]:
        """Names of what goes in."""
        return ["frame", *(f"state_{name}" for name in self.state)]

    @property
    def outputs(self) -> list[str]:
        """Names of what comes out."""
        return [self.output, *(f"next_{name}" for name in self.state)]

    def run(self, frame: Tensor, state: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run the graph in PyTorch."""
        found: Sequence[Tensor] = self.program.module()(frame, *state)
        return found


class GraphStep(nn.Module):
    """A step whose state is a row of tensors.

    Args:
        model: in eval mode.
        state: what it remembers, of full size; its tensors' numbers do not matter.
        output: see `Output`.
        size: (H, W) of label maps.
    """

    def __init__(self, model: Segmenter, state: Any, output: Output, size: Size) -> None:
        super().__init__()
        self.model, self.output, self.size = model, output, size
        self.leaves, self.structure = pytree.tree_flatten(state)

    def forward(self, frame: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See `Traced.program`."""
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        scores, state = self.model.step(frame, pytree.tree_unflatten(leaves, self.structure))
        if self.output == "labels":
            scores = label_maps(scores, self.size)
        return (scores, *(leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)))


def label_maps(logits: Tensor, size: Size) -> Tensor:
    """Return the winning class of upsampled logits [B, K, h, w]: uint8 [B, H, W]."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(1).to(torch.uint8)


@torch.no_grad()
def trace(model: Segmenter, size: Size, *, batch: int = 1, output: Output = "logits") -> Traced:
    """Trace a model's step for frames of one size.

    Args:
        model: on the CPU, in eval mode, without gradients.
        size: (H, W) of the frames.
        batch: B, streams that run side by side.
        output: see `Output`.

    Raises:
        InputError: a model whose memory cannot start from zeros or whose steps are no graph of tensors.
    """
    _check(model, size, batch, output)
    frame = torch.zeros(batch, 3, *size, dtype=torch.uint8)
    state = full_state(model, frame)
    names = [_name(path) for path, leaf in pytree.tree_flatten_with_path(state)[0] if isinstance(leaf, Tensor)]
    zeros = [torch.zeros_like(leaf) for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]
    step = GraphStep(model, state, output, size)
    try:
        program = torch.export.export(step, (frame, *zeros))
    except Exception as error:  # of many kinds: what tracing cannot follow
        raise InputError(
            f"export: expected a model whose step is a graph of tensors, came {model.config.get('name', 'one')}, which "
            f"cannot be traced ({str(error).strip().splitlines()[0]}); export another model"
        ) from error
    program = program.run_decompositions({torch.ops.everyframe.ms_deform_attn.default: _deform_attn})
    return Traced(program, model, output, dict(zip(names, zeros, strict=True)), size)


def full_state(model: Segmenter, frame: Tensor) -> Any:
    """Return what a model remembers once its memory has its full size.

    Raises:
        InputError: it grows on and on.
    """
    state, before = None, None
    for _ in range(LONGEST):
        _, state = model.step(frame, state)
        shapes = [leaf.shape for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]
        if shapes == before:
            return state
        before = shapes
    raise InputError(f"export: expected a memory that is full within {LONGEST} frames, came one that still grows")


def _check(model: Segmenter, size: Size, batch: int, output: str) -> None:
    if min(*size, batch) < 1:
        raise InputError(f"export: expected a size (H, W) and a batch of at least 1, came {size} and {batch}")
    if output not in get_args(Output):
        raise InputError(f"export: expected an output of {', '.join(get_args(Output))}, came {output!r}")
    if model.temporal.needs_image:
        raise InputError(
            "export: expected a model whose step is a graph of tensors, came one that asks OpenCV or RAFT for optical "
            "flow (NetWarp); export another model"
        )
    threshold = getattr(model.temporal, "cut_threshold", 0.0)
    if not 0 <= threshold < 1:
        raise InputError(
            f"export: expected a model that notices scene cuts (temporal.cut_threshold below 1), by which a video "
            f"begins anew from zeros, came cut_threshold {threshold:g}; set model.temporal.cut_threshold = 0.9"
        )


def _name(path: tuple[Any, ...]) -> str:
    """Return the name of a tensor of a state by its place: "ring_frames"."""
    return (
        "_".join(str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path) or "memory"
    )


def _deform_attn(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    """Our op in the functions that other runtimes have."""
    shapes = list(zip(sides[::2], sides[1::2], strict=True))
    return by_grid_sample(value, shapes, locations, weights)
