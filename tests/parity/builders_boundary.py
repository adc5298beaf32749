"""Builders for the losses of NVIDIA's segmentation code and of InverseForm."""

from __future__ import annotations

import torch
from cases import Builder, Case
from torch import Tensor

from everyframe.losses.boundary import (
    at_edges,
    edge_loss,
    neighbour_classes,
    relaxed_cross_entropy,
    relaxed_pixels,
    set_loss,
)
from everyframe.losses.inverse_form import TransformRegressor, inverse_distance
from everyframe.losses.pixel import class_counts, cross_entropy, frequency_weights
from everyframe.losses.region import region_loss, sigmoid_cross_entropy


def relaxed_labels(case: Case) -> dict[str, Tensor]:
    """`ImgWtLossSoftNLL`, `customsoftmax`, `RelaxedBoundaryLossToTensor`."""
    logits, labels = case.inputs["logits"], case.inputs["label"].to(torch.uint8)
    k = case.args["classes"]
    sets = neighbour_classes(labels, k)
    counts = sets.sum((2, 3))  # N K+1, the ignore channel included
    sizes = sets[:, :k].sum(1)
    pixels = relaxed_pixels(labels).sum((1, 2)) + 1

    def weights(bound: float = 1.0, inverse: bool = False) -> Tensor:
        return torch.stack([frequency_weights(c[:k], c.sum(), bound, inverse) for c in counts])

    def each(class_weights: Tensor) -> Tensor:
        return torch.stack(
            [
                relaxed_cross_entropy(
                    logits[n : n + 1], labels[n : n + 1], 1, (), class_weights[n], True, pixels[n].float()
                )
                for n in range(len(labels))
            ]
        )

    def per_pixel(class_weights: Tensor) -> Tensor:
        return torch.cat([set_loss(logits[n : n + 1], sets[n : n + 1, :k], w) for n, w in enumerate(class_weights)])

    def batch(class_weights: Tensor) -> Tensor:
        # The reference divides each picture's losses by the set sizes of every picture.
        losses = per_pixel(class_weights)[:, None] / sizes.clamp(min=1)
        return (losses.sum((1, 2, 3)) / pixels).sum()

    together = frequency_weights(counts.sum(0)[:k], counts.sum()).expand(len(labels), -1)
    members = sets[:, :k]
    log_set = -torch.stack([set_loss(logits[n : n + 1], m[None])[0] for n, m in enumerate(members)]) / sizes.clamp(
        min=1
    )
    relaxed = torch.where(members, log_set[:, None], logits.log_softmax(1))
    return {
        "target": sets.to(torch.uint8),
        "target_border2": neighbour_classes(labels, k, border=2).to(torch.uint8),
        "target_strict": neighbour_classes(labels, k, strict=case.args["strict"]).to(torch.uint8),
        "class_weights": weights(),
        "log_relaxed_softmax": relaxed,
        "loss_each": each(weights()),
        "loss_each_bound3": each(weights(3.0)),
        "loss_each_norm": each(weights(inverse=True)),
        "loss_each_after_border_epoch": (per_pixel(weights()) * sizes).sum((1, 2)) / pixels,
        "loss_batch": batch(weights()),
        "loss_batch_weighting": batch(together),
    }


def image_weighted(case: Case) -> dict[str, Tensor]:
    """`ImageBasedCrossEntropyLoss2d`, `RMILoss`."""
    logits, labels = case.inputs["logits"], case.inputs["label"].to(torch.uint8)
    counts = class_counts(labels, case.args["classes"])
    forms = {"plain": {}, "bound2": {"bound": 2.0}, "norm": {"inverse": True}}
    weights = {name: frequency_weights(counts, **options) for name, options in forms.items()}
    losses = {name: _summed_over_images(logits, labels, weights[name]) for name in forms}
    pixels = sigmoid_cross_entropy(logits, labels, divisor=(labels != 255).sum() + 1.0)
    return {
        **losses,
        "batch_weighting": losses["plain"],
        **{f"weights_{name}": value for name, value in weights.items()},
        "rmi_bce": pixels,
        "rmi": 0.5 * pixels + 0.5 * region_loss(logits, labels),
    }


def inverse_form(case: Case) -> dict[str, Tensor]:
    """`JointEdgeSegLoss`, `InverseTransform2D`, `InverseNet`."""
    logits, labels = case.inputs["seg_logits"], case.inputs["label"].to(torch.uint8)
    edge_logits, edges = case.inputs["edge_logits"], case.inputs["edge"]
    regressor = TransformRegressor.from_state(case.state)
    assert regressor.tile == case.args["tile"]

    def seg(target: Tensor) -> Tensor:
        weights = frequency_weights(class_counts(target, case.args["classes"]))
        return _summed_over_images(logits, target, weights)

    def distance(predicted: Tensor, target: Tensor) -> Tensor:
        return inverse_distance(regressor, predicted.log_softmax(1), target, grid=(3, 6))  # (where ours has a sigmoid)

    got = {
        "seg": seg(labels),
        "edge_bce": edge_loss(edge_logits, edges[:, 0].to(torch.uint8)),
        "edge_attention": seg(at_edges(labels, edge_logits)),  # the logit where ours has a probability
        "inverse": distance(edge_logits, edges),
        "inverse_two_channels": distance(case.inputs["edge2"], case.inputs["edge2_target"]),
    }
    parts = {"seg": 1.0, "edge_bce": 0.3, "edge_attention": 0.1, "inverse": 0.3}
    return {**got, "total": torch.stack([weight * got[name] for name, weight in parts.items()]).sum()}


def _summed_over_images(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    losses = [cross_entropy(x[None], y[None], weights) for x, y in zip(logits, labels, strict=True)]
    return torch.stack(losses).sum()


NVIDIA: dict[str, Builder] = {
    "ImgWtLossSoftNLL, customsoftmax, RelaxedBoundaryLossToTensor": relaxed_labels,
    "ImageBasedCrossEntropyLoss2d, RMILoss": image_weighted,
}
"""Classes of NVIDIA's code -> builder."""

INVERSE_FORM: dict[str, Builder] = {"JointEdgeSegLoss, InverseTransform2D, InverseNet": inverse_form}
"""Classes of InverseForm's code -> builder."""
