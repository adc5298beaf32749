"""What a model costs: parameters, and multiply-accumulates for a frame, counted without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one model.

    Attributes:
        name: the model's name.
        params: number of trainable parameters, the auxiliary head's included.
        macs: multiply-accumulates of matrix products and convolutions for one frame in the middle of a stream.
        size: (H, W) of that frame.
        classes: K.
    """

    name: str
    params: int
    macs: int
    size: tuple[int, int]
    classes: int

    def to_dict(self) -> dict[str, object]:
        """Return plain values for JSON; `params_m` in millions, `gmacs` in 10^9."""
        return {
            "name": self.name,
            "params": self.params,
            "params_m": round(self.params / 1e6, 3),
            "gmacs": round(self.macs / 1e9, 2),
            "size": list(self.size),
            "classes": self.classes,
        }


def count_parameters(model: torch.nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_macs(model: Any, size: tuple[int, int] = (480, 853)) -> int:
    """Return the multiply-accumulates of one step that already has a state, in eval mode.

    Counted by `torch.utils.flop_counter` (two operations each) on matrix products, convolutions and attention;
    element-wise work is left out, as in the papers' figures.

    Args:
        model: a `Segmenter`, which may lie on the "meta" device, or a module around one that steps as it does.
        size: (H, W) of the frame.
    """
    was_training = model.training
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval().requires_grad_(False)  # the counter hooks gradients of what enters a module, which may be a weight
    try:
        frame = torch.zeros(1, 3, *size, dtype=torch.uint8, device=next(model.parameters()).device)
        with torch.no_grad():
            _, state = model.step(frame)
            return count_operations(lambda: model.step(frame, state)) // 2
    finally:
        model.train(was_training)
        for parameter in trainable:
            parameter.requires_grad_()


def count_operations(call: Callable[[], object]) -> int:
    """Return the operations of a call in matrix products, convolutions and attention: two to a multiply-accumulate."""
    # Fused attention on a CPU is unknown to the counter; the plain form is two products.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def model_cost(
    name: str, classes: int = 124, size: tuple[int, int] = (480, 853), options: Mapping[str, Any] | None = None
) -> Cost:
    """Build a model by name on the "meta" device, where tensors have no numbers, and count.

    Args:
        name: see `create_model`.
        classes: K.
        size: (H, W) of a frame.
        options: further arguments of `create_model`, such as {"head": {"width": 512}}.

    Raises:
        InputError: unknown name or option.
    """
    with torch.device("meta"):
        model = create_model(name, LabelSpace(tuple(str(k) for k in range(classes))), **(options or {}))
    return Cost(name, count_parameters(model), count_macs(model, size), size, classes)
