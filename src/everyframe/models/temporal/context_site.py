"""Where SSLTM works on a head: the map at which frames meet, and how region contexts join it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, NamedTuple

import torch
from torch import Tensor, nn

from everyframe.models.heads.base import Head
from everyframe.models.heads.ocr import ObjectAttention, OCRHead, gather_regions
from everyframe.models.ops.class_layer import ClassLayer
from everyframe.models.ops.conv import classifier
from everyframe.models.ops.resize import resize
from everyframe.models.temporal.base import AnyHead, Embedding


class PixelContext(NamedTuple):
    """What time has made of a frame at its site.

    Attributes:
        pixels: what has become of its map, [N, D, h, w].
        regions: contexts that pixels are to attend to, [N, M, D], or None.
        query: query vectors of the pixels, [N, d_k, h, w], where they are known already.
        context: further contexts of each pixel, [N, D, h, w], to be added, or None.
    """

    pixels: Tensor
    regions: Tensor | None = None
    query: Tensor | None = None
    context: Tensor | None = None


class ContextSite(nn.Module, ABC, Generic[AnyHead]):
    """A map of a head, region contexts of each frame made from it, and the attention that joins the two.

    Heads go through the methods and are not kept: they have their weights in a module of their own.

    Attributes:
        key: name of the map in the embedding, [N, channels, h, w].
        channels: D of the map and of the contexts.
        key_channels: d_k of the attention.
        bias: see `ConvNormAct`, as `norm`: how further attentions at this site are to be made.
        norm: see `ConvNormAct`.
    """

    def __init__(self, key: str, channels: int, key_channels: int, bias: bool, norm: str) -> None:
        super().__init__()
        self.key = key
        self.channels = channels
        self.key_channels = key_channels
        self.bias = bias
        self.norm = norm

    @abstractmethod
    def embed(self, maps: Sequence[Tensor], head: AnyHead) -> Embedding:
        """Return what a frame shows to itself and to others, with the map and, where asked for, "regions" [N, K, D].

        "auxiliary" holds the coarse logits [N, K, h', w'] by which regions were gathered; they need a loss.
        """

    @abstractmethod
    def query(self, pixels: Tensor, head: AnyHead) -> Tensor:
        """Return the query vectors [N, d_k, h, w] of pixels [N, D, h, w]."""

    @abstractmethod
    def join(self, embedding: Embedding, given: PixelContext, head: AnyHead) -> Embedding:
        """Return the embedding that the head predicts from.

        Args:
            embedding: the query frame's, from `embed`.
            given: what takes the place of its map and regions.
            head: the head.
        """


class OCRSite(ContextSite[OCRHead]):
    """The pixels of an OCR head, which attends to regions itself; without parameters.

    Args:
        head: loses the part of its attention that would have nothing to attend to.
        regions: see `context_site`.
        contexts: see `context_site`.
    """

    def __init__(self, head: OCRHead, regions: bool = True, contexts: bool = True) -> None:
        super().__init__("pixels", head.channels, head.key_channels, head.bias, head.norm)
        if not regions:
            head.leave_out_regions(keep_query=contexts)

    def embed(self, maps: Sequence[Tensor], head: OCRHead) -> Embedding:
        """See `ContextSite.embed`."""
        return head.embed(maps)

    def query(self, pixels: Tensor, head: OCRHead) -> Tensor:
        """See `ContextSite.query`."""
        assert head.attention is not None, "a site without further contexts is asked for no query"
        return head.attention.query(pixels)

    def join(self, embedding: Embedding, given: PixelContext, head: OCRHead) -> Embedding:
        """See `ContextSite.join`: the head does it in `predict`, from entries of these names."""
        rest = {name: x for name, x in embedding.items() if name not in given._fields}
        return {**rest, **{name: x for name, x in given._asdict().items() if x is not None}}


class PixelSite(ContextSite[Head]):
    """A map of any head: contexts are gathered by coarse class scores, attended to, and added to the map.

        x + gamma * W [C; x],  C = attention(x, regions) + further contexts

    with a factor per channel (`gamma`, LayerScale of Touvron et al., ICCV 2021) that starts small: an untrained site
    leaves the head nearly as it was. Unlike OCR's fusion the sum is not rectified, for masks are signed products.

    The coarse scores are those of the head's auxiliary head, or where it has none of a 1x1 convolution on the map.

    Args:
        head: the head.
        key: the map: the head's `shared` one, or "pixels", the last before its prediction.
        gamma: start of the factor.
        dropout: share of the map's channels dropped before the 1x1 convolution in training.
        regions: see `context_site`; without them no coarse scores are made.
        contexts: see `context_site`; without them and regions the site has no parameters and leaves the map as it is.
    """

    class_layers: ClassVar[Mapping[str, ClassLayer]] = {
        "coarse.1.weight": ClassLayer(),
        "coarse.1.bias": ClassLayer(),
    }

    def __init__(
        self,
        head: Head,
        key: str | None = None,
        gamma: float = 0.1,
        dropout: float = 0.05,
        regions: bool = True,
        contexts: bool = True,
    ) -> None:
        key = key or head.shared
        if key not in (head.shared, "pixels"):
            choices = " or ".join(dict.fromkeys((head.shared, "pixels")))
            raise ValueError(f"SSLTM: expected the map {choices} of {type(head).__name__}, came {key!r}")
        super().__init__(key, head.channels, max(1, head.channels // 2), bias=True, norm="batch")
        self.regions = regions
        self.coarse: nn.Module | None = None
        if regions and head.auxiliary is None:
            self.coarse = nn.Sequential(nn.Dropout2d(dropout), classifier(head.channels, head.num_classes))
        if regions or contexts:
            attention = ObjectAttention(self.channels, self.key_channels, self.bias, self.norm)
            self.attention = attention if regions else attention.without_contexts()
            self.fuse = nn.Conv2d(2 * self.channels, self.channels, 1)
            self.gamma = nn.Parameter(torch.full((self.channels, 1, 1), gamma))

    def embed(self, maps: Sequence[Tensor], head: Head) -> Embedding:
        """See `ContextSite.embed`."""
        embedding = head.begin(maps) if self.key == head.shared else head.embed(maps)
        if not self.regions:
            return embedding
        pixels = embedding[self.key]
        if self.coarse is not None:
            coarse = self.coarse(pixels)
        elif "auxiliary" in embedding:  # in training the head has computed them already
            coarse = embedding["auxiliary"]
        else:
            assert head.auxiliary is not None, "without one the site has coarse scores of its own"
            coarse = head.auxiliary(maps)
        regions = gather_regions(pixels, resize(coarse, pixels.shape[-2:]))
        return {**embedding, "regions": regions, "auxiliary": coarse}

    def query(self, pixels: Tensor, head: Head) -> Tensor:
        """See `ContextSite.query`."""
        return self.attention.query(pixels)

    def join(self, embedding: Embedding, given: PixelContext, head: Head) -> Embedding:
        """See `ContextSite.join`."""
        pixels, regions, query, context = given
        if regions is not None:
            own = self.attention.attend(self.query(pixels, head) if query is None else query, regions)
            context = own if context is None else context + own
        if context is not None:
            pixels = pixels + self.gamma * self.fuse(torch.cat([context, pixels], dim=1))
        joined = {name: x for name, x in embedding.items() if name != "regions"} | {self.key: pixels}
        return head.complete(joined) if self.key == head.shared else joined


def context_site(head: Head, key: str | None = None, regions: bool = True, contexts: bool = True) -> ContextSite:
    """Return the site of a head, with the parameters that are used and no others.

    Weights without a gradient are dead weight, and distributed training stops at them.

    Args:
        head: OCR attends to regions itself; every other head gets an attention.
        key: see `PixelSite`.
        regions: whether pixels will be given region contexts to attend to.
        contexts: whether they will be given further contexts, which speak to their query vectors.

    Raises:
        ValueError: no head, or one without such a map.
    """
    if not isinstance(head, Head):
        raise ValueError(f"SSLTM: expected a head, came {type(head).__name__}")
    if not isinstance(head, OCRHead):
        return PixelSite(head, key, regions=regions, contexts=contexts)
    if key not in (None, "pixels"):
        raise ValueError(f"SSLTM: expected the map pixels of OCRHead, came {key!r}")
    return OCRSite(head, regions, contexts)
