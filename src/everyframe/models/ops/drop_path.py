"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Leave a residual branch out for some samples of a training batch, and scale the others up to match.

    Huang et al., "Deep Networks with Stochastic Depth" (ECCV 2016). (torchvision has the same as `StochasticDepth`;
    importing it takes a second.)

    Args:
        probability: of leaving the branch of a sample out, below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"DropPath: expected a probability of at least 0 and below 1, came {probability:g}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] -> [N, ...]; the very same tensor in eval mode."""
        if not self.training or self.probability == 0:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.probability)
        return x * keep / (1 - self.probability)
