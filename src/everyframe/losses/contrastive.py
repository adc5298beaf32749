"""Contrastive loss between the cells of a clip's frames, in memory that grows with the cells and not with their square.

The spatial-temporal loss of the VSPW 2023 winner ("Semantic Segmentation on VSPW Dataset through Contrastive Loss and
Multi-dataset Training Approach", eqs. 1-3), which is the pixel-wise InfoNCE of Wang et al. ("Exploring Cross-Image
Pixel Contrast for Semantic Segmentation", ICCV 2021) over the frames of one video. For an anchor i with positives P(i),
cells of the same class, and negatives N(i), cells of another class,

    s_ij = z_i . z_j / temperature        z: features of length 1
    N_i  = log sum_{j in N(i)} exp(s_ij)
    l_i  = 1 / |P(i)| sum_{p in P(i)} log(1 + exp(N_i - s_ip))

and the loss is the mean of l_i over the anchors that have both. Each positive stands alone against all negatives: the
other positives are not in its denominator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.frames import IGNORE

Positives = Literal["clip", "same-frame", "cross-frame"]
"""Which cells of its class an anchor is drawn to: all of the clip's, those of its own frame, those of other frames."""

STRETCH = 64
"""Terms of the gradient that a CPU sums up at a stretch in float32."""

LOWEST_TEMPERATURE = 0.03
"""At it the largest ratio A_i / e_ip of M cells, M exp(2 / temperature), stays in float32's range up to M = 10^9."""


def contrastive_loss(
    features: Tensor,
    labels: Tensor,
    temperature: float = 0.1,
    positives: Positives = "clip",
    products: torch.dtype | None = None,
    tile: int | None = None,
    dense: bool = False,
    negatives: int = 0,
) -> Tensor:
    """Return the contrastive loss of one clip, exact, with memory O(M C + tile^2) for M labelled cells.

    Without an anchor that has a positive and a negative (all ignored, a single class, no class twice) the loss is 0,
    with a graph and zero gradients.

    Args:
        features: [T, C, h, w], any float type; brought to length 1 and computed in float32 (float64 stays).
        labels: [T, h, w], train ids; `IGNORE` cells take no part.
        temperature: by which products are divided, at least `LOWEST_TEMPERATURE`.
        positives: see `Positives`.
        products: torch.bfloat16 rounds the factors of all products and sums in float32, which is faster on CUDA.
        tile: cells along the side of a tile; None: 1024 on a CPU, where a tile then fits the cache, 4096 elsewhere.
        dense: make all M x M products at once and leave the gradient to autograd: the form that others use, for
            comparison.
        negatives: 0 takes all cells of other classes as negatives; a number draws that many of them uniformly, anew at
            each call and the same ones for all anchors of a class.

    Returns:
        Scalar, float32 (float64).

    Raises:
        InputError: an option is out of range, or the sizes differ.
    """
    _check(features, labels, temperature, positives, tile, negatives)
    frames = torch.arange(len(labels), device=labels.device).view(-1, 1, 1).expand_as(labels)
    taken = labels != IGNORE
    classes, frames = labels[taken].long(), frames[taken]
    order = (classes * len(labels) + frames).argsort(stable=True)  # classes in blocks: most tiles need no mask
    wide = features.dtype if features.dtype == torch.float64 else torch.float32
    z = F.normalize(features.permute(0, 2, 3, 1)[taken][order].to(wide), dim=1)
    pairs = _Pairs.of(classes[order], frames[order], positives, negatives)
    if dense:
        with torch.autocast(z.device.type, enabled=False):  # as in the tiles: the products are float32 by promise
            return _dense(z, pairs, temperature)
    tile = tile or (1024 if z.device.type == "cpu" else 4096)
    value: Tensor = _TiledNCE.apply(z, pairs, temperature, products, tile)
    return value


class _Pairs(NamedTuple):
    """Who is whose positive and negative: of M cells, sorted by class and frame.

    Attributes:
        classes: class of each cell, ascending, int64 [M].
        frames: frame of each cell, int64 [M].
        weight: float64 [M], 1 / (number of valid anchors x number of the anchor's positives); 0 where not valid.
        positives: see `Positives`.
        drawn: cells that were drawn as negatives of each of R classes, bool [R, M]; None: all of other classes.
        rank: row of `drawn` of each cell, int64 [M].
    """

    classes: Tensor
    frames: Tensor
    weight: Tensor
    positives: Positives
    drawn: Tensor | None
    rank: Tensor

    @classmethod
    def of(cls, classes: Tensor, frames: Tensor, positives: Positives, negatives: int = 0) -> _Pairs:
        """Count positives and negatives of each cell from histograms, and draw negatives where not all count."""
        span = int(frames.max()) + 1 if len(frames) else 1
        both = classes * span + frames
        same_class = torch.bincount(classes, minlength=1)[classes]
        same_frame = torch.bincount(both, minlength=1)[both]
        count = {"clip": same_class - 1, "same-frame": same_frame - 1, "cross-frame": same_class - same_frame}
        valid = (count[positives] > 0) & (same_class < len(classes))
        weight = valid.double() / (valid.sum() * count[positives]).clamp_min(1)
        present, rank = classes.unique(return_inverse=True)
        drawn = _draw(present, classes, negatives) if 0 < negatives < len(classes) else None
        return cls(classes, frames, weight, positives, drawn, rank)

    def positive(self, rows: slice, columns: slice) -> Tensor:
        """Whether a row and a column attract each other, bool [rows, columns]."""
        positive = self.classes[rows, None] == self.classes[columns]
        if self.positives != "clip":
            in_frame = self.frames[rows, None] == self.frames[columns]
            positive = positive & (in_frame if self.positives == "same-frame" else ~in_frame)
        if rows == columns and self.positives != "cross-frame":
            positive.fill_diagonal_(False)
        return positive

    def negative(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Whether the columns are negatives of the rows, and the rows of the columns, both bool [rows, columns]."""
        if self.drawn is None:
            other = self.classes[rows, None] != self.classes[columns]
            return other, other
        return self.drawn[self.rank[rows], columns], self.drawn[self.rank[columns], rows].T


def _draw(present: Tensor, classes: Tensor, count: int) -> Tensor:
    """Draw `count` cells of other classes for each class that is there (all, where there are fewer): bool [R, M]."""
    own = present[:, None] == classes
    keys = torch.rand(own.shape, device=classes.device).masked_fill_(own, 2)
    chosen = keys.topk(count, dim=1, largest=False).indices
    return torch.zeros_like(own).scatter_(1, chosen, True) & ~own


def _dense(z: Tensor, pairs: _Pairs, temperature: float) -> Tensor:
    """The formulas above, word by word."""
    if not len(z):
        return z.sum()
    everything = slice(0, len(z))
    scores = z @ z.T / temperature
    lowest = torch.finfo(z.dtype).min
    negatives = scores.masked_fill(~pairs.negative(everything, everything)[0], lowest).logsumexp(1, keepdim=True)
    single = F.softplus(negatives - scores, threshold=80).masked_fill(~pairs.positive(everything, everything), 0)
    return (single.sum(1) * pairs.weight.to(z.dtype)).sum()


class _Tile(NamedTuple):
    """A block of the upper triangle of the M x M pairs; its mirror image is done with it.

    Attributes:
        rows: first index of the pairs.
        columns: second index, at or behind `rows`.
        negative: all pairs are negatives: no mask.
    """

    rows: slice
    columns: slice
    negative: bool

    @property
    def diagonal(self) -> bool:
        """The tile is its own mirror image."""
        return self.rows == self.columns


def _tiles(classes: Tensor, side: int) -> list[_Tile]:
    """Cut the upper triangle; `classes` ascend, so tiles whose ranges of classes do not meet hold negatives only."""
    parts = [slice(start, min(start + side, len(classes))) for start in range(0, len(classes), side)]
    first = classes[[part.start for part in parts]].tolist() if parts else []
    last = classes[[part.stop - 1 for part in parts]].tolist() if parts else []
    return [
        _Tile(parts[i], parts[j], negative=last[i] < first[j]) for i in range(len(parts)) for j in range(i, len(parts))
    ]


class _TiledNCE(torch.autograd.Function):
    """The loss tile by tile, each tile made anew where it is needed.

    With e_ij = exp(s_ij), which lies in float32's range because |z| = 1, and A_i the sum of e_ij over the negatives:
    r_ip = exp(N_i - s_ip) = A_i / e_ip, l_i = mean log(1 + r_ip). The gradient with respect to s is

        G_ip = -w_i r_ip / (1 + r_ip)   (positives)      G_ij = h_i e_ij,  h_i = -sum_p G_ip / A_i   (negatives)

    and z's is (G + G^T) z / temperature. s and e are symmetric, so that a tile serves its mirror image as well: half
    the products, half the exponentials.

    The temperature is shared by the two factors of a product: y = z / sqrt(temperature), s = y . y. Dividing s itself
    would round exponents of 10 and more once again, which is most of the error that float32 leaves in the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, pairs: _Pairs, temperature: float, products: torch.dtype | None, side: int
    ) -> Tensor:
        tiles = _tiles(pairs.classes, side)
        weight = pairs.weight.to(z.dtype)
        y = z * temperature**-0.5
        with torch.autocast(z.device.type, enabled=False):
            negatives = _negative_sums(y, pairs, tiles, products)
            value, pull = _pull(y, pairs, tiles, products, weight, negatives)
        ctx.save_for_backward(y, weight, negatives, pull)
        ctx.rest = pairs, tiles, temperature, products
        return value

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, negatives, pull = ctx.saved_tensors
        pairs, tiles, temperature, products = ctx.rest
        push = pull / negatives.clamp_min(torch.finfo(y.dtype).tiny)
        gradient = torch.zeros_like(y)
        with torch.autocast(y.device.type, enabled=False):
            for tile, e in _exponentials(y, tiles, products):
                rows, columns = tile.rows, tile.columns
                if tile.negative and pairs.drawn is None:
                    slope = push[rows, None] + push[columns]
                else:
                    of_rows, of_columns = pairs.negative(rows, columns)
                    slope = push[rows, None] * of_rows
                    slope += push[columns] * of_columns
                slope.mul_(e)
                if not tile.negative:
                    drawn = _sigmoid(negatives[rows, None], e) * weight[rows, None]
                    drawn += _sigmoid(negatives[columns], e) * weight[columns]
                    slope -= drawn.masked_fill_(~pairs.positive(rows, columns), 0)
                _add_product(gradient[rows], slope, y[columns], products)
                if not tile.diagonal:
                    _add_product(gradient[columns], slope.T, y[rows], products)
        return gradient.mul_(upstream[0] * temperature**-0.5), None, None, None, None


def _exponentials(y: Tensor, tiles: list[_Tile], products: torch.dtype | None) -> Iterator[tuple[_Tile, Tensor]]:
    """Yield each tile with e = exp(s)."""
    for tile in tiles:
        yield tile, _product(y[tile.rows], y[tile.columns].T, products).exp_()


def _negative_sums(y: Tensor, pairs: _Pairs, tiles: list[_Tile], products: torch.dtype | None) -> Tensor:
    """A: the sum of e over the negatives of each cell, [M]."""
    sums = y.new_zeros(len(y))
    for tile, e in _exponentials(y, tiles, products):
        if pairs.drawn is not None:
            of_rows, of_columns = pairs.negative(tile.rows, tile.columns)
            sums[tile.rows] += (e * of_rows).sum(1)
            e.mul_(of_columns)
        else:
            if not tile.negative:
                e.mul_(pairs.negative(tile.rows, tile.columns)[0])
            sums[tile.rows] += e.sum(1)
        if not tile.diagonal:
            sums[tile.columns] += e.sum(0)
    return sums


def _pull(
    y: Tensor, pairs: _Pairs, tiles: list[_Tile], products: torch.dtype | None, weight: Tensor, negatives: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss, and -sum_p G_ip of each cell, [M]; only tiles with a class on both sides are looked at."""
    losses, pull = y.new_zeros(len(y)), y.new_zeros(len(y))
    for tile, e in _exponentials(y, [tile for tile in tiles if not tile.negative], products):
        others = ~pairs.positive(tile.rows, tile.columns)
        sides = [(tile.rows, negatives[tile.rows, None], 1), (tile.columns, negatives[tile.columns], 0)]
        for own, sums, dim in sides[:1] if tile.diagonal else sides:
            losses[own] += (sums / e).log1p_().masked_fill_(others, 0).sum(dim)
            pull[own] += _sigmoid(sums, e).masked_fill_(others, 0).sum(dim)
    return (losses * weight).sum(), pull * weight


def _sigmoid(sums: Tensor, e: Tensor) -> Tensor:
    """Return r / (1 + r) with r = sums / e."""
    return sums / (e + sums)


def _product(a: Tensor, b: Tensor, products: torch.dtype | None) -> Tensor:
    """Return a @ b; with `products` from rounded factors, summed in float32."""
    if products is None or a.dtype == torch.float64:
        return a @ b
    if a.is_cuda:
        return torch.mm(a.to(products), b.to(products), out_dtype=torch.float32)
    return a.to(products).float() @ b.to(products).float()  # a CPU would round the sums as well


def _add_product(total: Tensor, a: Tensor, b: Tensor, products: torch.dtype | None) -> None:
    """Add a @ b to `total`. On a CPU in short sums: one of a thousand terms leaves twice the rounding and more.

    Each sum is made apart: some processors' `addmm` takes every single term into the total.
    """
    if products is not None or a.is_cuda or a.dtype == torch.float64:
        total += _product(a, b, products)
        return
    for left, right in zip(a.split(STRETCH, dim=1), b.split(STRETCH), strict=True):
        total += left @ right


def _check(
    features: Tensor, labels: Tensor, temperature: float, positives: str, tile: int | None, negatives: int
) -> None:
    if features.ndim != 4 or labels.shape != (features.shape[0], *features.shape[2:]):
        raise InputError(
            f"contrastive loss: expected features [T, C, h, w] and labels [T, h, w], came {list(features.shape)} and "
            f"{list(labels.shape)}; bring the labels to the features' size with cell_labels"
        )
    if temperature < LOWEST_TEMPERATURE:
        raise InputError(
            f"contrastive loss: expected a temperature of at least {LOWEST_TEMPERATURE}, came {temperature:g}"
        )
    if positives not in get_args(Positives):
        raise InputError(
            f"contrastive loss: expected positives {', '.join(get_args(Positives))}, came {positives!r}; choose one"
        )
    if tile is not None and tile < 1:
        raise InputError(f"contrastive loss: expected a tile of at least 1 cell, came {tile}")
    if negatives < 0:
        raise InputError(f"contrastive loss: expected 0 negatives (all of them) or more, came {negatives}")
