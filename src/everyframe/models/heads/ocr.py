"""Object-contextual representations: each pixel asks the classes of the frame what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.heads.base import Head, Outputs
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.ops.conv import ConvNormAct, classifier
from everyframe.models.ops.resize import join_maps, joined_channels, joined_stride, resize
from everyframe.models.temporal.base import Embedding


def gather_regions(pixels: Tensor, coarse: Tensor) -> Tensor:
    """Average the pixels of each class, weighted by a softmax of its coarse logits over space (not over classes).

    Equation 3 of the OCR paper: f_k = sum_i softmax_i(z_ki) x_i.

    Args:
        pixels: x [N, D, h, w].
        coarse: z [N, K, h, w].

    Returns:
        [N, K, D], one region context per class, whether or not the frame shows the class.
    """
    weights = coarse.flatten(2).float().softmax(dim=-1).to(pixels.dtype)
    return weights @ pixels.flatten(2).transpose(1, 2)


def _project(*widths: int, bias: bool, norm: str) -> nn.Sequential:
    """Return 1x1 convolutions from width to width, each normalised and rectified."""
    return nn.Sequential(*(ConvNormAct(a, b, bias=bias, norm=norm) for a, b in pairwise(widths)))


class ContextAttention(nn.Module):
    """The contexts' side of object attention: any number of contexts speak to pixels that bring their query vectors.

    Args:
        channels: D of pixels and contexts.
        key_channels: d_k in which they are compared.
        bias: see `ConvNormAct`.
        norm: see `ConvNormAct`.
    """

    def __init__(self, channels: int, key_channels: int, bias: bool = False, norm: str = "batch") -> None:
        super().__init__()
        self.to_key = _project(channels, key_channels, key_channels, bias=bias, norm=norm)
        self.to_value = _project(channels, key_channels, bias=bias, norm=norm)
        self.to_output = _project(key_channels, channels, bias=bias, norm=norm)

    def attend(self, query: Tensor, regions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what the contexts say to each pixel.

        Args:
            query: query vectors of the pixels, [N, d_k, h, w].
            regions: any number M of contexts, [N, M, D], or [1, M, D] where all frames have the same.
            mask: bool [N, M] or [1, M], False where a context does not count; None counts all. Each row needs one True.

        Returns:
            [N, D, h, w].
        """
        tokens = regions.transpose(1, 2).unsqueeze(-1)  # N D M 1: 1x1 convolutions see contexts as pixels
        key, value = (projection(tokens).flatten(2).transpose(1, 2) for projection in (self.to_key, self.to_value))
        n = len(query)
        context = F.scaled_dot_product_attention(
            query.flatten(2).transpose(1, 2).unsqueeze(1),  # N 1 hw d_k
            key.unsqueeze(1).expand(n, -1, -1, -1),
            value.unsqueeze(1).expand(n, -1, -1, -1),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )
        return self.to_output(context.squeeze(1).transpose(1, 2).unflatten(2, query.shape[-2:]))


class ObjectAttention(ContextAttention):
    """Cross attention from pixels to region contexts (equations 4 to 6 of the OCR paper), one head.

    `query` is apart from `attend`, because two sets of contexts may share one query (SSLTM's frame and global context).

    Args:
        channels: D of pixels and contexts.
        key_channels: d_k in which they are compared.
        bias: see `ConvNormAct`.
        norm: see `ConvNormAct`.
    """

    def __init__(self, channels: int, key_channels: int, bias: bool = False, norm: str = "batch") -> None:
        super().__init__(channels, key_channels, bias, norm)
        self.to_query = _project(channels, key_channels, key_channels, bias=bias, norm=norm)

    def query(self, pixels: Tensor) -> Tensor:
        """[N, D, h, w] -> [N, d_k, h, w]."""
        return self.to_query(pixels)

    def without_contexts(self) -> Self:
        """Drop the contexts' side; what is left is `query`, for contexts that bring an attention of their own."""
        del self.to_key, self.to_value, self.to_output
        return self

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Pixels [N, D, h, w] and contexts [N, M, D] -> [N, D, h, w]."""
        return self.attend(self.query(pixels), regions)


class OCRHead(Head):
    """Soft regions from the auxiliary head's logits, object attention, fusion, classifier.

    Yuan, Chen and Wang, "Object-Contextual Representations for Semantic Segmentation" (ECCV 2020). The defaults are
    the layout of the VSPW code (convolutions with a bias, D = 512, d_k = 256), on which SSLTM, TCB, NetWarp and ETC
    stand; with `bias=False` and a list of maps it is mmseg's `OCRHead` (`everyframe.models.convert`).

    The embedding holds "pixels" [N, D, h, w], "regions" [N, K, D] and the coarse logits as "auxiliary" [N, K, h', w'].
    A temporal module may put other pixels or other regions (also more or fewer than K, or none) in their place. It may
    add "context" [N, D, h, w], which is added to what the attention returns, and "query" [N, d_k, h, w] where it has
    computed the pixels' query vectors already.

    Args:
        channels: channels of each backbone map.
        strides: stride of each backbone map.
        num_classes: K.
        index: map for the pixels, or several to join at the size of the first (see `join_maps`).
        width: D.
        key_width: d_k.
        dropout: share of channels dropped before the classifiers in training.
        align_corners: how maps are resized.
        bias: see `ConvNormAct`.
        norm: see `ConvNormAct`.
        auxiliary: head of the coarse logits; left out, one 3x3 convolution of D channels on the last map but one.
            Pixels and coarse logits meet at the finer of their grids: with Swin, pixels of stride 32 are resized to
            stride 16; in dilated networks nothing is resized.
    """

    auxiliary: Head
    attention: ObjectAttention | None

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        index: int | Sequence[int] = -1,
        width: int = 512,
        key_width: int = 256,
        dropout: float = 0.05,
        align_corners: bool = False,
        bias: bool = True,
        norm: str = "batch",
        auxiliary: Head | None = None,
    ) -> None:
        super().__init__()
        if auxiliary is None:
            auxiliary = FCNHead(
                channels, strides, num_classes, index=-2, width=width, num_convs=1, concat_input=False,
                dropout=dropout, align_corners=align_corners, bias=bias, norm=norm,
            )  # fmt: skip
        self.num_classes = num_classes
        self.stride = min(joined_stride(strides, index), auxiliary.stride)
        self.channels = width
        self.key_channels = key_width
        self.bias = bias
        self.norm = norm
        self.index = index
        self.align_corners = align_corners
        self.neck = ConvNormAct(joined_channels(channels, index), width, 3, bias=bias, norm=norm)
        self.auxiliary = auxiliary
        self.attention = ObjectAttention(width, key_width, bias, norm)
        self.reads_auxiliary = True
        self.fuse = ConvNormAct(2 * width, width, bias=bias, norm=norm)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(width, num_classes)

    def embed(self, maps: Sequence[Tensor]) -> Embedding:
        """See `Head.embed`: "pixels", "regions" (unless left out) and "auxiliary" as the class describes them."""
        pixels = self.neck(join_maps(maps, self.index, self.align_corners))
        coarse = self.auxiliary(maps)
        size = max(pixels.shape[-2:], coarse.shape[-2:])
        embedding = {"pixels": resize(pixels, size, self.align_corners), "auxiliary": coarse}
        if self.reads_auxiliary:
            coarse = resize(coarse, size, self.align_corners)
            embedding["regions"] = gather_regions(embedding["pixels"], coarse)
        return embedding

    def late_map(self, maps: Sequence[Tensor]) -> Tensor:
        """See `Head.late_map`: pixels joined with their contexts, before the classifier."""
        return self.join_context(self.embed(maps))

    def embed_late(self, late: Tensor) -> Embedding:
        """See `Head.embed_late`."""
        return {"fused": late}

    def leave_out_regions(self, keep_query: bool) -> None:
        """Drop the attention to regions, for a temporal module that never gives any: it would train nothing.

        Args:
            keep_query: keep the pixels' query vectors, to which the module's further contexts speak.
        """
        assert self.attention is not None
        self.reads_auxiliary = False
        self.attention = self.attention.without_contexts() if keep_query else None

    def join_context(self, embedding: Embedding) -> Tensor:
        """Return pixels joined with their contexts, [N, D, h, w]."""
        pixels = embedding["pixels"]
        context = embedding.get("context", torch.zeros_like(pixels[:1]))
        if "regions" in embedding:
            assert self.attention is not None, "a module that leaves the regions out gives none"
            query = embedding["query"] if "query" in embedding else self.attention.query(pixels)
            context = context + self.attention.attend(query, embedding["regions"])
        return self.fuse(torch.cat([context.expand_as(pixels), pixels], dim=1))

    def predict(self, embedding: Embedding) -> Outputs:
        """See `Head.predict`."""
        fused = embedding["fused"] if "fused" in embedding else self.join_context(embedding)
        return {"logits": self.classifier(self.dropout(fused))}
