"""Multi-scale deformable attention: the one sampling op of ViT-Adapter, of Mask2Former's pixel decoder and of DCNv3.

Zhu et al., "Deformable DETR" (ICLR 2021), equation 3. Each query reads a few points of each map of a pyramid:

    out[q] = sum over levels l and points p of weight[q, l, p] * bilinear(value_l, location[q, l, p])

One op in two forms: `deform_attn_plain` in plain PyTorch everywhere, `deform_attn_triton` on CUDA where Triton can be
imported. torch.compile and torch.export see the op, not what is inside.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.models.ops import deform_attn_plain
from everyframe.models.ops.numbers import numbers_beside

Shapes = Sequence[tuple[int, int]]
"""(H, W) of each map of a pyramid whose cells stand row by row, map after map, in one sequence."""


def ms_deform_attn(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample a pyramid at a few points for each query and head, and sum them with weights.

    Args:
        value: [B, S, h, c]: the cells of all maps, h heads of c channels each; any float type.
        shapes: (H, W) of each of the L maps; S = sum of H * W.
        locations: [B, Q, h, L, P, 2]: points (x, y), 0..1 from the left and top edge to the right and bottom edge of
            the map. Beyond the edges the maps are zero. Float32 or float64: in half precision a point of a large map
            would jump by whole cells, so half types are refused.
        weights: [B, Q, h, L, P]: factor of each point.

    Returns:
        [B, Q, h * c], of the type of `value`; summed in the type of `locations`.
    """
    _check(value, shapes, locations, weights)
    sides = [side for size in shapes for side in size]
    return _forward(value.contiguous(), sides, locations.contiguous(), weights.to(locations.dtype).contiguous())


def _check(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> None:
    cells = sum(h * w for h, w in shapes)
    if value.shape[1] != cells:
        raise ValueError(f"ms_deform_attn: the maps have {cells} cells, value has {value.shape[1]}")
    if locations.shape[3] != len(shapes) or locations.shape[:-1] != weights.shape or locations.shape[-1] != 2:
        raise ValueError(
            f"ms_deform_attn: expected locations [B, Q, h, {len(shapes)}, P, 2] and weights without the 2, came "
            f"{list(locations.shape)} and {list(weights.shape)}"
        )
    if locations.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"ms_deform_attn: expected float32 or float64 locations, came {locations.dtype}")


# -- the op ------------------------------------------------------------------------------------------------------------


@torch.library.custom_op("everyframe::ms_deform_attn", mutates_args=())
def _forward(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return _form(value, locations).forward(value, sides, locations, weights)


@_forward.register_fake
def _(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


@torch.library.custom_op("everyframe::ms_deform_attn_backward", mutates_args=())
def _backward(
    gradient: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _form(value, locations).backward(gradient, value, sides, locations, weights)


@_backward.register_fake
def _(
    gradient: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(value), torch.empty_like(locations), torch.empty_like(weights)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    value, ctx.sides, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _differentiate(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    of_value, of_locations, of_weights = _backward(gradient.contiguous(), value, ctx.sides, locations, weights)
    return of_value, None, of_locations, of_weights


_forward.register_autograd(_differentiate, setup_context=_setup_context)


CHOICES = ("auto", "plain", "triton")
"""What `only` takes."""

_choice = "auto"


@contextlib.contextmanager
def only(form: str) -> Iterator[None]:
    """Within, the op runs in one of its forms: to measure or to compare them. Not for several threads at once.

    Args:
        form: "plain", "triton", or "auto": the kernels where they can run.

    Raises:
        InputError: another form. The op raises it where the kernels are asked for and cannot run.
    """
    global _choice
    if form not in CHOICES:
        raise InputError(f"deformable attention: expected one of {', '.join(CHOICES)}, came {form!r}")
    before, _choice = _choice, form
    try:
        yield
    finally:
        _choice = before


def _form(value: Tensor, locations: Tensor) -> ModuleType:
    """Return the module whose `forward` and `backward` serve these tensors."""
    if _choice == "plain":
        return deform_attn_plain
    # The kernels add atomically, in no fixed order.
    if value.device.type == "cuda" and not torch.are_deterministic_algorithms_enabled():
        with contextlib.suppress(ImportError):
            from everyframe.models.ops import deform_attn_triton

            if deform_attn_triton.supports(value, locations):
                return deform_attn_triton
    if _choice == "triton":
        raise InputError(
            f"deformable attention: expected a CUDA device with Triton for the kernels, came {value.device}; "
            f"choose the form plain"
        )
    return deform_attn_plain


# -- the module --------------------------------------------------------------------------------------------------------


class DeformableAttention(nn.Module):
    """Queries look at a few learned points around their reference point on each map of a pyramid.

    Args:
        width: channels D of queries and values.
        heads: h.
        levels: number of maps L.
        points: P, per head and map.
        ratio: channels that are sampled, over D (ViT-Adapter's `deform_ratio`).
    """

    def __init__(self, width: int, heads: int = 8, levels: int = 3, points: int = 4, ratio: float = 1.0) -> None:
        super().__init__()
        inner = int(width * ratio)
        if inner % heads:
            raise ValueError(f"DeformableAttention: expected {inner} channels to divide by heads, came {heads} heads")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, inner)
        self.output_proj = nn.Linear(inner, width)
        self._init_weights()

    def _init_weights(self) -> None:
        # Head k starts looking in direction 2 pi k / h, point p at a distance of p + 1 cells (Deformable DETR).
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, self.points, 1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((ray[:, None, None] * steps).expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, shapes: Shapes) -> Tensor:
        """Attend.

        Args:
            query: [B, Q, D].
            reference: [Q, 2]: (x, y) of each query in 0..1, the same on every map.
            value: [B, S, D]: cells of the pyramid.
            shapes: (H, W) of each map.

        Returns:
            [B, Q, D].
        """
        # Positions in float32 whatever autocast says: a half-precision x is off by cells on a wide map.
        offsets = self.sampling_offsets(query).float().unflatten(2, (self.heads, self.levels, self.points, 2))
        sizes = numbers_beside(query, [(w, h) for h, w in shapes])
        locations = reference.float()[:, None, None, None] + offsets / sizes[:, None]
        weights = self.attention_weights(query).float().unflatten(2, (self.heads, -1)).softmax(-1)
        weights = weights.unflatten(3, (self.levels, self.points))
        value = self.value_proj(value).unflatten(2, (self.heads, -1))
        return self.output_proj(ms_deform_attn(value, shapes, locations, weights))


def cell_centres(shapes: Shapes, device: torch.device | None = None) -> Tensor:
    """Return (x, y) in 0..1 of the centre of every cell of a pyramid, row by row, map after map: float32 [S, 2]."""
    maps = []
    for h, w in shapes:
        y = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) / h
        x = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) / w
        maps.append(torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1).flatten(0, 1))
    return torch.cat(maps)


def split_levels(tokens: Tensor, shapes: Shapes) -> list[Tensor]:
    """Cells [B, S, D] of a pyramid -> its maps, each [B, D, H, W]."""
    ends = [0]
    for h, w in shapes:
        ends.append(ends[-1] + h * w)
    return [
        tokens[:, start:end].transpose(1, 2).unflatten(2, size)
        for (start, end), size in zip(pairwise(ends), shapes, strict=True)
    ]


def join_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps of a pyramid, each [B, D, H, W] -> its cells [B, S, D], row by row, map after map."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
