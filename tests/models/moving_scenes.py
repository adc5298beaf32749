"""Videos of one moving scene each, and tiny models of every system to run on them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.frames import Role
from everyframe.labels import LabelSpace
from everyframe.models.heads.mask_transformer import MaskTransformerHead
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.ring import scene_change, scene_signature
from everyframe.models.temporal.ssltm import SSLTM
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("a", "b", "c"))
SIZE = (45, 62)


def build(system: str, **temporal: Any) -> Segmenter:
    """Return a model whose norms and prototypes have seen pictures, and whose memory has a say."""
    model = create_model(f"{system}-tiny", SPACE, backbone={"width": 8, "stem_width": 8}, temporal=temporal)
    with torch.no_grad():  # factors that start at 0 would hide what they let through
        for p in model.temporal.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # average of all batches: one is enough to bring features to scale
    with torch.no_grad():
        features = model.train()(video(2, batch=2)).features
        if isinstance(model.temporal, SSLTM) and model.temporal.prototypes is not None:
            model.temporal.prototypes.observe(features.embedding[model.temporal.site.key], labels(4))
    # Segmenter's last norm magnifies the rounding of cells where all classes are alike.
    return model.eval().double() if isinstance(model.head, MaskTransformerHead) else model.eval()


def labels(frames: int) -> Tensor:
    return torch.randint(0, 3, (frames, *SIZE), dtype=torch.uint8)


def video(frames: int, batch: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    """Pictures of soft blobs and fine grain, uint8 [B, T, 3, H, W], that move by a pixel a frame: a scene per clip."""
    wide = (size[0] + frames, size[1] + frames)
    blobs = F.interpolate(torch.rand(batch, 3, 5, 6) * 255, wide, mode="bicubic", align_corners=False)
    still = (blobs + torch.randn(batch, 3, *wide) * 12).clamp(0, 255).to(torch.uint8)
    return torch.stack([still[..., t : t + size[0], t : t + size[1]] for t in range(frames)], 1)


def changes(model: Segmenter, clip: Tensor) -> Tensor:
    """What the model's memory sees of scene cuts between the frames of a clip, [B, T - 1]."""
    with torch.no_grad():
        signatures = [scene_signature(model.encode(frame).maps[0]) for frame in clip.unbind(1)]
    return torch.stack([scene_change(a, b) for a, b in pairwise(signatures)], 1)


def run(model: Segmenter, clip: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Fold `step` over a clip [B, T, 3, H, W]: logits [B, T, K, h, w] and the last state."""
    logits = []
    with torch.no_grad():
        for frame in clip.unbind(1):
            out, state = model.step(frame, state)
            logits.append(out)
    return torch.stack(logits, 1), state


def logits_of(model: Segmenter, clip: Tensor, roles: tuple[Role, ...] | None = None) -> Tensor:
    """Class logits of the query frames, [B, Q, K, h, w], whatever the head predicts."""
    outputs = model(clip, roles).outputs
    flat = model.head.semantic({name: x.flatten(0, 1) for name, x in outputs.items()})
    return flat.unflatten(0, (len(clip), -1))


def close(got: Tensor, want: Tensor) -> None:
    """Equal to 1e-5, or to 1e-5 of the largest logit: so much do sums in another order differ in float32."""
    largest = want.abs().max().item()
    assert largest > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * max(1.0, largest))


def of_training(model: Segmenter, scene: Tensor, now: int) -> Tensor:
    """Logits [B, K, h, w] of frame `now` in the training clip around it: the first frame, those at the offsets, itself.

    The nearest frame of the scene stands in for those before it.
    """
    temporal = model.temporal
    indices = [*([0] if temporal.reference else []), *(max(now + offset, 0) for offset in temporal.adjacent), now]
    roles = (Role.REFERENCE,) * temporal.reference + (Role.ADJACENT,) * len(temporal.adjacent) + (Role.QUERY,)
    with torch.no_grad():
        return logits_of(model, scene[:, indices], roles)[:, 0]
