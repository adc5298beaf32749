"""SSLTM: short-term attention to adjacent frames, long-term context from a reference frame and class prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from everyframe.frames import Role
from everyframe.models.heads.base import Head
from everyframe.models.heads.ocr import ContextAttention
from everyframe.models.temporal.base import Embedding, Features, Memory, TemporalModule
from everyframe.models.temporal.context_site import PixelContext, context_site
from everyframe.models.temporal.prototypes import CategoryPrototypes
from everyframe.models.temporal.ring import Ring, advance
from everyframe.models.temporal.stt import SpatialTemporalBlock

CONTEXTS = ("none", "query", "reference", "both")


class ClipContext(NamedTuple):
    """What `gather` makes of the context frames of a training clip.

    Attributes:
        adjacent: adjacent frames in time order, [N, A, h, w, C'], as `SSLTM.remember` gives them.
        reference: region contexts of the reference frame, [N, K, D]; None where the clip has none.
    """

    adjacent: Tensor | None
    reference: Tensor | None


class StreamMemory(NamedTuple):
    """What a stream keeps.

    Attributes:
        ring: the latest frames, each [N, h, w, C'] as `SSLTM.remember` gives it.
        reference: region contexts of the reference frame, [N, K, D]; None where nobody asks for one.
    """

    ring: Ring
    reference: Tensor | None


class SSLTM(TemporalModule[Head]):
    """Short- and long-term modelling on a head's map of pixels.

    Lao et al., "Simultaneously Short- and Long-Term Temporal Modeling for Semi-Supervised Video Semantic
    Segmentation" (CVPR 2023). The query's pixels look at adjacent frames (spatial-temporal transformer); their class
    contexts come from a distant reference frame (RFCE) and from prototypes of the whole training set (GCC).

    On a stream every frame is encoded once: adjacent frames stay in a ring, the reference's region contexts are taken
    from the first frame and again after a scene cut.

    The paper's head is OCR, whose own attention and fusion are used: what is added are the paper's parameters and no
    others. On any other head the module brings attention and fusion along and works on the head's shared map (see
    `PixelSite`): on Mask2Former on the pixel decoder's map of stride 8, before masks and queries read it.

    Args:
        head: the head this module works with; gives widths and number of classes.
        adjacent: offsets of the adjacent frames; negative ones alone make the module causal.
        depth: blocks of the spatial-temporal transformer; 0 leaves it out. With one block, a frame's keys and values
            are kept instead of its pixels.
        heads: attention heads of the transformer.
        window: rows and columns of its windows.
        mlp_ratio: hidden channels of its Mix-FFN over D.
        context: where class contexts come from: "none", "query" (QFCE), "reference" (RFCE), or "both".
        prototypes: P per class of the global category context; 0 leaves it out.
        update: how prototypes move, see `CategoryPrototypes`.
        prototype_gradient: let the segmentation loss move prototypes too; off, `update` is their only rule.
        prototype_reseed: see `reseed` of `CategoryPrototypes`; 0, never, is this package's choice, 5000 another.
        prototype_momentum: share of the old value that the update "ema" keeps.
        prototype_pixels: cells of a frame that a class must cover for its mean to count.
        cut_threshold: change between two frames above which a new scene begins, see
            `everyframe.models.temporal.ring.scene_change`; 2 never finds one.
        at: map to work on, see `PixelSite`; the head's shared one when left out.
    """

    windowed = True

    def __init__(
        self,
        head: Head,
        adjacent: tuple[int, ...] = (-6, -3),
        depth: int = 1,
        heads: int = 8,
        window: tuple[int, int] = (7, 7),
        mlp_ratio: float = 4.0,
        context: str = "reference",
        prototypes: int = 3,
        update: str = "mse",
        prototype_gradient: bool = False,
        cut_threshold: float = 0.3,
        prototype_reseed: int = 0,
        prototype_momentum: float = 0.99,
        prototype_pixels: int = 4,
        at: str | None = None,
    ) -> None:
        super().__init__()
        if context not in CONTEXTS:
            raise ValueError(f"SSLTM: expected context to be one of {', '.join(CONTEXTS)}, came {context!r}")
        if depth < 0 or prototypes < 0:
            raise ValueError(f"SSLTM: expected 0 or more of depth and prototypes, came {depth} and {prototypes}")
        site = context_site(head, at, regions=context != "none", contexts=prototypes > 0)
        self.adjacent = tuple(sorted(adjacent)) if depth else ()
        self.before = sum(offset < 0 for offset in self.adjacent)
        self.causal = all(offset < 0 for offset in self.adjacent)
        self.reference = context in {"reference", "both"}
        self.context = context
        self.prototype_gradient = prototype_gradient
        self.cut_threshold = cut_threshold
        span = (len(self.adjacent) + 1, *window)
        self.blocks = nn.ModuleList(SpatialTemporalBlock(site.channels, heads, span, mlp_ratio) for _ in range(depth))
        self.prototypes: CategoryPrototypes | None = None
        self.global_attention: ContextAttention | None = None
        if prototypes:
            self.prototypes = CategoryPrototypes(
                head.num_classes, site.channels, prototypes, update, prototype_momentum, prototype_pixels,
                prototype_reseed,
            )  # fmt: skip
            self.global_attention = ContextAttention(site.channels, site.key_channels, site.bias, site.norm)
        self.site = site

    # -- short term --------------------------------------------------------------------------------------------------

    def remember(self, pixels: Tensor) -> Tensor:
        """Return what is kept of a frame's pixels [N, D, h, w] for later frames: [N, h, w, C']."""
        x = pixels.movedim(1, -1)
        if len(self.blocks) != 1:
            return x
        (block,) = self.blocks
        assert isinstance(block, SpatialTemporalBlock)
        return block.key_values(x)

    def attend_adjacent(self, pixels: Tensor, own: Tensor, adjacent: Tensor) -> Tensor:
        """Run the spatial-temporal transformer for the query frame.

        Args:
            pixels: the query's, [N, D, h, w].
            own: what `remember` keeps of it, [N, h, w, C'].
            adjacent: the same of the adjacent frames, in time order, [N, A, h, w, C'].

        Returns:
            [N, D, h, w].
        """
        query = pixels.movedim(1, -1)
        at = min(self.before, adjacent.shape[1])
        if len(self.blocks) == 1:
            key_values = torch.cat([adjacent[:, :at], own[:, None], adjacent[:, at:]], dim=1)
            return self.blocks[0](query, key_values, at).movedim(-1, 1)
        frames = [*adjacent[:, :at].unbind(1), query, *adjacent[:, at:].unbind(1)]
        for i, block in enumerate(self.blocks):
            assert isinstance(block, SpatialTemporalBlock)
            key_values = torch.stack([block.key_values(frame) for frame in frames], dim=1)
            last = i == len(self.blocks) - 1  # of the last block, only the query's rows are needed
            frames = [block(frame, key_values, t) for t, frame in enumerate(frames) if not last or t == at]
        return frames[0].movedim(-1, 1)

    # -- long term ---------------------------------------------------------------------------------------------------

    def choose_regions(self, own: Tensor | None, reference: Tensor | None) -> Tensor | None:
        """Return the region contexts [N, M, D] that the query attends to, by `context`."""
        if self.context == "none" or own is None:
            return None
        if self.context == "query" or reference is None:
            return own
        return torch.cat([own, reference], dim=1) if self.context == "both" else reference

    def attend_prototypes(self, query: Tensor) -> Tensor:
        """Return the global category context [N, D, h, w] for the query vectors [N, d_k, h, w]; 0 while none exist."""
        assert self.prototypes is not None
        assert self.global_attention is not None
        tokens, filled = self.prototypes.tokens()
        # A copy: the prototypes may be moved between this pass and its backward pass.
        tokens = (tokens if self.prototype_gradient else tokens.detach()).clone()
        # Empty slots stay out of a norm's statistics, which take two tokens at least; batch norm keeps its own in eval.
        if (self.training or self.site.norm != "batch") and filled.sum() > 1:
            tokens, filled = tokens[filled], filled[filled]
        mask = filled | ~filled.any()  # an all-False row would give NaN; its result is dropped below
        # The prototypes are the same for every frame, so their projections see a batch of one.
        context = self.global_attention.attend(query, tokens[None], mask[None])
        return context * filled.any().to(context.dtype)

    # -- the contract ------------------------------------------------------------------------------------------------

    def embed(self, maps: Sequence[Tensor], head: Head) -> Embedding:
        """See `TemporalModule.embed`: the head's map and, where there are contexts, the frame's "regions" [N, K, D]."""
        return self.site.embed(maps, head)

    def gather(self, frames: Sequence[Features], roles: Sequence[Role], head: Head) -> ClipContext:
        """See `TemporalModule.gather`."""
        by_role = list(zip(frames, roles, strict=True))
        adjacent = [frame.embedding[self.site.key] for frame, role in by_role if role is Role.ADJACENT]
        distant = [f.embedding["regions"] for f, role in by_role if role is Role.REFERENCE] if self.reference else []
        kept = torch.stack([self.remember(x) for x in adjacent], dim=1) if adjacent and self.blocks else None
        return ClipContext(kept, torch.cat(distant, dim=1) if distant else None)

    def forward(self, query: Features, memory: Memory, head: Head) -> tuple[Embedding, Memory]:
        """See `TemporalModule.forward`."""
        pixels, own = query.embedding[self.site.key], query.embedding.get("regions")
        kept = self.remember(pixels) if self.blocks else pixels.new_zeros(len(pixels), *pixels.shape[2:], 0)
        if not isinstance(memory, ClipContext):
            memory, context = self._stream(query, kept, memory)
        else:
            context = memory
        if self.blocks:
            adjacent = context.adjacent
            if adjacent is None:  # a clip of the query alone, which stands in for its neighbours as on a stream
                adjacent = kept[:, None].expand(-1, len(self.adjacent), -1, -1, -1)
            pixels = self.attend_adjacent(pixels, kept, adjacent)
        given = PixelContext(pixels, self.choose_regions(own, context.reference))
        if self.prototypes is not None:
            asks = self.site.query(pixels, head)
            given = given._replace(query=asks, context=self.attend_prototypes(asks))
        return self.site.join(query.embedding, given, head), memory

    # -- streams -----------------------------------------------------------------------------------------------------

    def _stream(self, query: Features, kept: Tensor, memory: StreamMemory | None) -> tuple[StreamMemory, ClipContext]:
        """Return the memory after this frame, of which `kept` is remembered, and what this frame may look at."""
        reach = max((-offset for offset in self.adjacent), default=0)
        ring, recent = advance(memory.ring if memory else None, kept, query.maps[0], reach, self.cut_threshold)
        reference = None
        if self.reference:
            reference = own = query.embedding["regions"]
            if memory is not None and memory.reference is not None and len(memory.reference) == len(own):
                reference = torch.where(recent.cut[:, None, None], own, memory.reference)
        adjacent = recent.at(self.adjacent) if self.blocks else None
        return StreamMemory(ring, reference), ClipContext(adjacent, reference)
