"""Set loss of heads that predict a class and a mask per query: bipartite matching, then class, mask and Dice losses.

Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation" (CVPR 2022), section 3.3, as mmdet,
ViT-Adapter and transformers compute it. Two things are done otherwise, with the same result:

- a mask comes as a query feature and the pixel features whose product it is. Matching needs it at random points only,
  so the pixel features are sampled and then multiplied; whole masks exist for matched queries alone. In training that
  is tens instead of thousands of masks;
- the host waits for the device once: the costs of all images and of all supervised predictions, and which classes the
  label maps hold, come to it in one copy. Until then nobody needs to know what is there: costs are worked out for all
  K classes, which a matrix product does at no price, and the host looks at those that occur.

Targets are label maps: each class present in an image is one mask. Points between cells read them bilinearly, as
published, yet no mask is ever laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.losses.mask_points import Draw, class_presence, point_sample, sample_masks

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
        counts: matches of each of the N images, on the host: where the lists are cut.
    """

    image: Tensor
    output: Tensor
    query: Tensor
    klass: Tensor
    counts: tuple[int, ...]


def as_it_is(divisors: Tensor) -> Tensor:
    """Return the divisors of a single process."""
    return divisors


@dataclass(frozen=True)
class MaskSetLoss:
    """Matching and losses of a set of queries.

    Attributes:
        cost_class: weight of the class probability in the matching.
        cost_mask: weight of the cross entropy of the mask in the matching.
        cost_dice: weight of the Dice loss in the matching.
        no_object: weight of "no object" in the class loss.
        class_weights: factor of each of the K classes in the class loss, or None.
        weigh_masks: the same factors multiply the losses of the masks matched with the classes.
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
    weigh_masks: bool = False
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
        draw: Draw = torch.rand,
        supported: Tensor | None = None,
        reduce: Callable[[Tensor], Tensor] = as_it_is,
    ) -> dict[str, Tensor]:
        """Return the losses of all predictions, each summed over the A predictions, unweighted.

        Args:
            class_logits: [N, A, Q, K + 1]; the last class is "no object".
            mask_embeddings: [N, A, Q, D].
            pixels: [N, D, h, w]; a mask's logits are the products of its embedding with these.
            labels: uint8 [N, H, W], train ids, 255 = ignore. Images without a labelled pixel count for nothing.
            draw: see `Draw`.
            supported: bool [N, K], the classes that the labels of each image know; needed for a `support`.
            reduce: turns the divisors of this batch, float32 [1 + A], into those of all processes: distributed training
                gives `mean_over_processes`. Called once.

        Returns:
            "class": weighted mean cross entropy; "mask": binary cross entropy, mean over points, sum over masks over
            the number of masks that can be matched, at least 1; "dice": 1 - (2 |P.G| + 1) / (|P| + |G| + 1), likewise.
            Scalars, float32.

        Raises:
            InputError: labels hold train ids that are neither one of the K classes nor 255, or there is not one class
                weight for each class.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            class_logits, mask_embeddings, pixels = class_logits.float(), mask_embeddings.float(), pixels.float()
            presence = class_presence(labels)
            matches = self.match(class_logits, mask_embeddings, pixels, labels, presence, draw)
            mask, dice = self.mask_losses(matches, mask_embeddings, pixels, labels, draw)
            if self.weigh_masks:
                factors = self.target_weights(class_logits.shape[-1] - 1, mask.device)[matches.klass]
                mask, dice = mask * factors, dice * factors
            share = self.known_share(mask_embeddings, pixels, labels, draw) if self.spare_ignored else None
            classes, weights = self.class_losses(class_logits, matches, presence.any(1), share, supported)
            masks = count_masks(presence, class_logits.shape[2])
            divisors = reduce(torch.cat([masks[None], weights.detach()]))
            return {
                "class": (classes / divisors[1:].clamp(min=torch.finfo(torch.float32).tiny)).sum(),
                "mask": mask.sum() / divisors[0].clamp(min=1),
                "dice": dice.sum() / divisors[0].clamp(min=1),
            }

    @torch.no_grad()
    def match(
        self,
        class_logits: Tensor,
        mask_embeddings: Tensor,
        pixels: Tensor,
        labels: Tensor,
        presence: Tensor,
        draw: Draw = torch.rand,
    ) -> Matches:
        """Assign queries to the classes of each image at the lowest total cost, for each of the A predictions.

        Args:
            class_logits: see `__call__`, as all others.
            mask_embeddings: see `__call__`.
            pixels: see `__call__`.
            labels: see `__call__`.
            presence: `class_presence(labels)`.
            draw: see `Draw`; once per image, (1, points, 2): all of its predictions and masks share points.
        """
        n, a, q, k = (*class_logits.shape[:3], class_logits.shape[3] - 1)
        classes = torch.arange(k, device=pixels.device)
        costs = class_logits.new_empty(n, a, q, k)
        for i in range(n):
            points = draw(1, self.points, 2, device=pixels.device)
            masks = mask_embeddings[i] @ point_sample(pixels[i : i + 1], points)[0]  # A Q P
            target, known = sample_masks(labels[i : i + 1], classes.new_zeros(1), classes, points)
            weights = known[0].float() if self.respect_ignore else None
            parts = matching_costs(class_logits[i], masks, classes, target, weights)
            factors = (self.cost_class, self.cost_mask, self.cost_dice)
            costs[i] = sum(f * part for f, part in zip(factors, parts, strict=True))
        # The one copy from the device to the host.
        packed = torch.cat([costs.flatten(1), presence.to(costs.dtype)], dim=1).cpu().numpy()
        held = packed[:, a * q * k :] > 0
        _refuse_unknown(held, k)
        rows = assign(packed[:, : a * q * k].reshape(n, a, q, k), held[:, :k])
        image, output, query, klass = torch.from_numpy(rows).to(pixels.device, non_blocking=True).unbind(1)
        return Matches(image, output, query, klass, tuple(np.bincount(rows[:, 0], minlength=n).tolist()))

    @torch.no_grad()
    def known_share(self, mask_embeddings: Tensor, pixels: Tensor, labels: Tensor, draw: Draw = torch.rand) -> Tensor:
        """Return which share of each query's mask lies on labelled pixels, [N, A, Q], from random points."""
        points = draw(len(pixels), self.points, 2, device=pixels.device)
        image = torch.arange(len(pixels), device=pixels.device)
        _, known = sample_masks(labels, image, image, points)  # of no class in particular
        shares = []
        for own, of_image, at, counts in zip(mask_embeddings, pixels, points, known, strict=True):  # one's masks alive
            masks = (own @ point_sample(of_image[None], at[None])[0]).sigmoid()  # A Q P
            shares.append((masks @ counts.to(masks.dtype)) / masks.sum(-1).clamp(min=torch.finfo(masks.dtype).tiny))
        return torch.stack(shares)

    def class_losses(
        self,
        class_logits: Tensor,
        matches: Matches,
        counted: Tensor,
        share: Tensor | None = None,
        supported: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the summed cross entropies of the classes and their summed weights, [A] each; unmatched: "no object".

        Args:
            class_logits: [N, A, Q, K + 1].
            matches: whose classes the matched queries are to predict.
            counted: bool [N], whether the image has labels.
            share: weight of unmatched queries [N, A, Q], see `known_share`.
            supported: see `__call__`.
        """
        k = class_logits.shape[-1] - 1
        target = torch.full(class_logits.shape[:3], k, device=class_logits.device)
        target[matches.image, matches.output, matches.query] = matches.klass
        weight = self.target_weights(k, class_logits.device)[target] * counted[:, None, None]
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
        return (loss * weight).sum((0, 2)), weight.sum((0, 2))

    def target_weights(self, num_classes: int, device: torch.device) -> Tensor:
        """Return the weight of each of the K classes and of "no object" in the class loss, float32 [K + 1]."""
        of_classes = [1.0] * num_classes if self.class_weights is None else [*self.class_weights]
        if len(of_classes) != num_classes:
            raise InputError(f"set loss: expected {num_classes} class weights, one per class, came {len(of_classes)}")
        return torch.tensor([*of_classes, self.no_object]).to(device, non_blocking=True)

    def mask_losses(
        self, matches: Matches, mask_embeddings: Tensor, pixels: Tensor, labels: Tensor, draw: Draw = torch.rand
    ) -> tuple[Tensor, Tensor]:
        """Return binary cross entropy and Dice loss of each matched mask, [M] each; see `__call__`."""
        chosen = mask_embeddings[matches.image, matches.output, matches.query]  # M D
        parts = zip(chosen.split(matches.counts), pixels, strict=True)
        masks = torch.cat([e @ x.flatten(1) for e, x in parts]).view(-1, 1, *pixels.shape[-2:])
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
        best = undecided.topk(keep, dim=1, sorted=False).indices
        hard = candidates.gather(1, best[..., None].expand(-1, -1, 2))
        if keep == self.points:
            return hard
        return torch.cat([hard, draw(len(masks), self.points - keep, 2, device=masks.device)], dim=1)


# -- the parts ---------------------------------------------------------------------------------------------------------


def count_masks(presence: Tensor, queries: int) -> Tensor:
    """Return how many masks a set of queries can be matched with, from `class_presence`: float32 scalar."""
    return presence.sum(1).clamp(max=queries).sum().float()


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


def assign(costs: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """Solve the assignment of each image and prediction (Hungarian method).

    Args:
        costs: [N, A, Q, K].
        presence: which of the K targets each image has, bool [N, K].

    Returns:
        int64 [M, 4]: image, prediction, query, target; queries rise within an image's prediction.
    """
    from scipy.optimize import linear_sum_assignment

    rows: list[tuple[int, int, int, int]] = []
    for i, held in enumerate(presence):
        targets = np.flatnonzero(held)
        for j in range(costs.shape[1]):
            # A diverged run has NaN here; it should show in its loss, not end in the solver.
            found = linear_sum_assignment(np.nan_to_num(costs[i, j][:, targets], nan=1e6, posinf=1e6, neginf=-1e6))
            rows.extend((i, j, query, targets[chosen]) for query, chosen in zip(*found, strict=True))
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


def _refuse_unknown(presence: np.ndarray, num_classes: int) -> None:
    """Raise InputError for train ids of label maps, bool [N, 255], that are none of the K classes."""
    unknown = np.flatnonzero(presence[:, num_classes:].any(0)) + num_classes
    if len(unknown):
        raise InputError(
            f"set loss: expected label maps of train ids 0..{num_classes - 1} and {IGNORE} (ignore), came "
            f"{', '.join(map(str, unknown[:5]))}; map raw ids to train ids with `LabelSpace`"
        )
