"""What a head is: maps -> per-frame embedding (may be kept and shown to other frames) -> logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from everyframe.models.ops.class_layer import ClassLayer
from everyframe.models.ops.conv import classifier
from everyframe.models.temporal.base import Embedding

Outputs = dict[str, Tensor]
"""What a head predicts, each tensor [N, ...]. Per-pixel heads: {"logits": [N, K, h, w]}."""


class Head(nn.Module, ABC):
    """Contract of every head. Two stages, so that a temporal module can stand between them.

    Attributes:
        num_classes: K.
        stride: pixels of the frame per cell of the logits.
        channels: D of "pixels" [N, D, h, w], the part of the embedding that every head has.
        auxiliary: head whose logits get an auxiliary loss, or None.
        predicts: "logits" of each pixel, or "masks" with classes; says which losses fit.
        shared: name of the map in `begin`'s embedding, [N, channels, h, w], at which frames are to meet.
        reads_auxiliary: whether the auxiliary logits serve more than their loss: without it the auxiliary head rests.
        class_layers: the head's own parameters with a row per class, by which it takes over the weights of another
            list of classes.
    """

    predicts: str = "logits"
    reads_auxiliary: bool = False
    shared: str = "pixels"
    class_layers: ClassVar[Mapping[str, ClassLayer]] = {
        "classifier.weight": ClassLayer(),
        "classifier.bias": ClassLayer(),
    }

    num_classes: int
    stride: int
    channels: int
    auxiliary: Head | None

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = None

    def maps(self, backbone: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        """Return what `embed` reads of normalised frames [N, 3, H, W]: by default the backbone's pyramid of them."""
        return tuple(backbone(images))

    @abstractmethod
    def embed(self, maps: Sequence[Tensor]) -> Embedding:
        """Turn the backbone's pyramid into what this frame shows to the next stage and to other frames.

        "pixels" [N, D, h, w] is what a temporal module may change without knowing the head. The key "auxiliary", where
        present, holds logits [N, K, h', w'] for an auxiliary loss; heads that need them for the loss alone leave them
        out in eval mode.
        """

    def embed_auxiliary(self, maps: Sequence[Tensor]) -> Embedding:
        """Return the "auxiliary" entry of an embedding that nothing but the loss needs: empty in eval mode."""
        return {"auxiliary": self.auxiliary(maps)} if self.training and self.auxiliary is not None else {}

    @abstractmethod
    def predict(self, embedding: Embedding) -> Outputs:
        """Turn an embedding into outputs."""

    # -- the shared map, where SSLTM lets frames meet: `embed` in two halves, `complete(begin(maps))` -----------------

    def begin(self, maps: Sequence[Tensor]) -> Embedding:
        """Do what `embed` does up to the shared map. Other frames see no more of a frame than this."""
        return self.embed(maps)

    def complete(self, embedding: Embedding) -> Embedding:
        """Make an embedding for `predict` of one from `begin`, whose shared map may have been changed since."""
        return embedding

    # -- the late map, where NetWarp adds features of the previous frame a second time --------------------------------

    @property
    def late_channels(self) -> int:
        """Channels D' of the late map."""
        return self.channels

    def late_map(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the map [N, D', h, w] near the head's end at which frames may be joined: by default "pixels"."""
        return self.embed(maps)["pixels"]

    def embed_late(self, late: Tensor) -> Embedding:
        """Return an embedding for `predict` from a late map."""
        return {"pixels": late}

    def semantic(self, outputs: Outputs) -> Tensor:
        """Return logits [N, K, h, w] from outputs; heads that predict masks and classes override it."""
        return outputs["logits"]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Run both stages on a single frame's maps: logits [N, K, h, w]."""
        return self.semantic(self.predict(self.embed(maps)))


class PixelHead(Head):
    """A head whose logits are a 1x1 classifier of its pixels, after dropout."""

    @abstractmethod
    def pixels(self, maps: Sequence[Tensor]) -> Tensor:
        """Return what the classifier reads, [N, D, h, w]."""

    def embed(self, maps: Sequence[Tensor]) -> Embedding:
        """See `Head.embed`."""
        return {"pixels": self.pixels(maps), **self.embed_auxiliary(maps)}

    def late_map(self, maps: Sequence[Tensor]) -> Tensor:
        """See `Head.late_map`: the pixels, without another run of the auxiliary head."""
        return self.pixels(maps)

    def finish(
        self, num_classes: int, stride: int, channels: int, dropout: float = 0.1, auxiliary: Head | None = None
    ) -> None:
        """Set what every such head has; called last in the constructor, so that the classifier comes last.

        Args:
            num_classes: K.
            stride: of the pixels.
            channels: D of the pixels.
            dropout: share of channels dropped before the classifier in training.
            auxiliary: head for an auxiliary loss, or None.
        """
        self.num_classes, self.stride, self.channels = num_classes, stride, channels
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = classifier(channels, num_classes)
        self.auxiliary = auxiliary

    def predict(self, embedding: Embedding) -> Outputs:
        """See `Head.predict`."""
        return {"logits": self.classifier(self.dropout(embedding["pixels"]))}
