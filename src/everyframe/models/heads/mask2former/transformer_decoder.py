"""Mask2Former's transformer decoder: queries that look only where their own mask is.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation" (CVPR 2022), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.heads.mask2former.pixel_decoder import feed_forward, init_feed_forward


class Attention(nn.Module):
    """Multi-head attention with separate queries, keys and values, in one fused kernel.

    Args:
        width: channels D.
        heads: number of heads; they divide D.
        dropout: of the attention weights, in training.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        for weight in self.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """[N, Q, D], [N, M, D], [N, M, D] -> [N, Q, D]; `allowed` bool [N, Q, M] says who may see what."""
        projections = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        q, k, v = (
            F.linear(x, *projection).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x, projection in zip((query, key, value), projections, strict=True)
        )
        mask = None if allowed is None else allowed[:, None]
        out = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.output(out.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, perceptron; a LayerNorm after each residual sum.

    Args:
        width: channels D.
        heads: of both attentions.
        hidden: width of the perceptron.
        attention_dropout: of the attention weights, in training.
        projection_dropout: of what the attentions add, in training.
        mlp_dropout: inside the perceptron and of what it adds, in training.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        attention_dropout: float = 0.0,
        projection_dropout: float = 0.0,
        mlp_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.cross_attention = Attention(width, heads, attention_dropout)
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, attention_dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = feed_forward(width, hidden, mlp_dropout)
        self.norm3 = nn.LayerNorm(width)
        self.projection_dropout = nn.Dropout(projection_dropout)
        self.mlp_dropout = nn.Dropout(mlp_dropout)
        init_feed_forward(self.mlp)

    def forward(self, x: Tensor, query_embed: Tensor, memory: Tensor, keys: Tensor, allowed: Tensor) -> Tensor:
        """Update the queries.

        Args:
            x: [N, Q, D].
            query_embed: [Q, D]: learned positions of the queries.
            memory: [N, M, D]: cells of a map.
            keys: [N, M, D]: the same with positions.
            allowed: bool [N, Q, M]: cells that each query may see.
        """
        x = self.norm1(x + self.projection_dropout(self.cross_attention(x + query_embed, keys, memory, allowed)))
        placed = x + query_embed
        x = self.norm2(x + self.projection_dropout(self.self_attention(placed, placed, x)))
        return self.norm3(x + self.mlp_dropout(self.mlp(x)))


@torch.no_grad()
def visible_cells(masks: Tensor) -> Tensor:
    """Return which cells each query may see from its mask logits [N, Q, M]: bool [N, Q, M].

    Those that its mask covers (probability 0.5 or more); all of them where it covers none, for attention to nothing
    has no value.
    """
    visible = masks >= 0
    return visible | ~visible.any(-1, keepdim=True)


def mask_logits(mask_embeddings: Tensor, pixels: Tensor) -> Tensor:
    """[N, Q, D] and [N, D, h, w] -> masks [N, Q, h, w]: the product of each query with each pixel."""
    return torch.einsum("nqd,ndhw->nqhw", mask_embeddings, pixels)


def shrink(pixels: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return pixel features [N, D, h, w] at each of `sizes` as [N, D, h_i * w_i].

    Bilinear resizing is linear and acts on each channel alone, so it commutes with the product that makes a mask:
    resized masks are masks of resized pixels, at a fraction of the cost.
    """
    return [F.interpolate(pixels, size, mode="bilinear", align_corners=False).flatten(2) for size in sizes]
