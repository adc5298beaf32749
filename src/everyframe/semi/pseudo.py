"""Pseudo-labels: what a teacher is sure of, taken as the student's label map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.losses import pixel
from everyframe.losses.distributed import mean_over_processes
from everyframe.models.ops.confidence import Confidence, winning_probability


@dataclass(frozen=True)
class Teaching:
    """How a teacher's pseudo-labels train the student (Mean Teacher).

    Attributes:
        weight: of the pseudo-label loss once the ramp is over; 0: supervised training, without a teacher.
        threshold: pixels count whose largest probability in the teacher's eyes reaches this.
        class_thresholds: the threshold is lower for classes that the teacher is less sure of, see `ClassThresholds`.
        momentum: of the teacher in the long run, see `teacher_momentum`.
        ramp: share of the run in which the weight rises to its value, see `ramp_up`; 0: at once.
        cutmix: probability with which a box of the next clip of the batch is pasted into a clip, see `cutmix`.
        mask_confidence: what is held against the threshold for heads that predict masks, see `Confidence`.
        validate_student: score the student beside the teacher at each validation, which then takes twice the time.
    """

    weight: float = 0.0
    threshold: float = 0.9
    class_thresholds: bool = False
    momentum: float = 0.999
    ramp: float = 0.2
    cutmix: float = 0.0
    mask_confidence: Confidence = "bounded"
    validate_student: bool = True

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise InputError(f"teacher.weight: expected 0 or more, came {self.weight:g}")
        for name in ("threshold", "momentum", "ramp", "cutmix"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InputError(f"teacher.{name}: expected a number in 0..1, came {value:g}")
        if self.mask_confidence not in get_args(Confidence):
            known = ", ".join(get_args(Confidence))
            raise InputError(f"teacher.mask_confidence: expected one of {known}, came {self.mask_confidence!r}")

    def weight_at(self, step: int, steps: int) -> float:
        """Return the weight of the pseudo-label loss at a step of a run of `steps` optimiser steps."""
        return self.weight * ramp_up(step, self.ramp * steps)


def ramp_up(step: int, length: float) -> float:
    """Return exp(-5 (1 - t/T)^2) for t < T, else 1 (Laine and Aila, Temporal Ensembling, ICLR 2017).

    Args:
        step: t, from 0.
        length: T in steps.
    """
    return math.exp(-5 * (1 - step / length) ** 2) if step < length else 1.0


@torch.no_grad()
def pseudo_labels(
    scores: Tensor, size: tuple[int, int], threshold: float | Tensor = 0.9, confidence: Confidence = "softmax"
) -> Tensor:
    """Return the class of the largest probability where that reaches the threshold, 255 elsewhere.

    Args:
        scores: class scores [N, K, h, w] of the teacher, logits or sums over masks as `confidence` says; upsampled
            before anything else, one image at a time, in float32.
        size: (H, W).
        threshold: 0 keeps every pixel; or one for each class, [K].
        confidence: see `Confidence`.

    Returns:
        uint8 [N, H, W].
    """
    labels = torch.empty(len(scores), *size, dtype=torch.uint8, device=scores.device)
    for n in range(len(scores)):
        full = pixel.upsample(scores[n : n + 1], size)
        best, winner = full.max(1)
        probability = winning_probability(best, full, confidence)
        least = threshold[winner] if isinstance(threshold, Tensor) else threshold
        labels[n] = torch.where(probability >= least, winner, IGNORE).to(torch.uint8)[0]
    return labels


def pseudo_label_loss(logits: Tensor, labels: Tensor, inside: Tensor) -> Tensor:
    """Cross entropy of the student on the kept pixels, summed, over the number of all pixels that are no padding.

    A batch of which half is kept weighs half as much as one that is kept whole; with nothing kept the loss is 0, with
    a gradient of zeros.

    Args:
        logits: [N, K, h, w] of the student.
        labels: uint8 [N, H, W], `pseudo_labels`.
        inside: bool [N, H, W], False where the frame is padded.

    Returns:
        Scalar float32.
    """
    divisor = mean_over_processes(inside.sum().float())
    return pixel.cross_entropy(logits, labels.where(inside, IGNORE), divisor=divisor)


def coverage(labels: Tensor, inside: Tensor) -> Tensor:
    """Return the share of the pixels inside the frames that have a pseudo-label: scalar in 0..1."""
    return ((labels != IGNORE) & inside).sum() / inside.sum()


def precision(labels: Tensor, truth: Tensor) -> Tensor:
    """Return the share of the pseudo-labels that are right, among those whose true label is known.

    Args:
        labels: uint8 [N, H, W], pseudo-labels.
        truth: uint8 [N, H, W], train ids and 255.

    Returns:
        Scalar in 0..1; NaN where no pixel has both.
    """
    both = (labels != IGNORE) & (truth != IGNORE)
    return ((labels == truth) & both).sum() / both.sum()


def cutmix_boxes(size: tuple[int, int], count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw a mask per clip: True in a box of half the picture's area, with some probability, else nowhere.

    The box's height is drawn log-uniformly in [1/2, 1] of the picture's, its place uniformly (French et al.,
    "Semi-supervised semantic segmentation needs strong, varied perturbations", BMVC 2020).

    Args:
        size: (H, W).
        count: number of clips.
        probability: of a box, per clip.
        generator: on the CPU.

    Returns:
        bool [count, H, W] on the CPU.
    """
    height, width = size
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask, draw in zip(masks, torch.rand(count, 4, generator=generator).tolist(), strict=True):
        if draw[0] < probability:
            tall = 0.5 ** draw[1]
            h, w = round(height * tall), round(width * 0.5 / tall)
            top, left = int(draw[2] * (height - h + 1)), int(draw[3] * (width - w + 1))
            mask[top : top + h, left : left + w] = True
    return masks


def cutmix(own: Tensor, boxes: Tensor) -> Tensor:
    """Paste a box of the next clip of the batch into each clip; all frames of a clip alike.

    Args:
        own: [B, ..., H, W]: pictures, label maps, masks; called once for each with the same boxes.
        boxes: bool [B, H, W].
    """
    between = own.ndim - boxes.ndim
    return torch.where(boxes.view(len(boxes), *(1,) * between, *boxes.shape[1:]), own.roll(-1, 0), own)
