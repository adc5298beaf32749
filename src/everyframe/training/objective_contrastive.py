"""The contrastive loss as a term of an objective: which features, which labels, which cells of which clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.losses.contrastive import Positives, contrastive_loss
from everyframe.losses.contrastive_cells import cell_labels, sample_anchors
from everyframe.losses.distributed import mean_over_processes
from everyframe.models.segmenter import Backbone, Prediction, Segmenter
from everyframe.training.outcome import Outcome

Feature = str | int
"""Name in the head's embedding, or number of a backbone map (0 the finest, -1 the coarsest)."""

TEMPERATURES = {"contrastiveseg": 0.1, "moco": 0.07, "moco-v2": 0.2}
"""Whose temperature it is: Wang et al., ICCV 2021 (on Cityscapes); He et al., CVPR 2020; Chen et al., 2020."""


class ContrastiveTerm(nn.Module):
    """Mean of the contrastive loss over the clips of a batch (of all processes), each clip on its own.

    All frames of a clip take part, whatever their role: two frames are VSPW 2023's NCE2, four NCE4. Frames without
    labels are ignored. Clips that show a single frame (still images) leave the loss; without others it is 0.

    Args:
        feature: of Mask2Former, "memory2" is the encoder's map at stride 8, "memory0" the one at 32, and "pixels" are
            what masks are made of at stride 4.
        temperature: see `contrastive_loss`; also a name of `TEMPERATURES`.
        positives: see `contrastive_loss`.
        purity: see `cell_labels`.
        products: see `contrastive_loss`.
        channels: channels of the feature, needed with a projection.
        projection: channels that two 1x1 convolutions with batch norm and ReLU between them bring the feature to; 0
            compares the feature itself. The projection belongs to the objective: no model carries it after training.
        negatives: see `contrastive_loss`.
        anchors: cells of a clip that take part, see `sample_anchors`; 0: all.
        anchors_per_class: see `sample_anchors`.
        scores: turns outputs of query frames, each [N, ...], into class scores [N, K, h, w], to see where the model is
            wrong (`anchors`). None: nobody knows.
        jointly: the cells of all moving clips of a batch meet as if they were one clip. Then other clips' cells of its
            class attract a cell too, as "other frames".
        warmup: optimiser steps at the start of the run for which the loss is 0 (3000 to 5000 in ContrastiveSeg).

    Raises:
        InputError: an option is out of range.
    """

    def __init__(
        self,
        feature: Feature = "pixels",
        temperature: float | str = 0.1,
        positives: Positives = "clip",
        purity: float | None = None,
        products: torch.dtype | None = None,
        channels: int = 0,
        projection: int = 0,
        negatives: int = 0,
        anchors: int = 0,
        anchors_per_class: int = 100,
        scores: Callable[[dict[str, Tensor]], Tensor] | None = None,
        jointly: bool = False,
        warmup: int = 0,
    ) -> None:
        super().__init__()
        if projection < 0 or (projection and channels < 1):
            raise InputError(
                f"objective.contrastive: expected a projection to 0 or more channels, and the channels of the feature "
                f"with one, came projection {projection}, channels {channels}"
            )
        if min(anchors, warmup) < 0 or anchors_per_class < 2:
            raise InputError(
                f"objective.contrastive: expected 0 or more anchors and steps of warm-up and at least 2 anchors per "
                f"class, came {anchors} anchors, {anchors_per_class} per class, {warmup} steps"
            )
        self.feature = feature
        self.options: dict[str, Any] = {
            "temperature": _temperature(temperature), "positives": positives, "products": products,
            "negatives": negatives,
        }  # fmt: skip
        self.purity = purity
        self.anchors, self.anchors_per_class = anchors, anchors_per_class
        self.scores = scores
        self.jointly = jointly
        self.warmup = warmup
        self.projection: nn.Module = _projection(channels, projection) if projection else nn.Identity()

    def forward(self, outcome: Outcome) -> Tensor:
        """See `everyframe.training.outcome.Term`."""
        clip = outcome.clip
        batch, frames = clip.labels.shape[:2]
        features = self.projection(self._chosen(outcome.prediction))
        warming = outcome.step is not None and outcome.step < self.warmup
        moving = [] if warming else (~clip.still).nonzero().squeeze(1).tolist()
        count = mean_over_processes(torch.full((), float(len(moving)), device=features.device))
        if not moving:
            # Every parameter gets a gradient all the same, so that processes stay in step.
            return 0 * features.sum()
        size = (features.shape[-2], features.shape[-1])
        labels = cell_labels(clip.labels.flatten(0, 1), size, self.purity).unflatten(0, (batch, frames))
        features = features.unflatten(0, (batch, frames))
        if self.anchors:
            own = self._predicted(outcome, size)
            drawn = [sample_anchors(labels[i], own[i], self.anchors, self.anchors_per_class) for i in moving]
        else:
            drawn = [labels[i] for i in moving]
        if self.jointly:
            loss = contrastive_loss(features[moving].flatten(0, 1), torch.cat(drawn), **self.options)
            return loss * (len(moving) / count)
        losses = [contrastive_loss(features[i], cells, **self.options) for i, cells in zip(moving, drawn, strict=True)]
        return torch.stack(losses).sum() / count

    def _chosen(self, prediction: Prediction) -> Tensor:
        """Features [B*T, C, h, w] of all frames."""
        maps, embedding = prediction.features.maps, prediction.features.embedding
        if isinstance(self.feature, int) and -len(maps) <= self.feature < len(maps):
            return maps[self.feature]
        chosen = embedding.get(self.feature) if isinstance(self.feature, str) else None
        if chosen is None or chosen.ndim != 4:
            there = [name for name, x in embedding.items() if x.ndim == 4]
            raise InputError(
                f"objective.contrastive_feature: expected one of {', '.join(there)} or the number of a backbone map "
                f"0..{len(maps) - 1}, came {self.feature!r}"
            )
        return chosen

    @torch.no_grad()
    def _predicted(self, outcome: Outcome, size: tuple[int, int]) -> Tensor:
        """The model's own labels of the cells, int64 [B, T, h, w]; -1 in frames that are no queries."""
        clip, scores_of = outcome.clip, self.scores
        own = torch.full((*clip.labels.shape[:2], *size), -1, device=clip.labels.device)
        if scores_of is not None:
            outputs = {name: x.flatten(0, 1) for name, x in outcome.prediction.outputs.items()}
            scores = outcome.once((ContrastiveTerm, scores_of), lambda: scores_of(outputs))  # all features ask for it
            winner = F.interpolate(scores.float(), size, mode="bilinear", align_corners=False).argmax(1)
            own[:, clip.queries] = winner.unflatten(0, (len(own), -1))
        return own


class MeanOverFeatures(nn.Module):
    """The mean of the contrastive losses of several features, each with a projection of its own."""

    def __init__(self, terms: Sequence[ContrastiveTerm]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, outcome: Outcome) -> Tensor:
        """See `everyframe.training.outcome.Term`."""
        return torch.stack([term(outcome) for term in self.terms]).mean()


def contrastive_term(
    model: Segmenter, feature: Feature | Sequence[Feature] | None = None, projection: int = 256, **options: Any
) -> ContrastiveTerm | MeanOverFeatures:
    """Return the contrastive term of a model.

    Args:
        model: the model.
        feature: what is compared, or several, whose losses are averaged; None: the head's shared map, or the coarsest
            map of the backbone where frames meet before the head makes its own (NetWarp, TCB-PPM).
        projection: see `ContrastiveTerm`, as all others.
        **options: of `ContrastiveTerm`.

    Raises:
        InputError: an option is out of range, or the backbone has no such map.
    """

    def term(one: Feature) -> ContrastiveTerm:
        channels = feature_channels(model, one)
        return ContrastiveTerm(one, channels=channels, projection=projection, scores=model.head.semantic, **options)

    chosen = feature
    if chosen is None:
        chosen = model.head.shared if model.temporal.own_maps else -1
    if isinstance(chosen, str | int):
        return term(chosen)
    if not chosen:
        raise InputError("objective.contrastive_feature: expected at least one feature, came an empty list")
    return MeanOverFeatures([term(one) for one in chosen])


def feature_channels(model: Segmenter, feature: Feature) -> int:
    """Channels of a feature of a model: a backbone map's, or those that the maps of all heads' embeddings share.

    Raises:
        InputError: the backbone has no such map.
    """
    if isinstance(feature, str):
        return model.head.num_classes if feature == "auxiliary" else model.head.channels
    assert isinstance(model.backbone, Backbone)
    channels = model.backbone.channels
    if not -len(channels) <= feature < len(channels):
        raise InputError(
            f"objective.contrastive_feature: expected the number of a backbone map 0..{len(channels) - 1}, "
            f"came {feature}"
        )
    return channels[feature]


def _temperature(given: float | str) -> float:
    if not isinstance(given, str):
        return given
    if given not in TEMPERATURES:
        known = ", ".join(TEMPERATURES)
        raise InputError(f"objective.contrastive_temperature: expected a number or one of {known}, came {given!r}")
    return TEMPERATURES[given]


def _projection(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, width, 1),
    )
