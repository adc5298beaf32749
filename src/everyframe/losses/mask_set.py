"""Set loss of heads that predict a class and a mask per query: bipartite matching, then class, mask and Dice losses.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation" (CVPR 2022), section 3.3, as mmdet,
ViT-Adapter and transformers compute it. Two things are done otherwise, with the same result:

- a mask comes as a query feature and the pixel features whose product it is. Matching needs it at random points only,
  so the pixel features are sampled and then multiplied; whole masks exist for matched queries alone. In training that
  is tens instead of thousands of masks;
- the costs of all images and of all supervised predictions go to the host in one copy.

Targets are label maps: each class present in an image is one mask. Points between cells read them bilinearly, as
published, yet no mask is ever laid out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.losses.mask_points import Draw, point_sample, present_classes, sample_masks

Support = Literal["ignore", "merge", "weigh"]
"""What queries without a mask are told of images whose labels know some of the K classes alone.

"ignore": that they show no object, as everywhere. "merge": that they show no object or a class that the labels do not
know, -log of the sum of those probabilities. "weigh": no object, weighed by the share of the classes that are known.
"""


class Matches(NamedTuple):
    """Which query of which prediction was assigned to which class of its image; M matches, image by image.

    Attributes:
        image: int64 [M], in 0..N-1.
        output: int64 [M], which of the A predictions.
        query: int64 [M], rising within an image's prediction.
        klass: int64 [M].
    """

    image: Tensor
    output: Tensor
    query: Tensor
    klass: Tensor


@dataclass(frozen=True)
class MaskSetLoss:
    """Matching and losses of a set of queries.

    Attributes:
        cost_class: weight of the class probability in the matching.
        cost_mask: weight of the cross entropy of the mask in the matching.
        cost_dice: weight of the Dice loss in the matching.
        no_object: weight of "no object" in the class loss.
        class_weights: factor of each of the K classes in the class loss, or None.
        points: at which masks are compared.
        oversample: candidates for the uncertain points, as a multiple of `points`.
        importance: share of the points that are the most uncertain of the candidates; the others are random.
        respect_ignore: points on ignored pixels do not count. Published training counts them against every mask.
        spare_ignored: a query without a mask is told that it shows no object only as far as its own mask lies on
            labelled pixels: where nobody knows what is there, it may be right. For label maps with large unknown parts.
        support: what queries without a mask are told of images whose labels know some of the classes alone, as those
            of a further data set do: "ignore" that they show no object, "merge" or "weigh" less, see `Support`.
    """

    cost_class: float = 2.0
    cost_mask: float = 5.0
    cost_dice: float = 5.0
    no_object: float = 0.1
    class_weights: Sequence[float] | None = None
    points: int = 12_544
    oversample: float = 3.0
    importance: float = 0.75
    respect_ignore: bool = True
    spare_ignored: bool = False
    support: Support = "ignore"

    def __call__(
        self,
        class_logits: Tensor,
        mask_embeddings: Tensor,
        pixels: Tensor,
        labels: Tensor,
        num_masks: Tensor | float | None = None,
        draw: Draw = torch.rand,
        supported: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of all predictions, each summed over the A predictions, unweighted.

        Args:
            class_logits: [N, A, Q, K + 1]; the last class is "no object".
            mask_embeddings: [N, A, Q, D].
            pixels: [N, D, h, w]; a mask's logits are the products of its embedding with these.
            labels: uint8 [N, H, W], train ids, 255 = ignore. Images without a labelled pixel count for nothing.
            num_masks: divisor of the mask and Dice losses; `count_masks(labels, Q)` when left out. Distributed
                training gives its mean over the processes.
            draw: see `Draw`.
            supported: bool [N, K], the classes that the labels of each image know; needed for a `support`.

        Returns:
            "class": weighted mean cross entropy; "mask": binary cross entropy, mean over points, sum over masks over
            `num_masks`; "dice": 1 - (2 |P.G| + 1) / (|P| + |G| + 1), likewise. Scalars, float32.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            class_logits, mask_embeddings, pixels = class_logits.float(), mask_embeddings.float(), pixels.float()
            classes = present_classes(labels)
            matches = self.match(class_logits, mask_embeddings, pixels, labels, classes, draw)
            if num_masks is None:
                num_masks = float(sum(min(len(found), class_logits.shape[2]) for found in classes))
            divisor = torch.as_tensor(num_masks, device=pixels.device).clamp(min=1)
            mask, dice = self.mask_losses(matches, mask_embeddings, pixels, labels, draw)
            share = self.known_share(mask_embeddings, pixels, labels, draw) if self.spare_ignored else None
            counted = [len(found) > 0 for found in classes]
            return {
                "class": self.class_loss(class_logits, matches, counted, share, supported),
                "mask": mask.sum() / divisor,
                "dice": dice.sum() / divisor,
            }

    @torch.no_grad()
    def match(
        self,
        class_logits: Tensor,
        mask_embeddings: Tensor,
        pixels: Tensor,
        labels: Tensor,
        classes: Sequence[Tensor],
        draw: Draw = torch.rand,
    ) -> Matches:
        """Assign queries to the classes of each image at the lowest total cost, for each of the A predictions.

        Args:
            class_logits: see `__call__`, as all others.
            mask_embeddings: see `__call__`.
            pixels: see `__call__`.
            labels: see `__call__`.
            classes: `present_classes(labels)`.
            draw: see `Draw`; once per image with masks, (1, points, 2): all of its predictions and masks share points.
        """
        n, a, q = class_logits.shape[:3]
        most = max((len(found) for found in classes), default=0)
        costs = class_logits.new_zeros(n, a, q, most)
        for i, found in enumerate(classes):
            if len(found) == 0:
                continue
            points = draw(1, self.points, 2, device=pixels.device)
            masks = mask_embeddings[i] @ point_sample(pixels[i : i + 1], points)[0]  # A Q P
            image = torch.full_like(found, i)
            target, known = sample_masks(labels, image, found, points.expand(len(found), -1, -1))
            weights = known[0].float() if self.respect_ignore else None
            parts = matching_costs(class_logits[i], masks, found, target, weights)
            factors = (self.cost_class, self.cost_mask, self.cost_dice)
            costs[i, :, :, : len(found)] = sum(f * part for f, part in zip(factors, parts, strict=True))
        rows = assign(costs.cpu().numpy(), [len(found) for found in classes])
        index = torch.from_numpy(rows).to(pixels.device)
        klass = [classes[i][target] for i in range(n) for target in [index[index[:, 0] == i, 3]]]
        return Matches(index[:, 0], index[:, 1], index[:, 2], torch.cat(klass) if klass else index[:, 3])

    @torch.no_grad()
    def known_share(self, mask_embeddings: Tensor, pixels: Tensor, labels: Tensor, draw: Draw = torch.rand) -> Tensor:
        """Return which share of each query's mask lies on labelled pixels, [N, A, Q], from random points."""
        points = draw(len(pixels), self.points, 2, device=pixels.device)
        image = torch.arange(len(pixels), device=pixels.device)
        _, known = sample_masks(labels, image, image, points)  # of no class in particular
        masks = (mask_embeddings @ point_sample(pixels, points)[:, None]).sigmoid()  # N A Q P
        inside = (masks @ known[:, None, :, None].to(masks.dtype)).squeeze(-1)
        return inside / masks.sum(-1).clamp(min=torch.finfo(masks.dtype).tiny)

    def class_loss(
        self,
        class_logits: Tensor,
        matches: Matches,
        counted: Sequence[bool],
        share: Tensor | None = None,
        supported: Tensor | None = None,
    ) -> Tensor:
        """Return the weighted mean cross entropy of the classes, summed over predictions; unmatched: "no object".

        Args:
            class_logits: [N, A, Q, K + 1].
            matches: whose classes the matched queries are to predict.
            counted: of each image, whether it has labels.
            share: weight of unmatched queries [N, A, Q], see `known_share`.
            supported: see `__call__`.
        """
        k = class_logits.shape[-1] - 1
        target = torch.full(class_logits.shape[:3], k, device=class_logits.device)
        target[matches.image, matches.output, matches.query] = matches.klass
        weights = torch.ones(k + 1, device=class_logits.device)
        if self.class_weights is not None:
            weights[:k] = torch.tensor(self.class_weights, device=weights.device)
        weights[k] = self.no_object
        weight = weights[target] * torch.tensor(counted, device=weights.device)[:, None, None]
        free = target == k
        if share is not None:
            weight = torch.where(free, weight * share, weight)
        loss = F.cross_entropy(class_logits.flatten(0, 2), target.flatten(), reduction="none").view(target.shape)
        if supported is not None and self.support == "weigh":
            weight = torch.where(free, weight * supported.float().mean(1)[:, None, None], weight)
        if supported is not None and self.support == "merge":
            known = F.pad(supported, (0, 1))[:, None, None]  # N 1 1 K+1; "no object" is what it may be
            rest = class_logits.masked_fill(known, float("-inf")).logsumexp(-1)
            loss = torch.where(free, class_logits.logsumexp(-1) - rest, loss)
        by_output = (loss * weight).sum((0, 2)) / weight.sum((0, 2)).clamp(min=torch.finfo(torch.float32).tiny)
        return by_output.sum()

    def mask_losses(
        self, matches: Matches, mask_embeddings: Tensor, pixels: Tensor, labels: Tensor, draw: Draw = torch.rand
    ) -> tuple[Tensor, Tensor]:
        """Return binary cross entropy and Dice loss of each matched mask, [M] each; see `__call__`."""
        chosen = mask_embeddings[matches.image, matches.output, matches.query]  # M D
        counts = torch.bincount(matches.image, minlength=len(pixels)).tolist()
        masks = torch.cat([e @ x.flatten(1) for e, x in zip(chosen.split(counts), pixels, strict=True)])
        masks = masks.view(-1, 1, *pixels.shape[-2:])
        points = self.hard_points(masks, draw)
        logits = point_sample(masks, points)[:, 0]  # M P
        target, known = sample_masks(labels, matches.image, matches.klass, points)
        return point_losses(logits, target, known.float() if self.respect_ignore else None)

    @torch.no_grad()
    def hard_points(self, masks: Tensor, draw: Draw = torch.rand) -> Tensor:
        """Choose points (x, y) for each mask [M, 1, h, w]: mostly where it is undecided, the rest at random.

        Kirillov et al., "PointRend" (CVPR 2020), section 3.1. Returns [M, points, 2].
        """
        candidates = draw(len(masks), int(self.points * self.oversample), 2, device=masks.device)
        undecided = -point_sample(masks, candidates)[:, 0].abs()
        keep = int(self.points * self.importance)
        best = undecided.topk(keep, dim=1).indices
        hard = candidates.gather(1, best[..., None].expand(-1, -1, 2))
        if keep == self.points:
            return hard
        return torch.cat([hard, draw(len(masks), self.points - keep, 2, device=masks.device)], dim=1)


# -- the parts ---------------------------------------------------------------------------------------------------------


def count_masks(labels: Tensor, queries: int) -> int:
    """Return how many masks of a batch of label maps can be matched by a set of queries."""
    return sum(min(len(found), queries) for found in present_classes(labels))


def matching_costs(
    class_logits: Tensor, masks: Tensor, classes: Tensor, target: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what it would cost to assign each query to each mask: class, cross entropy, Dice; unweighted.

    Args:
        class_logits: [A, Q, K + 1].
        masks: logits at points, [A, Q, P].
        classes: class of each target mask, int64 [G].
        target: target masks at the points, 0..1, [G, P].
        weights: factor of each point [P], or None.

    Returns:
        Three [A, Q, G].
    """
    weights = target.new_ones(target.shape[1]) if weights is None else weights
    total = weights.sum().clamp(min=1)
    weighted = (target * weights).T  # P G
    # -t log p - (1 - t) log(1 - p) = softplus(x) - t x
    entropy = ((F.softplus(masks) @ weights)[..., None] - masks @ weighted) / total
    probability = masks.sigmoid()
    area = (probability @ weights)[..., None] + weighted.sum(0)
    dice = 1 - (2 * (probability @ weighted) + 1) / (area + 1)
    return -class_logits.softmax(-1)[..., classes], entropy, dice


def assign(costs: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Solve the assignment of each image and prediction (Hungarian method).

    Args:
        costs: [N, A, Q, G], padded to the largest number of targets.
        targets: number of targets of each image.

    Returns:
        int64 [M, 4]: image, prediction, query, target; queries rise within an image's prediction.
    """
    from scipy.optimize import linear_sum_assignment

    rows = []
    for i, count in enumerate(targets):
        for j in range(costs.shape[1]):
            # A diverged run has NaN here; it should show in its loss, not end in the solver.
            found = linear_sum_assignment(np.nan_to_num(costs[i, j, :, :count], nan=1e6, posinf=1e6, neginf=-1e6))
            rows.extend((i, j, query, target) for query, target in zip(*found, strict=True))
    return np.array(rows, dtype=np.int64).reshape(-1, 4)


def point_losses(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return binary cross entropy (mean over points) and Dice loss of masks at points.

    Args:
        logits: [M, P].
        target: 0..1, [M, P].
        weights: factor of each point [M, P], or None.

    Returns:
        Two [M].
    """
    weights = torch.ones_like(target) if weights is None else weights
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid() * weights
    target = target * weights
    dice = 1 - (2 * (probability * target).sum(1) + 1) / (probability.sum(1) + target.sum(1) + 1)
    return (entropy * weights).sum(1) / weights.sum(1).clamp(min=1), dice
