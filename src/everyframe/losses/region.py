"""Region mutual information: prediction and label map are compared by how neighbouring pixels vary together.

Zhao et al., "Region Mutual Information Loss for Semantic Segmentation" (NeurIPS 2019). Each class is scored by a
sigmoid of its own; the published loss is half `region_loss`, half `sigmoid_cross_entropy`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.losses.pixel import sum_over_images, upsample

REGULARIZATION = 5e-4
"""Added to the diagonal of covariances before they are inverted or their determinant is taken (paper, section 3.3)."""

LEAST_PROBABILITY = 1e-6
"""Added to probabilities; what an ignored pixel has, so that it varies with nothing."""


def sigmoid_cross_entropy(logits: Tensor, labels: Tensor, divisor: Tensor | None = None) -> Tensor:
    """Binary cross entropy of each class against the rest, summed over classes, averaged over labelled pixels.

    Args:
        logits: [N, K, h, w].
        labels: uint8 [N, H, W].
        divisor: in place of the number of labelled pixels, for example one summed over processes.

    Returns:
        Scalar float32.
    """
    labelled = labels != IGNORE

    def summed_loss(image: Tensor, at: Tensor) -> Tensor:
        target = _one_hot(labels[at], logits.shape[1])
        full = upsample(image, (labels.shape[-2], labels.shape[-1]))
        return F.binary_cross_entropy_with_logits(full, target, labelled[at][:, None].to(full), reduction="sum")

    if divisor is None:
        divisor = labelled.sum().float()
    return sum_over_images(logits, summed_loss, labelled.flatten(1).any(1).tolist()) / divisor.clamp(min=1)


def region_loss(
    logits: Tensor, labels: Tensor, radius: int = 3, pool: int = 4, divisor: Tensor | None = None
) -> Tensor:
    """Negative lower bound of the mutual information of predicted and true regions, summed over classes.

    A region is the vector of `radius` x `radius` neighbouring cells of a class's map, at reduced resolution. With the
    covariances of all regions of a picture, the bound is -1/2 log det(S_yy - S_yp S_pp^-1 S_py) (equations 10 to 16),
    divided by the vector's length; it may be negative. Computed in float64, as the matrices are nearly singular.

    Args:
        logits: [N, K, h, w].
        labels: uint8 [N, H, W].
        radius: side of a region, in cells.
        pool: side of a cell, in pixels.
        divisor: in place of the number of pictures that have a label, for example its mean over processes.

    Returns:
        Scalar float32, the mean over the pictures that have a label.

    Raises:
        InputError: pictures so small that they hold no region.
    """
    size = (labels.shape[-2], labels.shape[-1])
    least = pool * radius - 2 * (pool // 2)  # cells begin half a cell outside of the picture
    if min(size) < least:
        raise InputError(
            f"region loss: expected label maps of at least {least} pixels a side, came {size[0]}x{size[1]}; use larger "
            f"crops"
        )

    def bound(image: Tensor, at: Tensor) -> Tensor:
        target = _one_hot(labels[at], logits.shape[1])
        labelled = (labels[at] != IGNORE).to(target)[:, None]
        probabilities = upsample(image, size).sigmoid() * labelled + LEAST_PROBABILITY
        y, p = (_centred_regions(x, radius, pool) for x in (target, probabilities))
        eye = REGULARIZATION * torch.eye(radius * radius, dtype=y.dtype, device=y.device)
        of_both = y @ p.mT
        explained = of_both @ torch.cholesky_solve(of_both.mT, torch.linalg.cholesky(p @ p.mT + eye))
        rest = torch.linalg.cholesky(y @ y.mT - explained + eye)
        half_log_det = rest.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # K: 1/2 log det of what p does not explain
        return (half_log_det / radius**2).sum().float()

    used = labelled_pictures(labels)
    divisor = used.sum().float() if divisor is None else divisor
    return sum_over_images(logits, bound, used.tolist()) / divisor.clamp(min=torch.finfo(torch.float32).tiny)


def labelled_pictures(labels: Tensor) -> Tensor:
    """Return which label maps of uint8 [N, H, W] have a labelled pixel: bool [N]."""
    return (labels != IGNORE).flatten(1).any(1)


def _one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return float32 [N, K, H, W]; ignored pixels are of no class."""
    return (labels[:, None] == torch.arange(num_classes, device=labels.device)[:, None, None]).float()


def _centred_regions(x: Tensor, radius: int, pool: int) -> Tensor:
    """[1, K, H, W] -> all regions of each class less their mean, float64 [K, radius^2, regions]."""
    x = F.avg_pool2d(x, pool, pool, padding=pool // 2)
    regions = F.unfold(x.movedim(1, 0), radius).double()
    return regions - regions.mean(-1, keepdim=True)
