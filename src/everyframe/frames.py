"""Frames and clips: the only things that packages hand each other.

Shapes are spelled once for the whole package: B batch, T frames of a clip, C channels, H height, W width, K classes,
N any number of frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import torch
from torch import Tensor

IGNORE = 255
"""The train id of pixels that no loss and no metric may count."""

NEAR_FIRST = 10
"""Frames before this index take the last frame of their video as reference, where all of it is at hand: the first one
would show them little but themselves."""


class Role(StrEnum):
    """What a frame does in a training clip."""

    QUERY = "query"
    """Predicted, and compared with its label map where it has one."""
    ADJACENT = "adjacent"
    """A neighbour in time that the query may look at."""
    REFERENCE = "reference"
    """A distant frame of the same video that the query may look at."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame.

    Attributes:
        image: uint8 [3, H, W], RGB, upright (rotation metadata already applied).
        index: position in the video, from 0.
        time: presentation time in seconds from the start of the video.
        name: file name without its ending under which results of this frame are written.
    """

    image: Tensor
    index: int
    time: float
    name: str

    def __post_init__(self) -> None:
        if self.image.dtype != torch.uint8 or self.image.ndim != 3 or self.image.shape[0] != 3:
            came = f"{str(self.image.dtype).removeprefix('torch.')} {list(self.image.shape)}"
            raise ValueError(f"Frame.image: expected uint8 [3, H, W] in RGB order, came {came}")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image.shape[1], self.image.shape[2]


@dataclass(slots=True)
class Clip:
    """Some frames of one video, in the order of `roles`, cut and flipped alike; or a batch of such clips.

    Attributes:
        images: uint8 [T, 3, H, W] (a batch: [B, T, 3, H, W]), RGB.
        labels: uint8 [T, H, W] (a batch: [B, T, H, W]), train ids; all `IGNORE` where a frame has no label map.
        labelled: bool [T] (a batch: [B, T]), whether the frame has a label map.
        roles: what each of the T frames does; the same for all clips of a batch.
        indices: int64 [T] (a batch: [B, T]), position of each frame in its video.
        videos: name of the video, one per clip.
        inside: bool [H, W] (a batch: [B, H, W]), False where the crop is padded; None: not recorded.
        hidden: uint8 [Q, H, W] (a batch: [B, Q, H, W]), label maps of the query frames that the label budget hides: to
            measure pseudo-labels by. No loss may see them. None: not read.
        supported: bool [K] (a batch: [B, K]), train ids that the label maps of the clip's data set can hold at all:
            what it has no class for is labelled as something else or not at all. None: all of them.
    """

    images: Tensor
    labels: Tensor
    labelled: Tensor
    roles: tuple[Role, ...]
    indices: Tensor
    videos: tuple[str, ...]
    inside: Tensor | None = None
    hidden: Tensor | None = None
    supported: Tensor | None = None

    def __post_init__(self) -> None:
        *batch, t, c, h, w = self.images.shape
        if c != 3 or self.labels.shape != (*batch, t, h, w) or len(self.roles) != t:
            raise ValueError(
                f"Clip: expected images [T, 3, H, W], labels [T, H, W] and T roles (each with an optional leading B), "
                f"came {list(self.images.shape)}, {list(self.labels.shape)} and {len(self.roles)} roles"
            )

    @classmethod
    def stack(cls, clips: list[Clip]) -> Self:
        """Join clips of equal size and roles into one batch, a new first dimension."""
        if len({clip.roles for clip in clips}) != 1:
            raise ValueError(f"Clip.stack: expected equal roles, came {sorted({str(c.roles) for c in clips})}")
        return cls(
            images=torch.stack([clip.images for clip in clips]),
            labels=torch.stack([clip.labels for clip in clips]),
            labelled=torch.stack([clip.labelled for clip in clips]),
            roles=clips[0].roles,
            indices=torch.stack([clip.indices for clip in clips]),
            videos=tuple(name for clip in clips for name in clip.videos),
            inside=_stacked([clip.inside for clip in clips]),
            hidden=_stacked([clip.hidden for clip in clips]),
            supported=_stacked([clip.supported for clip in clips]),
        )

    @property
    def queries(self) -> list[int]:
        """Positions of the Q query frames among the T frames."""
        return [t for t, role in enumerate(self.roles) if role is Role.QUERY]

    @property
    def query_labels(self) -> Tensor:
        """Label maps of the query frames: uint8 [..., Q, H, W]."""
        return self.labels[..., self.queries, :, :]

    @property
    def still(self) -> Tensor:
        """Clips that show one frame, if many times (still images): bool [] (a batch: [B]). Nothing moves in them."""
        return (self.indices == self.indices[..., :1]).all(-1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Clip:
        """Move the tensors to `device`."""
        return Clip(
            images=self.images.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            labelled=self.labelled.to(device, non_blocking=non_blocking),
            roles=self.roles,
            indices=self.indices,
            videos=self.videos,
            inside=None if self.inside is None else self.inside.to(device, non_blocking=non_blocking),
            hidden=None if self.hidden is None else self.hidden.to(device, non_blocking=non_blocking),
            supported=None if self.supported is None else self.supported.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Clip:
        """Pin the tensors for an asynchronous copy (called by `torch.utils.data.DataLoader`)."""
        self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()
        self.inside = None if self.inside is None else self.inside.pin_memory()
        self.hidden = None if self.hidden is None else self.hidden.pin_memory()
        return self


def _stacked(parts: list[Tensor | None]) -> Tensor | None:
    """Stack what all clips have; None when any has not."""
    there = [part for part in parts if part is not None]
    return torch.stack(there) if len(there) == len(parts) else None
