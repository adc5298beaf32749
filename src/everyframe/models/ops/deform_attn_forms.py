"""The same deformable attention in forms that others use, to measure ours beside them: `everyframe bench deform`.

Nothing in a model calls these; what they cost is the reason for `everyframe.models.ops.deform_attn_plain`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from everyframe.models.ops import deform_attn_plain
from everyframe.models.ops.deform_attn import Shapes

Form = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]
"""Takes and returns what `everyframe.models.ops.deform_attn.ms_deform_attn` does."""


def forms(device: torch.device) -> dict[str, Form]:
    """Return the forms that run on a device: "plain" and "triton" (on CUDA) are ours."""
    found: dict[str, Form] = {
        "plain": partial(_ours, deform_attn_plain),
        "transformers": from_transformers,
        "grid_sample": by_grid_sample,
    }
    if device.type == "cuda":
        from everyframe.models.ops import deform_attn_triton

        found["triton"] = partial(_ours, deform_attn_triton)
    return found


def by_grid_sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample each map with `grid_sample` and add it to the sum at once: no stack of all samples."""
    b, _, heads, c = value.shape
    total = value.new_zeros(b * heads, c, locations.shape[1])
    for level, cells in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        image = cells.permute(0, 2, 3, 1).reshape(b * heads, c, *shapes[level])
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1  # B*h Q P 2
        samples = F.grid_sample(image, grid.to(image.dtype), align_corners=False)  # B*h c Q P
        factors = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None].to(image.dtype)  # B*h 1 Q P
        total = total + (samples * factors).sum(-1)
    return total.unflatten(0, (b, heads)).permute(0, 3, 1, 2).flatten(2)


def from_transformers(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Call the function that Mask2Former's pixel decoder calls in `transformers`."""
    from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

    out: Tensor = multi_scale_deformable_attention(value, list(shapes), locations.to(value), weights.to(value))
    return out


def _ours(form: ModuleType, value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    out: Tensor = _Given.apply(form, value, [side for size in shapes for side in size], locations, weights)
    return out


class _Given(torch.autograd.Function):
    """One form of our op, whichever `ms_deform_attn` would choose on this device."""

    @staticmethod
    def forward(
        ctx: Any, form: ModuleType, value: Tensor, sides: list[int], locations: Tensor, weights: Tensor
    ) -> Tensor:
        """See `ms_deform_attn`."""
        ctx.form, ctx.sides = form, sides
        ctx.save_for_backward(value, locations, weights)
        out: Tensor = form.forward(value, sides, locations, weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, Tensor, Tensor]:
        """Return the gradients of value, locations and weights."""
        value, locations, weights = ctx.saved_tensors
        found = ctx.form.backward(gradient.contiguous(), value, ctx.sides, locations, weights)
        return None, found[0], None, found[1], found[2]
