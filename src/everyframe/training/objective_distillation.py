"""Terms of an objective that imitate a trained model (ETC): its logits, and how its features change over time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.losses.temporal import MultiFrameDistillation, knowledge_distillation, pair_distillation
from everyframe.models.segmenter import Prediction, Segmenter
from everyframe.training.outcome import Outcome


@dataclass(frozen=True, eq=False)
class DistillationTeacher:
    """A trained model, run once per batch for all the terms that ask it.

    It is no module, so that the model is no part of the objective's weights.
    """

    model: Segmenter

    def __post_init__(self) -> None:
        self.model.requires_grad_(False).eval()

    def __call__(self, outcome: Outcome) -> Prediction:
        """Return what the teacher makes of the batch."""
        return outcome.once(self, lambda: self._predict(outcome))

    def pixels(self, outcome: Outcome) -> tuple[list[Tensor], list[Tensor]]:
        """Return the query frames' features of the student and of the teacher, each [B, D, h, w], at one size."""
        return outcome.once((self, "pixels"), lambda: self._pixels(outcome))

    @torch.no_grad()
    def _predict(self, outcome: Outcome) -> Prediction:
        images = outcome.clip.images
        prediction: Prediction = self.model.to(images.device)(images, outcome.clip.roles)
        return prediction

    def _pixels(self, outcome: Outcome) -> tuple[list[Tensor], list[Tensor]]:
        wanted = outcome.of_queries(self(outcome).features.embedding["pixels"]).unbind(1)
        own = outcome.of_queries(outcome.prediction.features.embedding["pixels"]).unbind(1)
        size = wanted[0].shape[-2:]
        if own[0].shape[-2:] != size:
            own = tuple(F.interpolate(x, size, mode="bilinear", align_corners=False) for x in own)
        return list(own), list(wanted)


@dataclass(frozen=True)
class LogitDistillation:
    """Single-frame distillation of the query frames' logits."""

    teacher: DistillationTeacher

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        return knowledge_distillation(outcome.logits, self.teacher(outcome).logits.flatten(0, 1))


@dataclass(frozen=True)
class PairDistillation:
    """Pair-wise-frames dependency of consecutive query frames."""

    teacher: DistillationTeacher

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        outcome.query_pairs("pair_distillation")
        own, wanted = self.teacher.pixels(outcome)
        pairs = zip(pairwise(own), pairwise(wanted), strict=True)
        return torch.stack([pair_distillation(student, teacher) for student, teacher in pairs]).mean()


class SequenceDistillation(nn.Module):
    """Multi-frame dependency of the query frames; its ConvLSTM trains with the student."""

    def __init__(self, teacher: DistillationTeacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.compare = MultiFrameDistillation()

    def forward(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        outcome.query_pairs("multi_frame_distillation")
        return self.compare(*self.teacher.pixels(outcome))
