"""Segmenter's head: class tokens and patches meet in a transformer, and masks are their products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.heads.base import Head, Outputs
from everyframe.models.ops.attention import TransformerBlock
from everyframe.models.ops.class_layer import ClassLayer
from everyframe.models.ops.precision import without_autocast
from everyframe.models.ops.resize import map_at
from everyframe.models.temporal.base import Embedding


class MaskTransformerHead(Head):
    """Learned class tokens join the patches in a few transformer blocks; cosine products give one mask per class.

    Strudel et al., "Segmenter: Transformer for Semantic Segmentation" (ICCV 2021), mask transformer, as mmseg's
    `SegmenterMaskTransformerHead` lays it out: masks = LN_K(normalise(patches W_p) normalise(classes W_c)^T).

    Args:
        channels: channels of each backbone map.
        strides: stride of each backbone map.
        num_classes: K.
        index: map whose cells are the patches.
        width: channels D of the tokens; the map's own when left out.
        depth: number of blocks.
        heads: attention heads per block; one per 64 channels when left out.
        mlp_ratio: hidden channels of the MLP over D.
        dropout: in the blocks, in training.
        auxiliary: head for an auxiliary loss, or None.
    """

    class_layers: ClassVar[Mapping[str, ClassLayer]] = {
        "classes": ClassLayer(dim=1),
        "mask_norm.weight": ClassLayer(),
        "mask_norm.bias": ClassLayer(),
    }

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        index: int = -1,
        width: int | None = None,
        depth: int = 1,
        heads: int | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        auxiliary: Head | None = None,
    ) -> None:
        super().__init__()
        width = width or map_at(channels, index)
        heads = heads or max(1, width // 64)
        self.num_classes = num_classes
        self.stride = map_at(strides, index)
        self.channels = width
        self.index = index
        self.project = nn.Linear(channels[index], width)
        self.classes = nn.Parameter(torch.empty(1, num_classes, width))
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, int(width * mlp_ratio), dropout=dropout) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.to_patch = nn.Linear(width, width, bias=False)
        self.to_class = nn.Linear(width, width, bias=False)
        self.mask_norm = nn.LayerNorm(num_classes)
        self.auxiliary = auxiliary
        for tensor in (self.classes, self.to_patch.weight, self.to_class.weight):
            nn.init.trunc_normal_(tensor, std=0.02)

    def embed(self, maps: Sequence[Tensor]) -> Embedding:
        """See `Head.embed`: "pixels" [N, D, h, w], the projected patches."""
        pixels = self.project(maps[self.index].movedim(1, -1)).movedim(-1, 1)
        return {"pixels": pixels, **self.embed_auxiliary(maps)}

    def predict(self, embedding: Embedding) -> Outputs:
        """See `Head.predict`."""
        pixels = embedding["pixels"]
        n, _, h, w = pixels.shape
        patches = pixels.flatten(2).transpose(1, 2)  # N hw D
        tokens = self.norm(self.blocks(torch.cat([patches, self.classes.expand(n, -1, -1)], dim=1)))
        patches, classes = self.to_patch(tokens[:, : h * w]), self.to_class(tokens[:, h * w :])
        # Cosines lie close together and the norm pulls them apart: half precision would take one class for another.
        with without_autocast(pixels):
            cosines = F.normalize(patches.float(), dim=-1) @ F.normalize(classes.float(), dim=-1).mT
            masks = self.mask_norm(cosines.to(self.mask_norm.weight.dtype))  # N hw K
        return {"logits": masks.transpose(1, 2).unflatten(2, (h, w))}
