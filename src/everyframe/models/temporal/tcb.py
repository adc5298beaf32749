"""Temporal context blending (TCB): the contexts of several frames, averaged, serve the query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from everyframe.frames import Role
from everyframe.models.heads.base import Head
from everyframe.models.heads.ocr import OCRHead
from everyframe.models.heads.psp import PSPHead
from everyframe.models.temporal.base import Embedding, Features, Memory, TemporalModule
from everyframe.models.temporal.ring import Ring, advance, where_cut

OFFSETS = (-9, -6, -3)
MEMORIES = ("none", "fifo", "vspw_compat")


class ClipContexts(NamedTuple):
    """Contexts of the other frames of a training clip, [N, A, ...]."""

    others: Tensor


class Bank(NamedTuple):
    """Region contexts of several frames, oldest first.

    Attributes:
        sets: [N, M, K, D].
        of_scene: bool [N, M], False where a set is of an earlier scene and counts no more.
    """

    sets: Tensor
    of_scene: Tensor

    @classmethod
    def new(cls, sets: Tensor) -> Bank:
        """Return the bank of these sets, all of which count."""
        return cls(sets, torch.ones(sets.shape[:2], dtype=torch.bool, device=sets.device))

    def then(self, later: Bank, most: int) -> Bank:
        """Return the latest `most` of these and later sets."""
        return Bank(*(torch.cat(both, dim=1)[:, -most:] for both in zip(self, later, strict=True)))

    def mean(self) -> Tensor:
        """Return the mean of the sets that count, [N, K, D]."""
        counts = self.of_scene.to(self.sets.dtype)[..., None, None]
        return (self.sets * counts).sum(1) / counts.sum(1)


class StreamContexts(NamedTuple):
    """What a stream keeps.

    Attributes:
        ring: contexts of the latest frames.
        bank: region contexts of earlier steps; None without a memory.
    """

    ring: Ring
    bank: Bank | None


class RegionBlending(TemporalModule[OCRHead]):
    """TCB on an OCR head: the query's pixels attend to region contexts averaged over the clip.

    Miao et al., "VSPW: A Large-scale Dataset for Video Scene Parsing in the Wild" (CVPR 2021), TCB-OCR, and its form
    with a memory. Without parameters of its own.

    On a stream, the regions of the latest frames stay in a ring; after a scene cut the ring and the memory begin anew.

    Args:
        head: the OCR head this module works with.
        adjacent: offsets of the other frames; in training, `mirror` of the data takes as many from the future.
        memory: on streams, average over the regions of earlier steps too. "fifo" keeps the latest; "vspw_compat" is
            the authors' code, where the memory forever holds what the first frame of a video left in it; "none".
        memory_frames: region sets that the memory holds; each step adds those of all its frames.
        cut_threshold: see `everyframe.models.temporal.ring.scene_change`; 2 never finds a cut.
    """

    windowed = True

    def __init__(
        self,
        head: Head,
        adjacent: Sequence[int] = OFFSETS,
        memory: str = "none",
        memory_frames: int = 8,
        cut_threshold: float = 0.3,
    ) -> None:
        super().__init__()
        if memory not in MEMORIES:
            raise ValueError(f"TCB: expected memory to be one of {', '.join(MEMORIES)}, came {memory!r}")
        if memory_frames < 1:
            raise ValueError(f"TCB: expected a memory of one region set or more, came memory_frames {memory_frames}")
        if not isinstance(head, OCRHead):
            raise ValueError(f"TCB with regions: expected an OCR head, came {type(head).__name__}")
        self.adjacent = tuple(adjacent)
        self.causal = all(offset < 0 for offset in self.adjacent)
        self.memory = memory
        self.memory_frames = memory_frames
        self.cut_threshold = cut_threshold

    def gather(self, frames: Sequence[Features], roles: Sequence[Role], head: OCRHead) -> ClipContexts:
        """See `TemporalModule.gather`."""
        return ClipContexts(torch.stack([frame.embedding["regions"] for frame in frames], dim=1))

    def forward(self, query: Features, memory: Memory, head: OCRHead) -> tuple[Embedding, Memory]:
        """See `TemporalModule.forward`; changes "regions" alone."""
        own = query.embedding["regions"]
        if isinstance(memory, ClipContexts):
            regions = torch.cat([memory.others, own[:, None]], dim=1)
            return {**query.embedding, "regions": regions.mean(1)}, memory
        reach = max((-offset for offset in self.adjacent), default=0)
        known = None if memory is None else memory.ring
        ring, recent = advance(known, own, query.maps[0], reach, self.cut_threshold)
        regions = torch.cat([recent.at(self.adjacent), own[:, None]], dim=1)
        if self.memory == "none":
            return {**query.embedding, "regions": regions.mean(1)}, StreamContexts(ring, None)
        used, bank = self.remember(None if memory is None else memory.bank, regions, recent.cut)
        return {**query.embedding, "regions": used.mean()}, StreamContexts(ring, bank)

    def remember(self, bank: Bank | None, step: Tensor, cut: Tensor) -> tuple[Bank, Bank]:
        """Return the region sets to average at this step, and the bank for the next one.

        Args:
            bank: None at the start of a video.
            step: the step's own region sets, [N, T, K, D], the query's last.
            cut: bool [N], streams in which a new scene begins; they forget.
        """
        compat = self.memory == "vspw_compat"
        # That code drops the oldest set while more than `memory_frames` are there, and then appends the next.
        most = self.memory_frames + compat
        own = Bank.new(step)
        if bank is None or bank.sets.shape[2:] != step.shape[2:] or len(bank.sets) != len(step):
            first = Bank(step[:, -most:], own.of_scene[:, -most:])
            return first, first
        used = bank._replace(of_scene=bank.of_scene & ~cut[:, None]).then(own, most)
        if not compat:
            return used, used
        return used, Bank.new(where_cut(cut, step[:, -most:], bank.sets))


class PyramidBlending(TemporalModule[PSPHead]):
    """TCB on a PSP head: pooled maps averaged over the clip are laid beside the query's map.

    Miao et al. (CVPR 2021), TCB-PPM.

    Args:
        head: the PSP head this module works with.
        channels: of the map that the head pools.
        adjacent: see `RegionBlending`.
        weighted: weigh frames by a softmax of a learned score instead of alike.
        form: of the weights. "corrected": each frame's weight meets that frame, and they sum to one. "vspw": the
            authors' code, where the weights are shifted by one frame and the weighted maps averaged, not summed.
        cut_threshold: see `RegionBlending`.
    """

    windowed = True
    own_maps = False

    def __init__(
        self,
        head: PSPHead,
        channels: int,
        adjacent: Sequence[int] = OFFSETS,
        weighted: bool = False,
        form: str = "corrected",
        cut_threshold: float = 0.3,
    ) -> None:
        super().__init__()
        if form not in ("corrected", "vspw"):
            raise ValueError(f"TCB: expected form 'corrected' or 'vspw', came {form!r}")
        self.adjacent = tuple(adjacent)
        self.causal = all(offset < 0 for offset in self.adjacent)
        self.form = form
        self.cut_threshold = cut_threshold
        self.score = nn.Conv2d(channels, 1, 1, bias=False) if weighted else None

    def embed(self, maps: Sequence[Tensor], head: PSPHead) -> Embedding:
        """See `TemporalModule.embed`: "pooled" [N, C, cells], all bins of all levels in a row."""
        pooled = [cells.flatten(2) for cells in head.pyramid.pool(maps[head.index])]
        if self.score is not None:
            # A further cell with the frame's score, so that all that others see of a frame is one tensor.
            score = self.score(maps[head.index]).mean((2, 3), keepdim=True).flatten(2)
            pooled.append(score.expand(-1, pooled[0].shape[1], -1))
        return {"pooled": torch.cat(pooled, dim=2), **head.embed_auxiliary(maps)}

    def gather(self, frames: Sequence[Features], roles: Sequence[Role], head: PSPHead) -> ClipContexts:
        """See `TemporalModule.gather`."""
        return ClipContexts(torch.stack([frame.embedding["pooled"] for frame in frames], dim=1))

    def forward(self, query: Features, memory: Memory, head: PSPHead) -> tuple[Embedding, Memory]:
        """See `TemporalModule.forward`."""
        own, x = query.embedding["pooled"], query.maps[head.index]
        if isinstance(memory, ClipContexts):
            others = memory.others
        else:
            reach = max((-offset for offset in self.adjacent), default=0)
            ring, recent = advance(memory.ring if memory else None, own, query.maps[0], reach, self.cut_threshold)
            others, memory = recent.at(self.adjacent), StreamContexts(ring, None)
        blended = self.blend(torch.cat([others, own[:, None]], dim=1))
        cells = blended.split([b * b for b in head.pyramid.bins], dim=2)
        pooled = [x.unflatten(2, (b, b)) for x, b in zip(cells, head.pyramid.bins, strict=True)]
        embedding = {key: value for key, value in query.embedding.items() if key != "pooled"}
        return {**embedding, "pixels": head.bottleneck(head.pyramid.spread(x, pooled))}, memory

    def blend(self, pooled: Tensor) -> Tensor:
        """Average what `embed` pooled of T frames, the query's last: [N, T, C, cells (+ 1)] -> [N, C, cells]."""
        if self.score is None:
            return pooled.mean(1)
        pooled, score = pooled[..., :-1], pooled[:, :, :1, -1:]
        weights = score.softmax(dim=1)
        if self.form == "corrected":
            return (weights * pooled).sum(1)
        return (weights * pooled.roll(1, dims=1)).mean(1)
