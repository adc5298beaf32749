"""Videos of one moving scene each, and the ways to run a model on them that must agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.frames import Role
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import Memory

SIZE = (45, 62)
"""Frames that no stride divides."""


def moving_scene(frames: int, batch: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    """Make pictures of soft blobs and fine grain, uint8 [B, T, 3, H, W], that move by a pixel a frame.

    Each call shows another scene, drawn with torch's generator. Between frames of a scene no memory finds a scene cut,
    as it would in noise; between two scenes all do.
    """
    wide = (size[0] + frames, size[1] + frames)
    blobs = F.interpolate(torch.rand(batch, 3, 5, 6) * 255, wide, mode="bicubic", align_corners=False)
    still = (blobs + torch.randn(batch, 3, *wide) * 12).clamp(0, 255).to(torch.uint8)
    return torch.stack([still[..., t : t + size[0], t : t + size[1]] for t in range(frames)], 1)


def run_stream(model: Segmenter, clip: Tensor, state: Memory = None) -> tuple[Tensor, Memory]:
    """Fold `step` over a clip [B, T, 3, H, W]: logits [B, T, K, h, w] and the last state."""
    logits = []
    with torch.no_grad():
        for frame in clip.unbind(1):
            out, state = model.step(frame, state)
            logits.append(out)
    return torch.stack(logits, 1), state


def run_clip(model: Segmenter, clip: Tensor, roles: tuple[Role, ...] | None = None) -> Tensor:
    """Class logits of the query frames of `Segmenter.forward`, [B, Q, K, h, w], whatever the head predicts."""
    with torch.no_grad():
        outputs = model(clip, roles).outputs
        flat = model.head.semantic({name: x.flatten(0, 1) for name, x in outputs.items()})
    return flat.unflatten(0, (len(clip), -1))


def run_training_clip(model: Segmenter, scene: Tensor, now: int) -> Tensor:
    """Logits [B, K, h, w] of frame `now` in the training clip around it: the first frame, those at the offsets, itself.

    The nearest frame of the scene stands in for those before it.
    """
    temporal: Any = model.temporal
    indices = [*([0] if temporal.reference else []), *(max(now + offset, 0) for offset in temporal.adjacent), now]
    roles = (Role.REFERENCE,) * temporal.reference + (Role.ADJACENT,) * len(temporal.adjacent) + (Role.QUERY,)
    return run_clip(model, scene[:, indices], roles)[:, 0]
