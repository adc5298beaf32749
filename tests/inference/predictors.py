"""Small predictors with known answers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from everyframe.frames import Frame
from everyframe.labels import LabelSpace
from everyframe.models.segmenter import Segmenter


class Seen(NamedTuple):
    """State of `Remember`: the mean of the past frames, and how many there were."""

    mean: Tensor
    count: int


class Remember(nn.Module):
    """Logits [B, K, H/stride, W/stride] from a fixed random 1x1 map of (frame, mean of the past): true at any size."""

    def __init__(self, classes: int = 4, stride: int = 4) -> None:
        super().__init__()
        self.label_space = LabelSpace(tuple(f"class {k}" for k in range(classes)))
        self.stride = stride
        self.map = nn.Conv2d(6, classes, 1)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for weight in self.map.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator))

    def step(self, frame: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        seen = state or Seen(torch.zeros_like(frame, dtype=torch.float32), 0)
        mean = seen.mean + (frame - seen.mean) / (seen.count + 1)
        logits = self.map(torch.cat([frame / 64 - 2, mean / 64 - 2], 1))
        size = [-(-side // self.stride) for side in frame.shape[-2:]]
        if self.stride > 1:
            logits = F.interpolate(logits.float(), size, mode="bilinear", antialias=True)
        return logits, Seen(mean, seen.count + 1)


class Fixed:
    """Always the same logits [K, h, w], whatever the frame; not an nn.Module."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.label_space = LabelSpace(tuple(f"class {k}" for k in range(len(logits))))

    def step(self, frame: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self.logits.expand(len(frame), *self.logits.shape).clone(), (state or 0) + 1


def video(frames: int, size: tuple[int, int] = (32, 48), seed: int = 0) -> list[Frame]:
    """A few blobs that drift; time at 10 frames per second."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator) * 255
    wide = F.interpolate(coarse, (size[0] + frames, size[1] + frames), mode="bicubic").clamp(0, 255).byte()[0]
    return [Frame(wide[:, i : i + size[0], i : i + size[1]].clone(), i, i / 10, f"{i:08d}") for i in range(frames)]


def sizes_seen(model: Segmenter) -> list[tuple[int, ...]]:
    """Return a list that grows by the size of every frame that the model encodes."""
    seen: list[tuple[int, ...]] = []
    encode = model.encode

    def noted(images: Tensor) -> object:
        seen.append(tuple(images.shape[-2:]))
        return encode(images)

    model.encode = noted  # type: ignore[method-assign, assignment]
    return seen
