"""Losses that compare logits with a label map pixel by pixel: cross entropy, OHEM, Dice, Lovász.

Rules that hold for all of them:

- logits [N, K, h, w] of any resolution and float type; labels uint8 [N, H, W], train ids, 255 = ignore;
- logits are upsampled (bilinear, `align_corners=False`) to the labels' size *before* the softmax. Interpolating
  log-probabilities instead gives something that is no distribution;
- computed in float32 whatever autocast says;
- an ignored pixel has zero gradient; when every pixel is ignored the loss is exactly 0 and the gradient exactly zero,
  so a batch without labels neither stops a run nor leaves a rank of a distributed run without a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from everyframe.errors import InputError
from everyframe.frames import IGNORE

Average = Literal["labelled", "pixels"]
"""Divisor of a mean over pixels: the labelled ones, or all of them (mmsegmentation's default)."""

SMALL = 2**20
"""Upsampled logits, in numbers, of images that are taken together: one by one, calls would cost more than sums."""


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return float32 logits [N, K, H, W] at `size`; bilinear, `align_corners=False`.

    On a CPU as two matrix products, of rows and of columns: `F.interpolate` has a slow backward there. Where a logit is
    not finite it would spread over its row and column, so that case stays with `F.interpolate`.
    """
    logits = logits.float()
    if logits.shape[-2:] == torch.Size(size):
        return logits
    if logits.device.type != "cpu" or not logits.isfinite().all():
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    sides = zip(logits.shape[-2:], size, strict=True)
    rows, columns = (_interpolation(old, new, logits.device) for old, new in sides)
    with torch.autocast("cpu", enabled=False):
        return rows @ (logits @ columns.mT)


def _interpolation(old: int, new: int, device: torch.device) -> Tensor:
    """Return the matrix [new, old] that resizes `old` values to `new` ones linearly."""
    kept = torch.eye(old, dtype=torch.float32, device=device)[None]
    return F.interpolate(kept, size=new, mode="linear", align_corners=False)[0].mT.contiguous()


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    average: Average = "labelled",
    divisor: Tensor | None = None,
) -> Tensor:
    """Weighted mean of -log softmax(logits)[label] over pixels.

    The upsampled logits of a batch are the largest tensor of a training step (K x H x W floats per image, several
    times over in autograd). Here they exist for one image at a time (small ones go in groups, see `SMALL`): its
    gradient is computed in the forward pass and kept at the size of `logits`.

    Args:
        logits: [N, K, h, w].
        labels: uint8 [N, H, W].
        class_weights: [K], a factor for the pixels of each class.
        pixel_weights: [N, H, W], a factor for each pixel, for example `ohem_weights`; it scales a pixel's loss and,
            with `average="labelled"`, its share of the divisor.
        average: "labelled" divides by the summed weights of the labelled pixels. "pixels" divides by the number of
            all pixels, ignored ones included (with `class_weights`: by the summed class weights of the labelled ones),
            which is what mmsegmentation's `CrossEntropyLoss` does by default.
        divisor: a given divisor in place of the one that `average` names, for example one summed over processes.

    Returns:
        Scalar float32.

    Raises:
        InputError: not one class weight for each of the K classes.
    """
    if class_weights is not None and len(class_weights) != logits.shape[1]:
        raise InputError(
            f"cross entropy: expected {logits.shape[1]} class weights, one per class, came {len(class_weights)}"
        )
    weights = labelled_weights(labels, class_weights, None if average == "pixels" else pixel_weights)
    if divisor is None:
        by_pixels = average == "pixels" and class_weights is None
        divisor = weights.new_full((), labels.numel()) if by_pixels else weights.sum()
    if average == "pixels" and pixel_weights is not None:
        weights = weights * pixel_weights

    def summed_loss(images: Tensor, at: Tensor) -> Tensor:
        full = upsample(images, (labels.shape[-2], labels.shape[-1]))
        return (F.cross_entropy(full, labels[at].long(), ignore_index=IGNORE, reduction="none") * weights[at]).sum()

    used = (weights != 0).flatten(1).any(1).tolist()
    together = max(1, SMALL // (logits.shape[1] * labels[0].numel()))
    return sum_over_images(logits, summed_loss, used, together) / divisor.clamp(min=torch.finfo(torch.float32).tiny)


def frequency_weights(counts: Tensor, total: Tensor | None = None, bound: float = 1.0, inverse: bool = False) -> Tensor:
    """Return class weights that favour the classes that are rare in a batch (Zhu et al., CVPR 2019; their code's form).

    Args:
        counts: pixels of each class, [K].
        total: what shares are shares of; the sum of the counts when left out.
        bound: u: a class of share f weighs 1 + u (1 - f).
        inverse: 1 + u / f instead.

    Returns:
        float32 [K]; a class without pixels weighs 1.
    """
    counts = counts.float()
    share = counts / (counts.sum() if total is None else total).clamp(min=1)
    more = 1 / share.clamp(min=torch.finfo(torch.float32).tiny) if inverse else 1 - share
    return 1 + bound * torch.where(counts > 0, more, 0.0)


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Return how many pixels of uint8 labels [N, H, W] each class has: int64 [K]."""
    return torch.bincount(labels.flatten().long(), minlength=IGNORE + 1)[:num_classes]


def labelled_weights(
    labels: Tensor, class_weights: Tensor | None = None, pixel_weights: Tensor | None = None
) -> Tensor:
    """Return the weight of each pixel, float32 [N, H, W]: 0 where ignored, else class weight times pixel weight.

    Its sum is the divisor of `cross_entropy(..., average="labelled")`.
    """
    weights = (labels != IGNORE).float()
    if class_weights is not None:
        table = torch.zeros(IGNORE + 1, device=labels.device)
        table[: len(class_weights)] = class_weights.to(labels.device)
        weights = table[labels.long()]
    return weights if pixel_weights is None else weights * pixel_weights


@torch.no_grad()
def ohem_weights(logits: Tensor, labels: Tensor, threshold: float | None = 0.7, min_kept: int = 100_000) -> Tensor:
    """Choose the hard pixels: online hard example mining, as mmsegmentation's `OHEMPixelSampler` does.

    Kept are the pixels whose probability of the true class is below `threshold`, and at least about
    `min_kept` pixels per image (counted over the batch) even when fewer are that hard. Without a threshold, the
    `min_kept` pixels per image of the largest loss.

    Args:
        logits: [N, K, h, w].
        labels: uint8 [N, H, W].
        threshold: probability in 0..1, or None.
        min_kept: pixels per image.

    Returns:
        float32 [N, H, W], 1 for pixels to keep: `pixel_weights` of `cross_entropy`.
    """
    probability = _of_true_class(logits, labels)
    count = int((labels != IGNORE).sum())
    kept = min_kept * len(labels)
    if count == 0:
        return torch.zeros_like(probability)
    if threshold is None:
        return _least(probability, min(kept, count))
    # The (kept + 1)-th smallest probability: raises the threshold until `kept` pixels lie below it.
    lowest = probability.flatten().kthvalue(min(kept, count - 1) + 1).values
    return (probability < lowest.clamp(min=threshold)).float()


@torch.no_grad()
def top_k_weights(logits: Tensor, labels: Tensor, share: float = 0.2) -> Tensor:
    """Choose the labelled pixels of the largest loss: bootstrapped cross entropy (Yang et al., DeeperLab, 2019).

    Where every pixel is labelled the mean over the chosen ones is the loss of Panoptic-DeepLab. Its code takes the
    share of all pixels, ignored ones too; here it is one of the labelled pixels. Class weights have no say in it.

    Args:
        logits: [N, K, h, w].
        labels: uint8 [N, H, W].
        share: of the batch's labelled pixels that are kept, rounded down, but one at least; in distributed training
            of those of each process by itself.

    Returns:
        float32 [N, H, W], 1 for pixels to keep: `pixel_weights` of `cross_entropy`.
    """
    count = int((labels != IGNORE).sum())
    return _least(_of_true_class(logits, labels), min(count, max(1, int(share * count))))


def _of_true_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the probability of each pixel's true class, float32 [N, H, W]; infinity where it is ignored."""
    size = (labels.shape[-2], labels.shape[-1])
    valid = labels != IGNORE
    probability = torch.full(labels.shape, torch.inf, device=labels.device)
    for n in range(len(labels)):  # one image at a time: see `cross_entropy`
        target = torch.where(valid[n], labels[n], 0).long()[None, None]
        true = upsample(logits[n : n + 1], size).log_softmax(1).gather(1, target)[0, 0].exp()
        probability[n] = torch.where(valid[n], true, torch.inf)
    return probability


def _least(values: Tensor, count: int) -> Tensor:
    """Return 1 where the `count` smallest values [N, H, W] stand, 0 elsewhere: float32."""
    chosen = torch.zeros(values.numel(), device=values.device)
    chosen[values.flatten().topk(count, largest=False).indices] = 1.0
    return chosen.view(values.shape)


def dice(logits: Tensor, labels: Tensor, classes: Literal["present", "all"] = "present", smooth: float = 1.0) -> Tensor:
    """Soft Dice loss over the batch: the mean over classes of 1 - (2 |P.G| + s) / (|P| + |G| + s).

    P is the softmax probability, G the one-hot label map, both only over labelled pixels (Milletari et al., V-Net,
    2016, in the first-power form).

    Args:
        logits: [N, K, h, w].
        labels: uint8 [N, H, W].
        classes: average over the classes that occur in `labels`, or over all K.
        smooth: s, in pixels.

    Returns:
        Scalar float32 in 0..1.
    """
    return dice_of(labelled_pixels(logits, labels), classes, smooth)


def dice_of(pixels: LabelledPixels, classes: Literal["present", "all"] = "present", smooth: float = 1.0) -> Tensor:
    """See `dice`; of pixels that other losses look at too."""
    probabilities, target = pixels
    k = probabilities.shape[1]
    overlap = torch.zeros(k, device=target.device).index_add(
        0, target, probabilities.gather(1, target[:, None]).squeeze(1)
    )
    area = torch.bincount(target, minlength=k)
    losses = 1 - (2 * overlap + smooth) / (probabilities.sum(0) + area + smooth)
    counted = area > 0 if classes == "present" else torch.full_like(area, len(target)) > 0
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp(min=1)


def lovasz(logits: Tensor, labels: Tensor, classes: Literal["present", "all"] = "present") -> Tensor:
    """Lovász-softmax loss over the batch: the convex surrogate of 1 - IoU, averaged over classes.

    For each class the errors |G - P| are sorted in falling order and weighted by the steps of the Jaccard loss along
    that order (Berman et al., CVPR 2018, eq. 8 and 11). Sorts all labelled pixels once per class.

    Args:
        logits: [N, K, h, w].
        labels: uint8 [N, H, W].
        classes: average over the classes that occur in `labels`, or over all K.

    Returns:
        Scalar float32.
    """
    return lovasz_of(labelled_pixels(logits, labels), classes)


def lovasz_of(pixels: LabelledPixels, classes: Literal["present", "all"] = "present") -> Tensor:
    """See `lovasz`; of pixels that other losses look at too."""
    probabilities, target = pixels
    losses = []
    for k in range(probabilities.shape[1]):
        truth = (target == k).float()
        if len(target) == 0 or (classes == "present" and not truth.any()):
            continue
        errors, order = (truth - probabilities[:, k]).abs().sort(descending=True)
        hits = truth[order]
        # Jaccard loss when the pixels up to here are wrong, then its increments.
        intersection = hits.sum() - hits.cumsum(0)
        union = hits.sum() + (1 - hits).cumsum(0)
        jaccard = 1 - intersection / union
        # A product and a sum: autocast would run `@` in half precision.
        losses.append((errors * jaccard.diff(prepend=jaccard.new_zeros(1))).sum())
    return torch.stack(losses).mean() if losses else probabilities.sum()  # the sum of nothing: 0 with a graph


class LabelledPixels(NamedTuple):
    """The P labelled pixels of a batch.

    Attributes:
        probabilities: of the classes, float32 [P, K].
        target: train ids, int64 [P].
    """

    probabilities: Tensor
    target: Tensor


def labelled_pixels(logits: Tensor, labels: Tensor) -> LabelledPixels:
    """Pick the labelled pixels of logits [N, K, h, w], upsampled, and of labels uint8 [N, H, W]."""
    full = upsample(logits, (labels.shape[-2], labels.shape[-1]))
    valid = labels != IGNORE
    return LabelledPixels(full.permute(0, 2, 3, 1)[valid].softmax(1), labels[valid].long())


def sum_over_images(
    logits: Tensor, loss: Callable[[Tensor, Tensor], Tensor], used: list[bool], together: int = 1
) -> Tensor:
    """Sum a loss over the images of a batch with only a few images' intermediate tensors alive.

    Args:
        logits: [N, K, h, w].
        loss: (float32 logits [M, K, h, w] of some images, their numbers int64 [M]) -> scalar; its gradient is taken at
            once.
        used: [N], which images count; the others get a gradient of zeros.
        together: most images M of a call.

    Returns:
        Scalar float32.
    """
    counted = torch.tensor([n for n, counts in enumerate(used) if counts], dtype=torch.long)
    counted = counted.to(logits.device, non_blocking=True)  # (with a device above, the host would wait for it)
    total: Tensor = _SumOverImages.apply(logits, loss, counted.split(together))
    return total


class _SumOverImages(torch.autograd.Function):
    """See `sum_over_images`; `groups` are the numbers of the images of each call."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, loss: Callable[[Tensor, Tensor], Tensor], groups: tuple[Tensor, ...]
    ) -> Tensor:
        """Sum, and keep the gradient at the size of `logits`."""
        gradient = torch.zeros_like(logits, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        total = torch.zeros((), device=logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            for at in (group for group in groups if len(group)):
                images = logits[at].detach().float().requires_grad_(gradient is not None)
                with torch.set_grad_enabled(gradient is not None):
                    value = loss(images, at)
                if gradient is not None:
                    gradient[at] = torch.autograd.grad(value, images)[0]
                total += value.detach()
        ctx.gradient, ctx.dtype = gradient, logits.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        """Scale the gradient kept by `forward`."""
        return (ctx.gradient * upstream).to(ctx.dtype), None, None
