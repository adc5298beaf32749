"""Losses at the borders between classes: label relaxation, edge maps and what is learned from them.

Logits and labels are as in `everyframe.losses.pixel`: [N, K, h, w] of any resolution, uint8 [N, H, W], 255 = ignore.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.frames import IGNORE
from everyframe.losses.pixel import sum_over_images, upsample


def relaxed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    border: int = 1,
    strict: Sequence[int] = (),
    class_weights: Tensor | None = None,
    void_borders: bool = False,
    divisor: Tensor | None = None,
) -> Tensor:
    """Boundary label relaxation: near a border any class of the neighbourhood is right.

    Zhu et al., "Improving Semantic Segmentation via Video Propagation and Label Relaxation" (CVPR 2019), equation 3:
    the loss of a pixel is -log of the summed probability of the set N of classes around it; inside a class that is
    cross entropy. With class weights, as in their code, it counts by the mean weight of the set.

    Args:
        logits: [N, K, h, w].
        labels: uint8 [N, H, W].
        border: pixels to each side whose classes are allowed too; 0 is plain cross entropy.
        strict: classes whose own pixels allow no other (thin ones, which would vanish).
        class_weights: [K] for all images, or [N, K].
        void_borders: ignored pixels beside labelled ones count, as in the authors' code; off, they get no gradient.
        divisor: a given divisor in place of the number of pixels that count, for example one summed over processes.

    Returns:
        Scalar float32.
    """
    k, size = logits.shape[1], (labels.shape[-2], labels.shape[-1])

    def summed_loss(image: Tensor, at: Tensor) -> Tensor:
        members = neighbour_classes(labels[at], k, border, strict)[:, :k]
        counts = members.any(1) if void_borders else labels[at] != IGNORE
        weights = class_weights[at][0] if class_weights is not None and class_weights.ndim == 2 else class_weights
        losses = set_loss(upsample(image, size), members, weights) / members.sum(1).clamp(min=1)
        return (losses * counts).sum()

    counted = relaxed_pixels(labels, border) if void_borders else labels != IGNORE
    if divisor is None:
        divisor = counted.sum().float()
    used = counted.flatten(1).any(1).tolist()
    return sum_over_images(logits, summed_loss, used) / divisor.clamp(min=1)


def relaxed_pixels(labels: Tensor, border: int = 1) -> Tensor:
    """Return which pixels have a label within `border` pixels, their own included: bool [N, H, W]."""
    return _spread((labels != IGNORE)[:, None], border)[:, 0]


def neighbour_classes(labels: Tensor, num_classes: int, border: int = 1, strict: Sequence[int] = ()) -> Tensor:
    """Return the set of classes in the square around each pixel.

    Args:
        labels: uint8 [N, H, W].
        num_classes: K.
        border: pixels from the centre of the square to its sides.
        strict: a pixel of these classes has its own class alone.

    Returns:
        bool [N, K + 1, H, W]; the last channel: a pixel of the square is ignored or outside of the picture.
    """
    classes = torch.where(labels < num_classes, labels, num_classes)
    outside = F.pad(classes, (border,) * 4, value=num_classes)[:, None]
    one_hot = outside == torch.arange(num_classes + 1, device=labels.device)[:, None, None]
    h, w = labels.shape[-2:]
    around = _spread(one_hot, border)[..., border : border + h, border : border + w]
    if not strict:
        return around
    own = one_hot[..., border : border + h, border : border + w]
    keeps_own = torch.stack([classes == name for name in strict]).any(0)
    return torch.where(keeps_own[:, None], own, around)


def set_loss(logits: Tensor, members: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return -log of the summed probability of each pixel's set, times the summed weights of the set.

    Args:
        logits: [N, K, H, W].
        members: bool [N, K, H, W], the set of each pixel; where it is empty the loss is 0.
        class_weights: [K]; 1 each when left out.

    Returns:
        [N, H, W].
    """
    empty = ~members.any(1, keepdim=True)
    # An empty set is taken for the set of all classes: the loss and its gradient are 0.
    log_p = logits.masked_fill(~(members | empty), -torch.inf).logsumexp(1) - logits.logsumexp(1)
    factors = torch.ones_like(logits[0, :, 0, 0]) if class_weights is None else class_weights.to(logits)
    return -log_p * torch.einsum("nkhw,k->nhw", members.to(logits.dtype), factors)


def _spread(masks: Tensor, border: int) -> Tensor:
    """Return which pixels have a True one in the square around them: bool [N, C, H, W] of the same size."""
    for axis in (2, 3):
        spread, length = masks.clone(), masks.shape[axis]
        for step in range(1, min(border, length - 1) + 1):
            rest = length - step
            spread.narrow(axis, 0, rest).logical_or_(masks.narrow(axis, step, rest))
            spread.narrow(axis, step, rest).logical_or_(masks.narrow(axis, 0, rest))
        masks = spread
    return masks


# -- edges -------------------------------------------------------------------------------------------------------------


def edge_map(labels: Tensor, radius: int = 2) -> Tensor:
    """Return where another class is near: the ground truth of an edge detector.

    InverseForm and Gated-SCNN mark the pixels whose Euclidean distance to another class is at most `radius`. Here the
    frame's own border is no edge and neither is that of an ignored region: nothing is known about what lies behind.

    Args:
        labels: uint8 [N, H, W].
        radius: in pixels.

    Returns:
        uint8 [N, H, W]: 1 edge, 0 none, 255 ignored.
    """
    edges = torch.zeros_like(labels, dtype=torch.bool)
    h, w = labels.shape[-2:]
    for dy in range(min(radius, h - 1) + 1):
        for dx in range(-min(radius, w - 1), min(radius, w - 1) + 1):
            # Half of the disc: each pair of pixels once.
            if dy * dy + dx * dx > radius * radius or (dy, dx) <= (0, 0):
                continue
            left, right = max(dx, 0), max(-dx, 0)
            first = labels[:, : h - dy, right : w - left]
            second = labels[:, dy:, left : w - right]
            differ = (first != second) & (first != IGNORE) & (second != IGNORE)
            edges[:, : h - dy, right : w - left] |= differ
            edges[:, dy:, left : w - right] |= differ
    return torch.where(labels == IGNORE, IGNORE, edges.to(torch.uint8)).to(torch.uint8)


def edge_counts(edges: Tensor) -> Tensor:
    """Return how many pixels of `edge_map` are edge and how many are known, float32 [2]."""
    return torch.stack([(edges == 1).sum(), (edges != IGNORE).sum()]).float()


def edge_loss(logits: Tensor, edges: Tensor, counts: Tensor | None = None) -> Tensor:
    """Balanced binary cross entropy of an edge detector: edges count by the share of the rest, and the rest by theirs.

    Xie and Tu, "Holistically-Nested Edge Detection" (ICCV 2015), equation 2, over the whole batch.

    Args:
        logits: [N, 1, h, w].
        edges: uint8 [N, H, W], see `edge_map`.
        counts: in place of `edge_counts(edges)`, for example their mean over processes.

    Returns:
        Scalar float32: the sum over the pixels that are not ignored, over their number.
    """
    full = upsample(logits, (edges.shape[-2], edges.shape[-1]))[:, 0]
    positive, known = edges == 1, edges != IGNORE
    edge, count = (edge_counts(edges) if counts is None else counts).unbind()
    count = count.clamp(min=1)
    share = edge / count
    weights = torch.where(positive, 1 - share, share) * known
    target = positive.to(full.dtype)
    return F.binary_cross_entropy_with_logits(full, target, weights, reduction="sum") / count


def at_edges(labels: Tensor, edges: Tensor, threshold: float = 0.8) -> Tensor:
    """Return the labels where an edge is seen, 255 elsewhere: InverseForm's labels for a second cross entropy.

    Args:
        labels: uint8 [N, H, W].
        edges: probability of an edge [N, 1, H, W]. (The authors' code compares the logit with the threshold.)
        threshold: above which it is one.
    """
    return torch.where(edges[:, 0] > threshold, labels, IGNORE)
