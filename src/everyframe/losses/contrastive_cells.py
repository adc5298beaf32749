"""Which cells of a clip the contrastive loss compares, and their labels: centres, majorities, drawn anchors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.frames import IGNORE


def cell_labels(labels: Tensor, size: tuple[int, int], purity: float | None = None) -> Tensor:
    """Bring label maps to the cells of a feature map.

    Args:
        labels: uint8 [N, H, W], train ids and `IGNORE`.
        size: (h, w) of the features.
        purity: None takes the pixel at each cell's centre; a number in 0..1 takes the most frequent class of the cell
            (the lowest of equals) where its share of the cell's pixels is at least that, and ignores the other cells.

    Returns:
        uint8 [N, h, w].
    """
    if tuple(labels.shape[-2:]) == tuple(size):
        return labels
    if purity is None:
        return F.interpolate(labels[:, None], size, mode="nearest-exact")[:, 0]
    winner = torch.full((len(labels), *size), IGNORE, dtype=labels.dtype, device=labels.device)
    share = torch.zeros(winner.shape, device=labels.device)
    for k in labels.unique().tolist():
        if k != IGNORE:
            own = F.adaptive_avg_pool2d((labels == k).float(), size)
            better = (own > share) & (own >= purity)
            winner[better] = k
            share = torch.maximum(own, share)
    return winner


def sample_anchors(labels: Tensor, predicted: Tensor | None = None, most: int = 1024, per_class: int = 100) -> Tensor:
    """Draw the cells that take part, as many of each class, and half of them where the model is wrong.

    The hard anchor sampling of Wang et al. ("Exploring Cross-Image Pixel Contrast for Semantic Segmentation", ICCV
    2021, and its code): the cells that are drawn are contrasted with each other, and no others. A class with fewer
    cells than its share gives all it has; where there are too few wrong (or right) cells, the others fill up.

    Args:
        labels: uint8 [N, h, w], labels of the cells of one clip, `cell_labels`.
        predicted: the model's own labels of the cells, int64 [N, h, w], -1 where it says nothing; None: nowhere, then
            all cells of a class are alike.
        most: cells of all classes together, at most.
        per_class: cells of one class, at most.

    Returns:
        uint8 [N, h, w], `labels` with `IGNORE` in the cells that were not drawn.
    """
    flat = labels.flatten()
    wrong = torch.zeros_like(flat, dtype=torch.bool)
    if predicted is not None:
        wrong = (predicted.flatten() != flat) & (predicted.flatten() >= 0)
    classes = [k for k in flat.unique().tolist() if k != IGNORE]
    share = min(per_class, most // max(len(classes), 1))
    kept = torch.full_like(flat, IGNORE)
    for k in classes:
        own = flat == k
        hard, easy = (own & wrong).nonzero().squeeze(1), (own & ~wrong).nonzero().squeeze(1)
        of_hard = min(len(hard), max(share - share // 2, share - len(easy)))
        of_easy = min(len(easy), share - of_hard)
        for cells, count in ((hard, of_hard), (easy, of_easy)):
            kept[cells[torch.randperm(len(cells), device=cells.device)[:count]]] = k
    return kept.view_as(labels)
