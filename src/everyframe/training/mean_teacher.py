"""Mean Teacher training: labelled and unlabelled clips side by side; step, log, nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from everyframe.data.layout import VideoRef
from everyframe.data.listing import digest
from everyframe.data.photometric import StrongPhotometric
from everyframe.data.sampling import clip_rng
from everyframe.frames import IGNORE, Clip
from everyframe.losses.distributed import mean_over_processes
from everyframe.metrics.stateful import ConfusionMatrix
from everyframe.models.ops.confidence import Confidence
from everyframe.models.segmenter import Prediction, Segmenter
from everyframe.semi.pseudo import (
    Teaching,
    coverage,
    cutmix,
    cutmix_boxes,
    precision,
    pseudo_label_loss,
    pseudo_labels,
)
from everyframe.semi.statistics import unrecorded_statistics
from everyframe.semi.teacher import Teacher
from everyframe.semi.thresholds import ClassThresholds
from everyframe.training.logs import log_interval
from everyframe.training.objectives_mask import pseudo_label_objective
from everyframe.training.supervised import Supervised
from everyframe.training.validation import MONITOR, logged_scores, observe, share_buffers

FEW = 0.01
"""Share of the pixels below which pseudo-labels teach next to nothing."""
BEHIND = 0.02
"""mIoU by which a student may be above its teacher without a word."""
STUDENT_MONITOR = MONITOR.replace("val/", "val/student_")
"""The student's score beside the teacher's; the teacher's decides which model is the best."""

Batch = dict[str, Clip]
"""What `ClipDataModule` gives with an `unlabeled_batch_size`: "labelled" and "unlabelled" clips."""


class MeanTeacher(Supervised):
    """Trains a segmenter on labels and on the pseudo-labels of its own moving average.

    A labelled batch costs what it costs in `Supervised`. Of an unlabelled batch the teacher sees the frames as they
    are; the student sees the same crop in strongly changed colours and is to predict, for the query frames, the classes
    that the teacher is sure of. Temporal models see adjacent and reference frames in both. The teacher is what is
    validated, exported, and called the best.

    Heads that predict masks learn from pseudo-labels by their set loss, see `pseudo_label_objective`.

    Args:
        model: the student.
        teaching: weight, threshold, momentum, ramp.
        seed: of the student's colours and CutMix, which are functions of (seed, step, clip).
        **options: see `Supervised`.
    """

    most_sure: Tensor

    def __init__(self, model: Segmenter, teaching: Teaching, seed: int = 0, **options: Any) -> None:
        super().__init__(model, **options)
        self.teaching = teaching
        self.seed = seed
        self.teacher = Teacher(model, teaching.momentum)
        self.student_confusion = ConfusionMatrix(len(model.label_space))
        self.change_colors = StrongPhotometric()
        self.register_buffer("most_sure", torch.tensor(-1.0), persistent=False)  # below 0: no step was taken
        masks = model.head.predicts == "masks"
        self.set_loss = pseudo_label_objective(self.objective) if masks else None
        self.confidence: Confidence = teaching.mask_confidence if masks else "softmax"
        self.thresholds: ClassThresholds | None = None
        if teaching.class_thresholds:
            self.thresholds = ClassThresholds(len(model.label_space), teaching.threshold)

    @property
    def exported(self) -> Segmenter:
        """The teacher's model."""
        return self.teacher.model

    # -- training ----------------------------------------------------------------------------------------------------

    # Lightning's own signature takes any batch; that of `Supervised` names its own, which is another.
    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the cost of a batch and its terms."""
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        targets = self.targets(unlabelled, learn=True)  # before the student's graph takes its memory
        watched = self.watch(targets, unlabelled, labelled)
        costs = self.objective(self.model(labelled.images, labelled.roles), labelled, self.global_step)
        images, targets, inside = self.student_view(unlabelled, targets)
        with unrecorded_statistics(self.model):  # they are the teacher's, which sees colours as they are
            prediction = self.model(images, unlabelled.roles)
        cost = self.pseudo_label_cost(prediction, unlabelled, targets, inside)
        weight = self.teaching.weight_at(self.global_step, self.steps)
        costs = {**costs, "pseudo_label": cost, "loss": costs["loss"] + weight * cost}
        self.log_costs(costs, len(labelled.videos), pseudo_label_weight=weight, **watched)
        return {name: cost if name == "loss" else cost.detach() for name, cost in costs.items()}

    def pseudo_label_cost(self, prediction: Prediction, clip: Clip, targets: Tensor, inside: Tensor) -> Tensor:
        """Return what the student's prediction of an unlabelled clip costs; half as sure a teacher makes half the cost.

        Args:
            prediction: of the student.
            clip: the unlabelled clips.
            targets: pseudo-labels of the query frames, uint8 [B, Q, H, W].
            inside: bool [B, H, W], no padding.
        """
        if self.set_loss is None:
            maps, counted = targets.flatten(0, 1), inside.repeat_interleave(targets.shape[1], 0)
            return pseudo_label_loss(query_logits(self.model, prediction), maps, counted)
        targets = targets.where(inside[:, None], IGNORE)
        labels = torch.full_like(clip.labels, IGNORE)
        labels[:, clip.queries] = targets
        known, every = (targets != IGNORE).sum(), inside.sum() * targets.shape[1]
        share = mean_over_processes(known.float()) / mean_over_processes(every.float()).clamp(min=1)
        return share * self.set_loss(prediction, replace(clip, labels=labels))["loss"]

    @torch.no_grad()
    def targets(self, clip: Clip, learn: bool = False) -> Tensor:
        """Return the teacher's pseudo-labels of the query frames: uint8 [B, Q, H, W].

        Args:
            clip: of either kind.
            learn: thresholds by class follow how sure the teacher is here; these pseudo-labels are made with the ones
                of before, so that no clip has a say in its own.
        """
        logits = query_logits(self.teacher.model, self.teacher.model(clip.images, clip.roles))
        size = (clip.images.shape[-2], clip.images.shape[-1])
        threshold = self.teaching.threshold if self.thresholds is None else self.thresholds()
        labels = pseudo_labels(logits, size, threshold, self.confidence)
        if learn and self.thresholds is not None:
            inside = inside_of(clip).repeat_interleave(len(logits) // len(clip.images), 0)
            self.thresholds.observe(logits, inside, self.confidence)
        return labels.unflatten(0, (len(clip.images), -1))

    def student_view(self, clip: Clip, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the student is shown of unlabelled clips, on their device.

        Returns:
            images uint8 [B, T, 3, H, W], pseudo-labels uint8 [B, Q, H, W], and bool [B, H, W]: no padding.
        """
        keys = [(digest(name), *frames) for name, frames in zip(clip.videos, clip.indices.tolist(), strict=True)]
        # By clip and not by place in the batch: any number of processes draws the same.
        rngs = [clip_rng(self.seed, self.global_step, *key) for key in keys]
        images = torch.stack([self.change_colors(own, rng) for own, rng in zip(clip.images, rngs, strict=True)])
        inside = inside_of(clip)
        if self.teaching.cutmix:
            generator = torch.Generator().manual_seed(int(rngs[0].integers(2**63)))
            boxes = cutmix_boxes((images.shape[-2], images.shape[-1]), len(images), self.teaching.cutmix, generator)
            boxes = boxes.to(images.device)
            images, targets, inside = (cutmix(own, boxes) for own in (images, targets, inside))
        return images, targets, inside

    @torch.no_grad()
    def watch(self, targets: Tensor, unlabelled: Clip, labelled: Clip) -> dict[str, Tensor]:
        """Measure the pseudo-labels: the share of pixels that have one, and how many of them are right.

        Right by the labels that the budget hides, where there are such; else by the labels of the labelled clips, of
        which the teacher makes pseudo-labels in the steps that are logged.
        """
        share = coverage(targets, inside_of(unlabelled)[:, None].expand_as(targets))
        self.most_sure = self.most_sure.maximum(share)
        if unlabelled.hidden is not None:
            return {"coverage": share, "precision_hidden": precision(targets, unlabelled.hidden)}
        if (self.global_step + 1) % log_interval(self.trainer):
            return {"coverage": share}
        return {"coverage": share, "precision_labelled": precision(self.targets(labelled), labelled.query_labels)}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then let the teacher follow: before any checkpoint of this step is written."""
        super().optimizer_step(*args, **kwargs)
        self.teacher.update(self.model, self.global_step)

    def failings(self) -> list[str]:
        """See `Supervised.failings`: hardly a pixel was sure; the teacher, which is kept, is below its student."""
        told, teaching = [], self.teaching
        if 0 <= self.most_sure < FEW:
            told.append(
                f"teacher: of the clips without labels at most {self.most_sure.item():.1%} of the pixels reached "
                f"teacher.threshold {teaching.threshold:g}: next to nothing was learnt from them; train longer, or "
                f"lower the threshold"
            )
        teacher, student = (self.trainer.callback_metrics.get(name) for name in (MONITOR, STUDENT_MONITOR))
        if teacher is not None and student is not None and student - teacher > BEHIND:
            told.append(
                f"teacher: it scores {100 * teacher:.2f} mIoU in the last validation, its student {100 * student:.2f}, "
                f"and the teacher is what is kept; it follows over 1 / (1 - teacher.momentum) = "
                f"{1 / max(1 - teaching.momentum, 1e-9):.0f} steps: train longer, or lower teacher.momentum"
            )
        return told

    # -- validation --------------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """See `Supervised.on_validation_start`; the student is scored too."""
        super().on_validation_start()
        if self.teaching.validate_student:
            share_buffers(self.model)

    def validation_step(self, video: VideoRef | None, batch_index: int) -> None:
        """Score the teacher, and beside it the student."""
        super().validation_step(video, batch_index)
        if video is not None and self.teaching.validate_student:
            observe(self.student_confusion, self.model, video, self.device)

    def collect_scores(self) -> dict[str, float]:
        """See `Supervised.collect_scores`."""
        scores = super().collect_scores()
        if self.teaching.validate_student:
            scores[STUDENT_MONITOR] = logged_scores(self.student_confusion.compute())[MONITOR]
            self.student_confusion.reset()
        return scores


def query_logits(model: Segmenter, prediction: Prediction) -> Tensor:
    """Return the logits of the query frames of all clips, [B*Q, K, h, w], whatever the head predicts."""
    return model.head.semantic({name: output.flatten(0, 1) for name, output in prediction.outputs.items()})


def inside_of(clip: Clip) -> Tensor:
    """Return bool [B, H, W], True where the clips show their frames; everywhere when they do not say."""
    if clip.inside is not None:
        return clip.inside
    return torch.ones_like(clip.labels[:, 0], dtype=torch.bool)
