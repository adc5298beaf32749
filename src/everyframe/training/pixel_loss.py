"""Cross entropy of logits and label maps in the form that an objective asks for, the same on every process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from everyframe.frames import IGNORE
from everyframe.losses import pixel
from everyframe.losses.boundary import relaxed_cross_entropy
from everyframe.losses.distributed import mean_over_processes
from everyframe.losses.region import sigmoid_cross_entropy

Form = Literal["softmax", "sigmoid", "relaxed"]
"""One class of all; each class against the rest; any of the classes near a border (`relaxed_cross_entropy`)."""


@dataclass(frozen=True)
class PixelLoss:
    """Cross entropy whose divisor is the mean over the processes, see `mean_over_processes`.

    Attributes:
        class_weights: [K] or None.
        average: see `pixel.cross_entropy`; "softmax" alone knows it.
        form: see `Form`.
        border: of "relaxed", see `relaxed_cross_entropy`.
        strict: likewise.
        frequency: bound by which classes rare in the batch weigh more, see `pixel.frequency_weights`; 0 for none.
    """

    class_weights: Tensor | None = None
    average: pixel.Average = "labelled"
    form: Form = "softmax"
    border: int = 1
    strict: tuple[int, ...] = ()
    frequency: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor, pixel_weights: Tensor | None = None) -> Tensor:
        """Return the loss of logits [N, K, h, w] and labels uint8 [N, H, W]; weights per pixel with "softmax" alone."""
        weights = self.weights(labels, logits.shape[1])
        if self.form == "softmax":
            divisor = None  # the number of all pixels, which is the same on every process
            if self.average == "labelled":
                divisor = mean_over_processes(pixel.labelled_weights(labels, weights, pixel_weights).sum())
            elif weights is not None:
                divisor = mean_over_processes(pixel.labelled_weights(labels, weights).sum())
            return pixel.cross_entropy(logits, labels, weights, pixel_weights, self.average, divisor)
        labelled = mean_over_processes((labels != IGNORE).sum().float())
        if self.form == "sigmoid":
            return sigmoid_cross_entropy(logits, labels, labelled)
        return relaxed_cross_entropy(logits, labels, self.border, self.strict, weights, divisor=labelled)

    def weights(self, labels: Tensor, num_classes: int) -> Tensor | None:
        """Return the weights of the classes in a batch of labels, that of all processes together: [K], or None."""
        if not self.frequency:
            return self.class_weights
        counts = mean_over_processes(pixel.class_counts(labels, num_classes).float())
        rare = pixel.frequency_weights(counts, bound=self.frequency)
        return rare if self.class_weights is None else rare * self.class_weights.to(rare)
