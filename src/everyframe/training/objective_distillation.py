"""Terms of an objective that imitate a trained model (ETC): its logits, and how its features change over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.frames import Clip
from everyframe.losses.temporal import MultiFrameDistillation, knowledge_distillation, pair_distillation
from everyframe.models.segmenter import Prediction, Segmenter
from everyframe.training.objective import of_queries, query_pairs


@dataclass
class DistillationTeacher:
    """A trained model, run once per batch for all the terms that ask it.

    It is held in a list, so that it is no part of the objective's weights.
    """

    model: Segmenter
    _latest: list[tuple[Clip, Prediction]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, clip: Clip) -> Prediction:
        """Return what the teacher makes of a clip."""
        if not self._latest or self._latest[0][0] is not clip:
            self.model.to(clip.images.device)
            self._latest = [(clip, self.model(clip.images, clip.roles))]
        return self._latest[0][1]

    def pixels(self, prediction: Prediction, clip: Clip) -> tuple[list[Tensor], list[Tensor]]:
        """Return the query frames' features of the student and of the teacher, each [B, D, h, w], at one size."""
        wanted = of_queries(self(clip).features.embedding["pixels"], clip).unbind(1)
        own = of_queries(prediction.features.embedding["pixels"], clip).unbind(1)
        size = wanted[0].shape[-2:]
        if own[0].shape[-2:] != size:
            own = tuple(F.interpolate(x, size, mode="bilinear", align_corners=False) for x in own)
        return list(own), list(wanted)


@dataclass(frozen=True)
class LogitDistillation:
    """Single-frame distillation of the query frames' logits."""

    teacher: DistillationTeacher

    def __call__(self, prediction: Prediction, clip: Clip) -> Tensor:
        """See `Term`."""
        return knowledge_distillation(prediction.logits.flatten(0, 1), self.teacher(clip).logits.flatten(0, 1))


@dataclass(frozen=True)
class PairDistillation:
    """Pair-wise-frames dependency of consecutive query frames."""

    teacher: DistillationTeacher

    def __call__(self, prediction: Prediction, clip: Clip) -> Tensor:
        """See `Term`."""
        query_pairs(clip.images, clip, "pair_distillation")
        own, wanted = self.teacher.pixels(prediction, clip)
        pairs = zip(pairwise(own), pairwise(wanted), strict=True)
        return torch.stack([pair_distillation(student, teacher) for student, teacher in pairs]).mean()


class SequenceDistillation(nn.Module):
    """Multi-frame dependency of the query frames; its ConvLSTM trains with the student."""

    def __init__(self, teacher: DistillationTeacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.compare = MultiFrameDistillation()

    def forward(self, prediction: Prediction, clip: Clip) -> Tensor:
        """See `Term`."""
        query_pairs(clip.images, clip, "multi_frame_distillation")
        return self.compare(*self.teacher.pixels(prediction, clip))
