"""Thresholds of pseudo-labels by class: a class that the teacher is less sure of counts from a lower probability."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.losses.distributed import mean_over_processes
from everyframe.models.ops.confidence import Confidence, winning_probability


class ClassThresholds(nn.Module):
    """tau_c = tau * s_c / max s, with s_c the moving average of the teacher's probability where it takes class c.

    With one threshold for all, classes that the teacher is less sure of are hardly taught. After FlexMatch (Zhang et
    al., NeurIPS 2021) and FreeMatch (Wang et al., ICLR 2023), which scale the threshold by how many samples of a class
    pass it, and by the mean probability of a class over all samples; in segmentation either would follow how much of
    the picture a class covers, so the mean is over its own pixels.

    Args:
        num_classes: K.
        threshold: tau, of the class that the teacher is surest of, and of those that it has not seen.
        momentum: share of the old average that is kept in a step in which a class is seen.
    """

    sureness: Tensor

    def __init__(self, num_classes: int, threshold: float, momentum: float = 0.99) -> None:
        super().__init__()
        self.threshold = threshold
        self.momentum = momentum
        self.register_buffer("sureness", torch.zeros(num_classes))  # 0: of no pixel yet

    def forward(self) -> Tensor:
        """Return the threshold of each class: float32 [K]."""
        sure = self.sureness.float()
        share = sure / sure.max().clamp(min=torch.finfo(torch.float32).tiny)
        return self.threshold * share.where(sure > 0, 1.0)

    @torch.no_grad()
    def observe(self, scores: Tensor, inside: Tensor, confidence: Confidence = "softmax") -> None:
        """Take in the teacher's scores of a batch, those of all processes together.

        Args:
            scores: class scores [N, K, h, w], logits or sums over masks as `confidence` says.
            inside: bool [N, H, W], False where the frame is padded.
            confidence: see `Confidence`.
        """
        best, winner = scores.float().max(1)
        probability = winning_probability(best, scores.float(), confidence)
        counted = F.interpolate(inside[:, None].float(), scores.shape[-2:], mode="nearest-exact")[:, 0]
        classes = torch.arange(len(self.sureness), device=scores.device)
        counted = counted * (probability > 0)  # no query of masks sees anything there
        of_class = (winner.flatten()[:, None] == classes) * counted.flatten()[:, None]
        sums = torch.stack([(of_class * probability.flatten()[:, None]).sum(0), of_class.sum(0)])
        total, count = mean_over_processes(sums)
        mean = total / count.clamp(min=torch.finfo(torch.float32).tiny)
        before = self.sureness.float()
        averaged = torch.where(before > 0, before.lerp(mean, 1 - self.momentum), mean)
        self.sureness.copy_(torch.where(count > 0, averaged, before))
