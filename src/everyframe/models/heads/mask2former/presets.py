"""Mask2Former in its published sizes, chosen by the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everyframe.models.heads.mask2former.head import Mask2FormerHead

SIZES: dict[int, dict[str, int]] = {
    1024: {"heads": 32, "encoder_hidden": 4096, "decoder_hidden": 4096},
    256: {"heads": 8, "encoder_hidden": 1024, "decoder_hidden": 2048},
    64: {
        "heads": 4, "encoder_hidden": 128, "decoder_hidden": 128, "encoder_layers": 2, "decoder_layers": 3,
        "queries": 24,
    },
}  # fmt: skip
"""Width -> the rest. 1024: ViT-Adapter-L and EVA; 256: Mask2Former's own; 64: for small backbones and quick trials."""


def mask2former(
    channels: Sequence[int], strides: Sequence[int], num_classes: int, *, width: int | None = None, **options: Any
) -> Mask2FormerHead:
    """Mask2Former of the size of `SIZES` next below the width asked for, or below the backbone's."""
    fits = min(channels) if min(channels) >= 1024 else min(channels[-1], 1023)
    size = next((w for w in SIZES if w <= (width or fits)), min(SIZES))
    return Mask2FormerHead(channels, strides, num_classes, **{"width": width or size, **SIZES[size], **options})
