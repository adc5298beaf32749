"""An exported model beside the model itself, frame by frame over a made-up video with a scene cut."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.export.traced import Traced, label_maps

Run = Callable[[Tensor, Sequence[Tensor]], Sequence[Tensor]]
"""(frame, state) -> output and next state, as `Traced.program`."""


@dataclass(frozen=True)
class Agreement:
    """How near an exported model is to the model itself.

    Attributes:
        frames: that were compared.
        difference: largest difference of a logit; None where label maps were compared.
        scale: largest logit.
        same_labels: share of the pixels whose class is the same.
        seconds: median time of a frame in the export.
        model_seconds: median time of a frame in PyTorch, on as many threads.
    """

    frames: int
    difference: float | None
    scale: float
    same_labels: float
    seconds: float
    model_seconds: float

    def holds(self, tolerance: float = 1e-3) -> bool:
        """Tell whether logits differ by less than a share of the largest one, and labels in less than one in 1000."""
        near = self.difference is None or self.difference <= tolerance * max(self.scale, 1e-6)
        return near and self.same_labels >= 1 - 1e-3

    def __str__(self) -> str:
        near = ""
        if self.difference is not None:
            near = f"logits differ by at most {self.difference:.1e} of {self.scale:.3g}, "
        return (
            f"checked on {self.frames} frames beside PyTorch: {near}{self.same_labels:.2%} of the labels are the same; "
            f"a frame takes {1000 * self.seconds:.3g} ms, in PyTorch {1000 * self.model_seconds:.3g}"
        )


@torch.no_grad()
def compare(traced: Traced, run: Run, frames: int = 12) -> Agreement:
    """Run both over the same frames: the model from its first frame, the export from zeros.

    Args:
        traced: the model and what its export takes.
        run: the exported model.
        frames: of the video; half-way begins another scene.
    """
    own, given = None, list(traced.state.values())
    difference, scale, same, pixels = 0.0, 0.0, 0, 0
    times: list[tuple[float, float]] = []
    batch = traced.program.example_inputs[0][0].shape[0]
    for frame in scenes(traced.size, batch, frames):
        began = time.perf_counter()
        logits, own = traced.model.step(frame, own)
        between = time.perf_counter()
        found, *given = run(frame, given)
        times.append((time.perf_counter() - between, between - began))
        labels = label_maps(logits, traced.size)
        if traced.output == "logits":
            difference = max(difference, (found - logits).abs().nan_to_num(torch.inf).max().item())
            found = label_maps(found, traced.size)
        scale = max(scale, logits.abs().max().item())
        same, pixels = same + int((found == labels).sum()), pixels + labels.numel()
    seconds, model_seconds = (
        statistics.median(each) for each in zip(*times[1:], strict=True)
    )  # the first one warms up
    of_logits = difference if traced.output == "logits" else None
    return Agreement(frames, of_logits, scale, same / pixels, seconds, model_seconds)


def scenes(size: tuple[int, int], batch: int, frames: int) -> Iterator[Tensor]:
    """Yield frames, uint8 [B, 3, H, W]: coloured clouds that drift, and half-way other ones."""
    generator = torch.Generator().manual_seed(0)
    for at in range(frames):
        if at in (0, frames // 2):
            clouds = torch.rand(batch, 3, 9, 12, generator=generator)
        drifted = clouds + 0.02 * at * (clouds.roll(1, -1) - clouds)
        picture = F.interpolate(drifted, size, mode="bicubic", align_corners=False)
        yield (255 * picture).clamp(0, 255).to(torch.uint8)
