"""Positions of a map's cells as sines and cosines."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(size: tuple[int, int], width: int, device: torch.device | None = None) -> Tensor:
    """Return the position embedding of a map's cells, row by row: float32 [H * W, D].

    Carion et al., "End-to-End Object Detection with Transformers" (ECCV 2020): half of the channels for y, half for x;
    positions 1..H are scaled to 0..2 pi, divided by 10000^(2i / (D / 2)), sine and cosine alternate. Float32 on
    purpose: in bfloat16 the phases are wrong by up to 0.05.

    Args:
        size: (H, W).
        width: D, a multiple of 4.
        device: where it is needed.
    """
    if width % 4:
        raise ValueError(f"sine_positions: expected a width that divides by 4, came {width}")
    h, w = size
    y, x = _axis(h, width // 2, device), _axis(w, width // 2, device)
    return torch.cat([y[:, None].expand(h, w, -1), x.expand(h, w, -1)], dim=-1).flatten(0, 1)


def _axis(length: int, width: int, device: torch.device | None) -> Tensor:
    at = torch.arange(1, length + 1, device=device, dtype=torch.float32) / (length + 1e-6) * (2 * math.pi)
    scale = 10_000.0 ** (torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    phase = at[:, None] / scale
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)
