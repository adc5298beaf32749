"""Mask2Former's head: a set of queries, each of which predicts a class and a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.heads.base import Head, Outputs
from everyframe.models.heads.mask2former.pixel_decoder import PixelDecoder
from everyframe.models.heads.mask2former.transformer_decoder import DecoderLayer, mask_logits, shrink, visible_cells
from everyframe.models.ops.class_layer import ClassLayer
from everyframe.models.ops.position import sine_positions
from everyframe.models.ops.precision import without_autocast
from everyframe.models.ops.resize import map_at, resize
from everyframe.models.temporal.base import Embedding


class Mask2FormerHead(Head):
    """Pixel decoder, masked transformer decoder, a class and a mask for each query.

    Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation" (CVPR 2022), in the form of mmdet
    and of ViT-Adapter (Chen et al., ICLR 2023); mmdet's, mmseg's and transformers' checkpoints of it load through
    `everyframe.models.convert`. Where those predict all masks of all layers at full size, this head never does: the
    attention masks of the layers are made at the size of the map they are for (see `shrink`), and a mask is a pair of
    query and pixel features until somebody needs its pixels. That is exact and saves four fifths of the prediction's
    multiplications, and most of its memory in training.

    "pixels" of the embedding [N, D, h, w] are the features that masks are products with: what a temporal module may
    change. "memory0", "memory1", ... are the coarser maps (coarse to fine) which the queries read. The last of them, of
    stride 8 on the usual pyramids, is the shared map of `begin`: "pixels" are made from it by `complete`, so what other
    frames add to it reaches the classes as well as the masks, at a quarter of the cells.

    Args:
        channels: channels of each backbone map.
        strides: stride of each backbone map.
        num_classes: K.
        index: which maps to read, fine to coarse; all when left out.
        width: channels D of queries and pixels.
        queries: number of queries Q.
        heads: attention heads of both decoders.
        points: sampled per head and map in the pixel decoder.
        encoder_layers: layers of the pixel decoder.
        encoder_hidden: width of its perceptrons.
        decoder_layers: layers of the transformer decoder.
        decoder_hidden: width of its perceptrons.
        groups: of the group norms.
        upsample_first: enlarge the masks to the frame's size before the sigmoid, as mmseg does, not the finished
            scores, as ViT-Adapter does. Slow at many queries.
        encoder_dropout: in the pixel decoder, in training.
        attention_dropout: see `DecoderLayer`.
        projection_dropout: see `DecoderLayer`.
        mlp_dropout: see `DecoderLayer`.
        checkpointed: see `PixelDecoder`.
        auxiliary: head for an auxiliary loss, or None.
    """

    predicts = "masks"
    class_layers: ClassVar[Mapping[str, ClassLayer]] = {
        "cls_embed.weight": ClassLayer(kept=1),
        "cls_embed.bias": ClassLayer(kept=1),
    }

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        index: Sequence[int] | None = None,
        width: int = 256,
        queries: int = 100,
        heads: int = 8,
        points: int = 4,
        encoder_layers: int = 6,
        encoder_hidden: int = 1024,
        decoder_layers: int = 9,
        decoder_hidden: int = 2048,
        groups: int = 32,
        upsample_first: bool = False,
        encoder_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        projection_dropout: float = 0.0,
        mlp_dropout: float = 0.0,
        checkpointed: bool = False,
        auxiliary: Head | None = None,
    ) -> None:
        super().__init__()
        self.index = tuple(range(len(channels)) if index is None else index)
        channels = [map_at(channels, i) for i in self.index]
        self.num_classes = num_classes
        self.stride = strides[self.index[0]]
        self.channels = width
        self.shared = f"memory{len(channels) - 2}"
        self.upsample_first = upsample_first
        self.pixel_decoder = PixelDecoder(
            channels, width, encoder_layers, heads, points, encoder_hidden, encoder_dropout, groups, checkpointed
        )
        self.level_embed = nn.Embedding(len(channels) - 1, width)
        self.query_embed = nn.Embedding(queries, width)
        self.query_feat = nn.Embedding(queries, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, decoder_hidden, attention_dropout, projection_dropout, mlp_dropout)
            for _ in range(decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.cls_embed = nn.Linear(width, num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True),
            nn.Linear(width, width),
        )  # fmt: skip
        self.auxiliary = auxiliary

    def embed(self, maps: Sequence[Tensor]) -> Embedding:
        """See `Head.embed`: "pixels" [N, D, h, w] and "memory0", ... [N, D, h_i, w_i], coarse to fine."""
        return self.complete(self.begin(maps))

    def begin(self, maps: Sequence[Tensor]) -> Embedding:
        """See `Head.begin`: "memory0", ... as of `embed`, and "fine" [N, D, h, w], what "pixels" are merged with."""
        fine, levels = self.pixel_decoder.encode([maps[i] for i in self.index])
        return {"fine": fine, **{f"memory{i}": x for i, x in enumerate(levels)}, **self.embed_auxiliary(maps)}

    def complete(self, embedding: Embedding) -> Embedding:
        """See `Head.complete`: merges "fine" and the shared map into "pixels"."""
        rest = {name: x for name, x in embedding.items() if name != "fine"}
        return {**rest, "pixels": self.pixel_decoder.merge(embedding["fine"], embedding[self.shared])}

    def predict(self, embedding: Embedding) -> Outputs:
        """Run the queries.

        Returns:
            "class_logits" [N, A, Q, K + 1] (the last one is "no object"), "mask_embeddings" [N, A, Q, D] and "pixels"
            [N, D, h, w], whose products are the masks. A counts the predictions: before the first and after each layer
            in training, where all of them are supervised; the last one alone otherwise.
        """
        pixels = embedding["pixels"]
        levels = [embedding[f"memory{i}"] for i in range(len(self.level_embed.weight))]
        sizes = [(x.shape[-2], x.shape[-1]) for x in levels]
        with torch.no_grad():
            small = shrink(pixels, sizes)
        memory, keys = [], []
        for x, size, code in zip(levels, sizes, self.level_embed.weight, strict=True):
            memory.append(x.flatten(2).transpose(1, 2) + code)
            keys.append(memory[-1] + sine_positions(size, self.channels, x.device).to(x.dtype))

        query_embed = self.query_embed.weight
        x = self.query_feat.weight.expand(len(pixels), -1, -1)
        normed = [self.norm(x)]
        for i, layer in enumerate(self.layers):
            at = i % len(levels)
            with torch.no_grad():
                allowed = visible_cells(self.mask_embed(normed[-1]) @ small[at])
            x = layer(x, query_embed, memory[at], keys[at], allowed)
            normed.append(self.norm(x))
        kept = torch.stack(normed if self.training else normed[-1:], dim=1)  # N A Q D
        return {"class_logits": self.cls_embed(kept), "mask_embeddings": self.mask_embed(kept), "pixels": pixels}

    def semantic(self, outputs: Outputs) -> Tensor:
        """Return scores [N, K, h, w] in 0..Q: the sum over queries of class probability times mask probability.

        They are no logits: their largest is the answer, their softmax (which the published code takes before it
        averages views) nearly flat. "score_norm" of the test-time wrappers chooses what to average.
        """
        masks = mask_logits(outputs["mask_embeddings"][:, -1], outputs["pixels"])
        size = tuple(self.stride * side for side in masks.shape[-2:]) if self.upsample_first else None
        return semantic_scores(outputs["class_logits"][:, -1], masks, size)


def semantic_scores(class_logits: Tensor, masks: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Return sum over q of softmax(class)[q, k] * sigmoid(mask)[q], without "no object".

    In float32 whatever autocast says: lower precisions round sums over many queries to ties between classes.

    Args:
        class_logits: [N, Q, K + 1].
        masks: logits [N, Q, h, w].
        size: enlarge the masks to this (H, W) before the sigmoid; None leaves them.

    Returns:
        float32 [N, K, h, w] or [N, K, H, W].
    """
    with without_autocast(masks):
        class_logits, masks = class_logits.float(), masks.float()
        if size is not None:
            masks = resize(masks, (size[0], size[1]))
        return torch.einsum("nqk,nqhw->nkhw", F.softmax(class_logits, dim=-1)[..., :-1], masks.sigmoid())
