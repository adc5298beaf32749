"""The block that BEiT, EVA and windowed ViT share: attention and perceptron with layer scale and stochastic depth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from everyframe.models.ops.drop_path import DropPath


class ScaledBlock(nn.Module):
    """Pre-norm block: tokens + gamma1 * attention, then tokens + gamma2 * MLP.

    Args:
        width: channels D.
        attention: `forward(x [N, M, D], grid (h, w))`.
        mlp: `forward(x [N, M, D])`.
        layer_scale: start of the gammas; None has none, see `add_layer_scale`.
        drop_path: probability of leaving a branch of a sample out in training.
        eps: of the LayerNorms.
    """

    gamma1: nn.Parameter | None
    gamma2: nn.Parameter | None

    def __init__(
        self,
        width: int,
        attention: nn.Module,
        mlp: nn.Module,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = attention
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)
        add_layer_scale(self, width, layer_scale)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N, M, D] -> [N, M, D]; `grid` is (h, w) of the patches among the tokens."""
        x = x + self.drop_path(scaled(self.attention(self.norm1(x), grid), self.gamma1))
        return x + self.drop_path(scaled(self.mlp(self.norm2(x)), self.gamma2))


def add_layer_scale(block: nn.Module, channels: int, start: float | None) -> None:
    """Give a block of two branches a factor per channel for each: `gamma1` and `gamma2`, None without a start.

    Touvron et al., "Going deeper with Image Transformers" (ICCV 2021).
    """
    for name in ("gamma1", "gamma2"):
        gamma = None if start is None else nn.Parameter(torch.full((channels,), float(start)))
        block.register_parameter(name, gamma)


def scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    """Return gamma * x [..., C], x itself without a gamma [C]."""
    return x if gamma is None else gamma * x


def gelu_mlp(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Return the two-layer perceptron of a ViT block; dropout acts on what it returns."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(dropout))


def init_vit_weights(module: nn.Module) -> None:
    """Start linear layers as ViTs do: truncated normal of deviation 0.02, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def resized_positions(
    positions: Tensor, trained: tuple[int, int], grid: tuple[int, int], mode: str = "bicubic"
) -> Tensor:
    """Resize the position embedding [1, h * w, D] of patches to another grid."""
    if tuple(trained) == tuple(grid):
        return positions
    table = positions.transpose(1, 2).unflatten(2, trained)
    return nn.functional.interpolate(table, grid, mode=mode, align_corners=False).flatten(2).transpose(1, 2)
