"""The objective of a model: what its head costs, and the terms that know about time (class prototypes, motion)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from everyframe.errors import InputError
from everyframe.flow import Flow, batch_flow, open_flow
from everyframe.losses.contrastive import Positives
from everyframe.losses.pixel import upsample
from everyframe.losses.temporal import MaskForm, motion_loss, photometric_mask
from everyframe.models.checkpoint import load_segmenter
from everyframe.models.ops.warp import inside, warp
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.prototypes import CategoryPrototypes
from everyframe.models.temporal.ssltm import SSLTM
from everyframe.training.objective import AuxiliaryCrossEntropy, Objective, own_terms, pixel_objective
from everyframe.training.objective_boundary import EdgeOptions
from everyframe.training.objective_contrastive import contrastive_term
from everyframe.training.objective_distillation import (
    DistillationTeacher,
    LogitDistillation,
    PairDistillation,
    SequenceDistillation,
)
from everyframe.training.objectives_mask import MaskOptions
from everyframe.training.outcome import Outcome, Term


def video_objective(
    model: Segmenter,
    masks: MaskOptions | None = None,
    prototypes: float = 1.0,
    motion: float = 0.0,
    motion_mask: MaskForm = "absolute",
    flow: str = "dis",
    distill_from: str | None = None,
    distillation: float = 1.0,
    pair_distillation: float = 0.1,
    multi_frame_distillation: float = 0.1,
    contrastive: float = 0.0,
    contrastive_feature: int | str | list[int | str] | None = None,
    contrastive_temperature: float | Literal["contrastiveseg", "moco", "moco-v2"] = 0.1,
    contrastive_positives: Positives = "clip",
    contrastive_negatives: int = 0,
    contrastive_anchors: int = 0,
    contrastive_anchors_per_class: int = 100,
    contrastive_jointly: bool = False,
    contrastive_purity: float | None = None,
    contrastive_projection: int = 256,
    contrastive_warmup: int = 0,
    edges: float = 0.0,
    edge_attention: float = 0.0,
    inverse_form: float = 0.0,
    edge_regressor: str | None = None,
    edge_radius: int = 2,
    terms: dict[str, float] | None = None,
    **options: Any,
) -> Objective:
    """Build the objective of a model: that of its pixels, and what its temporal module and a teacher add.

    Args:
        model: the model to train.
        masks: what heads that predict masks cost, in place of the options of `pixel_objective`.
        prototypes: weight of the loss that moves SSLTM's class prototypes; without them it is left out. With 0 they
            still take in what is labelled: empty slots are filled, and "ema" moves them as ever.
        motion: weight of ETC's motion loss between consecutive query frames (0.1 there); needs `data.queries: 2`.
        motion_mask: difference of frames by which motion is believed, see `photometric_mask`.
        flow: where the motion comes from: "dis" (OpenCV), "raft" (torchvision, downloads weights), or
            "raft:WEIGHTS.pth".
        distill_from: folder or hub id of a trained model whose predictions and features are to be imitated (ETC).
        distillation: with it, weight of the single-frame distillation of logits.
        pair_distillation: weight of the pair-wise-frames dependency loss; needs two query frames.
        multi_frame_distillation: weight of the multi-frame dependency loss; needs two query frames.
        contrastive: weight of the contrastive loss between the cells of a clip (0.1 in VSPW 2023), all frames of it;
            see `everyframe.losses.contrastive`.
        contrastive_feature: name in the head's embedding, or number of a backbone map (0 the finest); the mean over
            several; left out, the head's shared map: "pixels", of Mask2Former its encoder's finest map ("memory2"), of
            NetWarp and TCB-PPM the backbone's coarsest map (-1).
        contrastive_temperature: by which products of features are divided, or whose it is: ContrastiveSeg's 0.1, MoCo's
            0.07, MoCo v2's 0.2.
        contrastive_positives: which cells of its class attract a cell: the clip's, its own frame's, other frames'.
        contrastive_negatives: cells of other classes that repel a cell, drawn anew in each step; 0: all of the clip.
        contrastive_anchors: cells of a clip that take part at all, half of them where the model is wrong (1024 in
            ContrastiveSeg); 0: all.
        contrastive_anchors_per_class: at most so many of them are of one class.
        contrastive_jointly: cells of all clips of a batch meet, not of each by itself.
        contrastive_purity: label of a cell: None the pixel at its centre; else the most frequent one from this share.
        contrastive_projection: channels to which the feature is projected for this loss alone; 0 for no projection.
        contrastive_warmup: optimiser steps without this loss at the start of the run.
        edges: weight of an edge detector's loss (0.3 in InverseForm), see `EdgeOptions` for this and the next four.
        edge_attention: weight of a second cross entropy at the edges seen (0.1).
        inverse_form: weight of the transform between seen and true edges (0.3).
        edge_regressor: file of the network that measures this transform.
        edge_radius: pixels to each side of a border that are edge.
        terms: weights of terms of one's own, by their names in `TERMS`.
        **options: of `pixel_objective`.

    An auxiliary head that serves its loss alone is frozen where that has no weight.

    Raises:
        InputError: an option is out of range, or the model lacks what it is for.
    """
    if model.head.predicts == "masks":
        if motion or distill_from is not None:
            raise InputError(
                "objective: expected a head that predicts logits for motion and distill_from, came one for masks; "
                "leave them out"
            )
        chosen = _mask_terms(model, masks or MaskOptions(), options)
    else:
        pixels = pixel_objective(**options)  # (a call of its own: the command line reads its options here)
        chosen = dict(pixels.terms)
    if isinstance(model.temporal, SSLTM) and model.temporal.prototypes is not None:
        chosen["prototypes"] = (prototypes, PrototypeLoss(model.temporal.prototypes, model.temporal.site.key))
    chosen["motion"] = (motion, MotionLoss(model, motion_mask, flow))
    if distill_from is not None:
        weights = distillation, pair_distillation, multi_frame_distillation
        chosen |= _distillation_terms(model, distill_from, weights)
    if contrastive:
        chosen["contrastive"] = (
            contrastive,
            contrastive_term(
                model,
                contrastive_feature,
                contrastive_projection,
                temperature=contrastive_temperature,
                positives=contrastive_positives,
                purity=contrastive_purity,
                negatives=contrastive_negatives,
                anchors=contrastive_anchors,
                anchors_per_class=contrastive_anchors_per_class,
                jointly=contrastive_jointly,
                warmup=contrastive_warmup,
            ),
        )
    chosen |= EdgeOptions(edges, edge_attention, inverse_form, edge_regressor, edge_radius).terms(model)
    objective = Objective({**chosen, **own_terms(terms or {}, taken=chosen)})
    if "auxiliary" not in objective.terms:
        _rest_auxiliary(model)
    return objective


def _mask_terms(model: Segmenter, masks: MaskOptions, options: Mapping[str, Any]) -> dict[str, tuple[float, Term]]:
    """Return what a head that predicts masks costs; refuse `options` of `pixel_objective`."""
    _refuse_pixel_options(options)
    terms = masks.terms()
    if model.head.auxiliary is not None or isinstance(model.temporal, SSLTM):
        terms["auxiliary"] = (masks.auxiliary, AuxiliaryCrossEntropy())
    return terms


def _distillation_terms(
    model: Segmenter, name: str, weights: tuple[float, float, float]
) -> dict[str, tuple[float, Term]]:
    """Return ETC's terms of a teacher: of single frames, of pairs and of several frames, by their weights."""
    single, pairs, several = weights
    teacher = DistillationTeacher(_fitting_teacher(model, name, features=pairs > 0 or several > 0))
    return {
        "distillation": (single, LogitDistillation(teacher)),
        "pair_distillation": (pairs, PairDistillation(teacher)),
        "multi_frame_distillation": (several, SequenceDistillation(teacher)),
    }


def _rest_auxiliary(model: Segmenter) -> None:
    """Freeze an auxiliary head that served its loss alone: distributed training would wait for its gradients."""
    head, temporal = model.head, model.temporal
    by_time = isinstance(temporal, SSLTM) and temporal.context != "none"
    if head.auxiliary is not None and not (head.reads_auxiliary or by_time):  # else its scores gather regions
        head.auxiliary.requires_grad_(False)


@dataclass(frozen=True)
class PrototypeLoss:
    """Shows the labelled query frames, as they were before any temporal module, to the prototypes.

    Attributes:
        prototypes: whose space is that of a map in the frames' embedding.
        key: name of that map.
    """

    observes: ClassVar[bool] = True
    """Prototypes take in what they see also where the loss that moves them has weight 0, see `Objective`."""

    prototypes: CategoryPrototypes
    key: str = "pixels"

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`; the prototypes move (by "ema") or are made to (by "mse")."""
        pixels = outcome.of_queries(outcome.prediction.features.embedding[self.key])
        return self.prototypes.observe(pixels.flatten(0, 1), outcome.labels)


@dataclass(frozen=True)
class MotionLoss:
    """Consecutive query frames' logits agree along the flow (ETC); the mean over the pairs of the clip.

    Attributes:
        model: whose mean and deviation normalise the frames.
        mask: see `photometric_mask`. With "absolute" pixels that the flow takes out of the picture count for nothing:
            warping reads zeros there, towards which the VSPW code ("vspw") draws the logits of what is grey.
        flow: see `batch_flow`.
    """

    model: Segmenter
    mask: MaskForm = "absolute"
    flow: str | Flow = "dis"

    def __post_init__(self) -> None:
        open_flow(self.flow)  # an unknown name is refused here

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        images, logits = outcome.query_pairs("motion"), outcome.prediction.logits.unbind(1)
        losses = [
            # At the size of the frames logits are large: they are computed anew in the backward pass; the flow is not.
            checkpoint(_along, now, before, *self.motion(now_image, before_image), use_reentrant=False)
            for (before, now), (before_image, now_image) in zip(pairwise(logits), images, strict=True)
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def motion(self, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the flow [B, 2, H, W] from frames to those before, uint8 [B, 3, H, W], and how far to believe it."""
        flow = batch_flow(self.flow, now, before)
        a, b = ((image - self.model.mean) / self.model.std for image in (now, before))
        mask = photometric_mask(a, warp(b, flow), self.mask)
        return flow, mask if self.mask == "vspw" else mask * inside(flow)


def _along(now: Tensor, before: Tensor, flow: Tensor, mask: Tensor) -> Tensor:
    """Return the motion loss of logits [B, K, h, w] of two frames, for `MotionLoss.motion`."""
    size = (flow.shape[-2], flow.shape[-1])
    return motion_loss(upsample(now, size), warp(upsample(before, size), flow), mask)


def _fitting_teacher(model: Segmenter, name: str, features: bool) -> Segmenter:
    """Load the teacher whose logits `model` is to imitate, channel by channel.

    Args:
        model: the student.
        name: of the teacher.
        features: the teacher's pixels are to be imitated too.

    Raises:
        InputError: it has other classes, or the same in another order, or predicts masks; or one of the two makes no
            pixels of each frame by itself.
    """
    teacher = load_segmenter(name)
    own, other = model.label_space, teacher.label_space
    if differ := other.unlike(own):
        raise InputError(
            f"objective.distill_from: expected a teacher of the model's {len(own)} classes in their order, came one of "
            f"{len(other)} ({name}): {differ}; train the teacher on the same classes"
        )
    if teacher.head.predicts != model.head.predicts:
        raise InputError(
            f"objective.distill_from: expected a teacher that predicts {model.head.predicts}, came one for "
            f"{teacher.head.predicts} ({name}); choose one with a head of pixels (ocr, psp, ...)"
        )
    for role, part in (("student", model), ("teacher", teacher)):
        if features and not part.temporal.own_maps:
            raise InputError(
                f"objective.distill_from: expected a {role} whose frames have pixels of their own, came "
                f"{type(part.temporal).__name__}, in which frames meet before the head makes them; choose another, or "
                f"set objective.pair_distillation and objective.multi_frame_distillation to 0"
            )
    return teacher


def _refuse_pixel_options(options: Mapping[str, Any]) -> None:
    """Options of `pixel_objective` that differ from its defaults would do nothing on a head that predicts masks."""
    known = signature(pixel_objective).parameters
    changed = [name for name, value in options.items() if name not in known or value != known[name].default]
    if changed:
        raise InputError(
            f"objective: expected a head that predicts logits for {', '.join(changed)}, came one for masks, whose "
            f"losses are set under masks (--masks.class_weights, ...); leave them out"
        )
