"""What a temporal module is: it turns the query's embedding into one that has seen other frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from everyframe.frames import Role

if TYPE_CHECKING:
    from everyframe.models.heads.base import Head

AnyHead = TypeVar("AnyHead", bound="Head")
"""The kind of head that a temporal module works with."""

Embedding = dict[str, Tensor]
"""A head's per-frame stage: named tensors [N, ...] (for example "pixels" [N, D, h, w], "regions" [N, K, D])."""

Memory = Any
"""A pytree (named tuples, tuples, dicts) of tensors whose size does not grow with the video; None before frame 0."""


class Features(NamedTuple):
    """All that one frame shows to itself and to others. Knows no time, so it is computed once and may be kept.

    Attributes:
        maps: backbone pyramid, fine to coarse, each [N, C, h, w].
        embedding: the head's per-frame stage, see `Head.embed`.
        image: the frame as it came, 0..255, [N, 3, H, W], for modules with `needs_image`; else None.
    """

    maps: tuple[Tensor, ...]
    embedding: Embedding
    image: Tensor | None = None


class TemporalModule(nn.Module, ABC, Generic[AnyHead]):
    """Contract of every temporal module.

    The module holds weights only; what it remembers travels through `forward` as `memory`. A causal module gives the
    same logits when a clip is folded through `forward` frame by frame as when it runs on a stream, because both are
    the same fold.

    Attributes:
        causal: looks only at frames before the query.
        needs_image: `Features.image` must be filled (flow-based modules).
        adjacent: frame offsets that training clips should offer, for example (-6, -3).
        reference: whether training clips should offer a distant frame.
        windowed: sees exactly the frames at `adjacent` and the reference, not what came before them.
        own_maps: what `embed` returns holds the head's own maps, which losses on features ask for.
    """

    causal: bool = True
    own_maps: bool = True
    windowed: bool = False
    needs_image: bool = False
    adjacent: tuple[int, ...] = ()
    reference: bool = False

    def embed(self, maps: Sequence[Tensor], head: AnyHead) -> Embedding:
        """Return what a frame shows to itself and to others: `Features.embedding`.

        The default is the head's own. Modules that work before the head's last convolutions return what they need
        instead, and `forward` completes it: then nothing is computed twice.

        Args:
            maps: backbone pyramid, each [N, C, h, w].
            head: see `forward`.
        """
        return head.embed(maps)

    @abstractmethod
    def forward(self, query: Features, memory: Memory, head: AnyHead) -> tuple[Embedding, Memory]:
        """Return the query's embedding with time in it, and the memory for the next frame.

        Args:
            query: features of the frame to predict.
            memory: what the previous call returned; None at the first frame.
            head: the head whose `embed` made `query.embedding`, for modules that change the maps before it.
        """

    def gather(self, frames: Sequence[Features], roles: Sequence[Role], head: AnyHead) -> Memory:
        """Return the memory that a query meets after the context frames of a training clip, in clip order.

        The default folds `forward` over them, which is right for every causal module whose memory is made by it.
        """
        memory: Memory = None
        for frame in frames:
            _, memory = self(frame, memory, head)
        return memory


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply `function` to every tensor of a memory (or any pytree): detach, move, index."""
    return pytree.tree_map_only(Tensor, function, tree)


def state_bytes(tree: Any) -> int:
    """Return how many bytes the tensors of a memory hold."""
    return sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor))
