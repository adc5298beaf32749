"""Tiny models of every system to run on videos of one moving scene each."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from everyframe.labels import LabelSpace
from everyframe.models.heads.mask_transformer import MaskTransformerHead
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.ring import scene_change, scene_signature
from everyframe.models.zoo import create_model
from everyframe.testing import settle

SPACE = LabelSpace(("a", "b", "c"))


def build(system: str, **temporal: Any) -> Segmenter:
    """Return a model whose norms and prototypes have seen pictures, and whose memory has a say."""
    model = settle(create_model(f"{system}-tiny", SPACE, backbone={"width": 8, "stem_width": 8}, temporal=temporal))
    # Segmenter's last norm magnifies the rounding of cells where all classes are alike.
    return model.double() if isinstance(model.head, MaskTransformerHead) else model


def changes(model: Segmenter, clip: Tensor) -> Tensor:
    """What the model's memory sees of scene cuts between the frames of a clip, [B, T - 1]."""
    with torch.no_grad():
        signatures = [scene_signature(model.encode(frame).maps[0]) for frame in clip.unbind(1)]
    return torch.stack([scene_change(a, b) for a, b in pairwise(signatures)], 1)


def close(got: Tensor, want: Tensor) -> None:
    """Equal to 1e-5, or to 1e-5 of the largest logit: so much do sums in another order differ in float32."""
    largest = want.abs().max().item()
    assert largest > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * max(1.0, largest))
