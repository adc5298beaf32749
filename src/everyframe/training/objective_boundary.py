"""Terms of an objective that look at the edges between classes: InverseForm (Borse et al., CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.losses.boundary import at_edges, edge_counts, edge_loss, edge_map
from everyframe.losses.distributed import mean_over_processes
from everyframe.losses.inverse_form import TransformRegressor, inverse_distance
from everyframe.losses.pixel import upsample
from everyframe.losses.region import labelled_pictures
from everyframe.models.segmenter import Segmenter
from everyframe.models.state import read_state
from everyframe.training.outcome import Outcome, Term
from everyframe.training.pixel_loss import PixelLoss


@dataclass(frozen=True)
class EdgeOptions:
    """How edges between classes cost; all weights 0: not at all. InverseForm's are 0.3, 0.1 and 0.3.

    Attributes:
        edges: weight of the edge detector's balanced cross entropy.
        edge_attention: weight of a second cross entropy of the classes, at the edges seen.
        inverse_form: weight of the transform between seen and true edges.
        regressor: file of the transform regressor, see `everyframe.training.inverse_form.train_regressor`.
        radius: pixels to each side of a border that are edge.
    """

    edges: float = 0.0
    edge_attention: float = 0.0
    inverse_form: float = 0.0
    regressor: str | None = None
    radius: int = 2

    def __post_init__(self) -> None:
        weights = (self.edges, self.edge_attention, self.inverse_form)
        if min(weights) < 0 or (max(weights) > 0 and not self.edges):
            raise InputError(
                "objective: expected edges, edge_attention and inverse_form of 0 or more, and edges above 0 with any "
                f"of them (nothing else trains the detector), came {', '.join(f'{weight:g}' for weight in weights)}"
            )
        if self.inverse_form and self.regressor is None:
            raise InputError(
                "objective.inverse_form: expected a transform regressor in objective.edge_regressor, came none; train "
                "one with everyframe.training.inverse_form.train_regressor"
            )

    def terms(self, model: Segmenter) -> dict[str, tuple[float, Term]]:
        """Return the terms "edges", "edge_attention" and "inverse_form" of a model.

        Raises:
            InputError: the model lacks what they are for.
        """
        if not self.edges:
            return {}
        if not model.temporal.own_maps:
            raise InputError(
                f"objective.edges: expected a model whose frames have pixels of their own, came "
                f"{type(model.temporal).__name__}, in which frames meet before the head makes them; leave edges out"
            )
        if self.edge_attention and model.head.predicts != "logits":
            raise InputError(
                f"objective.edge_attention: expected a head that predicts logits, came one for {model.head.predicts}; "
                "leave it out"
            )
        detector = EdgeTerm(model.head.channels, self.radius)
        terms: dict[str, tuple[float, Term]] = {
            "edges": (self.edges, detector),
            "edge_attention": (self.edge_attention, EdgeAttention(detector)),
        }
        if self.inverse_form and self.regressor is not None:
            regressor = TransformRegressor.from_state(read_state(self.regressor), self.regressor)
            terms["inverse_form"] = (self.inverse_form, InverseFormTerm(detector, [regressor]))
        return terms


class EdgeTerm(nn.Module):
    """Balanced cross entropy of an edge detector: a 1x1 convolution on the head's pixels of the query frames.

    The detector belongs to the objective: it trains with the model, and no model carries it after training.

    Args:
        channels: D of the head's pixels.
        radius: see `edge_map`.
    """

    def __init__(self, channels: int, radius: int = 2) -> None:
        super().__init__()
        self.radius = radius
        self.detector = nn.Conv2d(channels, 1, 1)

    def logits(self, outcome: Outcome) -> Tensor:
        """Return the query frames' logits of an edge, [B*Q, 1, H, W] at the size of the labels."""
        return outcome.once((self, "logits"), lambda: self._detect(outcome))

    def truth(self, outcome: Outcome) -> Tensor:
        """Return the query frames' true edges, uint8 [B*Q, H, W]."""
        return outcome.once((self, "truth"), lambda: edge_map(outcome.labels, self.radius))

    def forward(self, outcome: Outcome) -> Tensor:
        """See `everyframe.training.outcome.Term`."""
        truth = self.truth(outcome)
        return edge_loss(self.logits(outcome), truth, mean_over_processes(edge_counts(truth)))

    def _detect(self, outcome: Outcome) -> Tensor:
        embedding = outcome.prediction.features.embedding
        if "pixels" not in embedding:  # of Mask2Former frames may meet on a coarser map
            raise InputError(
                f"objective.edges: expected a model whose frames have their own pixels, came {', '.join(embedding)}; "
                f"set model.temporal.at: pixels, or leave edges out"
            )
        size = (outcome.labels.shape[-2], outcome.labels.shape[-1])
        return upsample(self.detector(outcome.of_queries(embedding["pixels"]).flatten(0, 1)), size)


@dataclass(frozen=True)
class EdgeAttention:
    """Cross entropy of the classes where an edge is seen with a probability above 0.8."""

    detector: EdgeTerm

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        seen = self.detector.logits(outcome).detach().sigmoid()
        return PixelLoss()(outcome.logits, at_edges(outcome.labels, seen))


@dataclass(frozen=True)
class InverseFormTerm:
    """Size of the transform between the edges seen and the true ones, on the frames that have labels.

    The regressor is frozen, and held in a list, so that it is no part of the objective's weights. Ignored pixels count
    as no edge on both sides.
    """

    detector: EdgeTerm
    regressor: list[TransformRegressor]

    def __call__(self, outcome: Outcome) -> Tensor:
        """See `Term`."""
        logits, truth = self.detector.logits(outcome), self.detector.truth(outcome)[:, None]
        seen = torch.where(truth == IGNORE, 0.0, logits.sigmoid())
        labelled = labelled_pictures(truth)
        own = labelled.sum().float()
        mean = mean_over_processes(own)
        if own == 0:
            return 0 * logits.sum()  # every parameter gets a gradient, so that processes stay in step
        regressor = self.regressor[0].to(logits.device).requires_grad_(False)
        with torch.autocast(logits.device.type, enabled=False):
            distance = inverse_distance(regressor, seen[labelled].float(), (truth[labelled] == 1).float())
        return distance * (own / mean)
