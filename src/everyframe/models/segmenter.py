"""Segmenter: the one class that joins backbone, head and temporal module.

Encode once, decode with memory: `encode` knows no time; `decode` sees other frames only through the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from everyframe.frames import Role
from everyframe.labels import LabelSpace
from everyframe.models.heads.base import Head, Outputs
from everyframe.models.temporal.base import Features, Memory, TemporalModule, map_tensors
from everyframe.models.temporal.identity import Identity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from everyframe.frames import Frame

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@runtime_checkable
class Backbone(Protocol):
    """What is asked of a backbone beside `forward(x [N, 3, H, W]) -> sequence of maps`.

    Attributes:
        channels: channels of each map.
        strides: pixels per cell of each map.
    """

    channels: Sequence[int]
    strides: Sequence[int]


@dataclass(slots=True)
class Prediction:
    """What `Segmenter.forward` returns for a batch of clips.

    Attributes:
        outputs: the head's outputs for the query frames, each [B, Q, ...]; per-pixel heads: "logits" [B, Q, K, h, w].
        auxiliary: logits of the auxiliary head for all frames [B, T, K, h', w'], or None.
        features: features of all frames, B and T joined: [B*T, ...].
    """

    outputs: Outputs
    auxiliary: Tensor | None
    features: Features

    @property
    def logits(self) -> Tensor:
        """[B, Q, K, h, w] of heads that predict logits."""
        return self.outputs["logits"]


class Segmenter(nn.Module):
    """A video segmentation model: `forward(clip, roles)` to train, `step(frame, state)` to run on a stream.

    Args:
        backbone: see `Backbone`.
        head: see `Head`.
        label_space: classes and colours; K must equal the head's.
        temporal: see `TemporalModule`; `Identity()` treats each frame alone.
        mean: RGB mean of the training images, in 0..1.
        std: RGB deviation of the training images, in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: Head,
        label_space: LabelSpace,
        temporal: TemporalModule | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if head.num_classes != len(label_space):
            raise ValueError(f"Segmenter: head predicts {head.num_classes} classes, label space has {len(label_space)}")
        self.backbone = backbone
        self.head = head
        self.temporal = temporal if temporal is not None else Identity()
        self.label_space = label_space
        self.config: dict[str, Any] = {}
        """Name and arguments that rebuild this model; filled by `create_model`, written by `save_pretrained`."""
        self.short_side: int | None = None
        """Short side in pixels of the frames that training saw, before its random scale; None: frames as they are.
        Validation and prediction resize frames to it, see `everyframe.inference.views.with_views`; `step` does not."""
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    # -- the two stages ----------------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Features:
        """Turn frames, uint8 [N, 3, H, W] RGB, into features. Knows no time: the result may be kept."""
        x = (images - self.mean) / self.std  # uint8 or float in 0..255
        maps = self.head.maps(self.backbone, x)
        return Features(maps, self.temporal.embed(maps, self.head), images if self.temporal.needs_image else None)

    def decode(self, query: Features, memory: Memory) -> tuple[Outputs, Memory]:
        """Predict the query frame, seeing other frames through `memory` only. Returns (outputs, next memory)."""
        embedding, memory = self.temporal(query, memory, self.head)
        return self.head.predict(embedding), memory

    # -- the two ways to run -----------------------------------------------------------------------------------------

    def forward(self, clip: Tensor, roles: Sequence[Role] | None = None) -> Prediction:
        """Predict the query frames of a batch of clips.

        Context frames (adjacent, reference) are gathered into the memory first; then the queries are decoded in clip
        order. With only queries, or `roles=None`, this is the fold that a stream performs.

        Args:
            clip: uint8 [B, T, 3, H, W], RGB.
            roles: role of each of the T frames; None makes all of them queries.
        """
        b, t = clip.shape[:2]
        roles = tuple(roles) if roles is not None else (Role.QUERY,) * t
        if len(roles) != t or Role.QUERY not in roles:
            raise ValueError(f"Segmenter: expected {t} roles with at least one query, came {[str(r) for r in roles]}")
        features = self.encode(clip.flatten(0, 1))
        by_clip = map_tensors(lambda x: x.unflatten(0, (b, t)), features)
        frames = [map_tensors(itemgetter((slice(None), i)), by_clip) for i in range(t)]

        context = [i for i, role in enumerate(roles) if role is not Role.QUERY]
        memory = None
        if context:
            memory = self.temporal.gather([frames[i] for i in context], [roles[i] for i in context], self.head)
        predicted: list[Outputs] = []
        for frame, role in zip(frames, roles, strict=True):
            if role is Role.QUERY:
                outputs, memory = self.decode(frame, memory)
                predicted.append(outputs)

        auxiliary = features.embedding.get("auxiliary")
        return Prediction(
            outputs={key: _stacked([outputs[key] for outputs in predicted]) for key in predicted[0]},
            auxiliary=None if auxiliary is None else auxiliary.unflatten(0, (b, t)),
            features=features,
        )

    def step(self, frame: Tensor, state: Memory = None) -> tuple[Tensor, Memory]:
        """Predict the next frame of a stream.

        Args:
            frame: uint8 [B, 3, H, W], RGB: the next frame of each of B streams.
            state: what the previous step returned; None at the first frame.

        Returns:
            logits [B, K, h, w] at the head's stride, and the state for the next step. The module itself does not
            change: two streams on one model cannot see each other.
        """
        outputs, state = self.decode(self.encode(frame), state)
        return self.head.semantic(outputs), state

    # -- for users ---------------------------------------------------------------------------------------------------

    def stream(self, source: Any, **options: Any) -> Iterator[tuple[Frame, NDArray[np.uint8]]]:
        """Yield (frame, label map uint8 [H, W]) for every frame of a video file, folder, camera, URL or iterable.

        The options are those of `everyframe.stream`. (The one import that points up, for a method users expect here.)
        """
        from everyframe.predict import stream

        return stream(self, source, **options)

    def save_pretrained(self, folder: str) -> None:
        """Write `config.json` and `model.safetensors`; `everyframe.load(folder)` reads them."""
        from everyframe.models.checkpoint import save

        save(self, folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload to the Hugging Face hub; returns the address. Options as `huggingface_hub.upload_folder`'s."""
        from everyframe.models.checkpoint import push_to_hub

        return push_to_hub(self, repo_id, **options)


def _stacked(maps: list[Tensor]) -> Tensor:
    """[B, ...] of each query -> [B, Q, ...]; a single one is not copied."""
    return maps[0].unsqueeze(1) if len(maps) == 1 else torch.stack(maps, 1)
