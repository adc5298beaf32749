"""Category prototypes: what each class looks like across the whole training set (SSLTM's global category context)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from everyframe.models.ops.precision import without_autocast

UPDATES = ("mse", "ema")


class CategoryPrototypes(nn.Module):
    """P prototypes for each of K classes in the space of the head's pixels.

    A class's mean over a labelled frame moves its nearest prototype: by a squared-error loss that trains the
    prototypes as parameters ("mse", the better one in the paper's Fig. 1), or by a moving average ("ema"). The first
    means of a class fill its empty slots, so no prototype starts from noise; empty slots are never attended to.

    Args:
        num_classes: K.
        channels: D.
        per_class: P.
        update: "mse" or "ema".
        momentum: share of the old value that "ema" keeps.
        least_pixels: cells a class must cover for its mean to count.
        reseed: a prototype that was the nearest to none of its class's means for this many updates in which the class
            was seen gives its slot to the next mean; 0 keeps them for ever. (A mean that fell far from all others can
            hold a slot that nothing comes near to again.)
    """

    prototypes: Tensor
    filled: Tensor
    usage: Tensor
    idle: Tensor | None

    copied_by_teacher = True
    """A moving average of weights must not blend a slot with the zeros it held before it was filled."""
    led_by = "prototypes"
    """Which slots are filled says nothing about other prototypes: see `everyframe.models.state.what_fits`."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        per_class: int = 3,
        update: str = "mse",
        momentum: float = 0.99,
        least_pixels: int = 4,
        reseed: int = 0,
    ) -> None:
        super().__init__()
        if update not in UPDATES:
            raise ValueError(f"CategoryPrototypes: expected update 'mse' or 'ema', came {update!r}")
        if not 0 <= momentum < 1 or least_pixels < 1:
            raise ValueError(
                f"CategoryPrototypes: expected a momentum from 0 up to but not 1, and 1 or more pixels, came "
                f"{momentum:g} and {least_pixels}"
            )
        self.update_rule = update
        self.momentum = momentum
        if reseed < 0:
            raise ValueError(f"CategoryPrototypes: expected reseed of 0 or more updates, came {reseed}")
        self.least_pixels = least_pixels
        self.reseed = reseed
        zeros = torch.zeros(num_classes, per_class, channels)
        # A parameter either way, so that both rules save and count alike; "ema" moves it without a gradient.
        self.prototypes = nn.Parameter(zeros, requires_grad=update == "mse")
        self.register_buffer("filled", torch.zeros(num_classes, per_class, dtype=torch.bool))
        self.register_buffer("usage", torch.zeros(num_classes, per_class, dtype=torch.long))
        # Updates that saw the class since a slot was last hit; models without the option have no such buffer.
        self.register_buffer("idle", torch.zeros(num_classes, per_class, dtype=torch.long) if reseed else None)

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Return the prototypes as contexts [K * P, D] and a mask bool [K * P] of those that are filled."""
        return self.prototypes.flatten(0, 1), self.filled.flatten()

    def class_means(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Average the pixels of each class of each frame.

        Args:
            pixels: [N, D, h, w].
            labels: uint8 [N, H, W] train ids; taken at the centre of each cell.

        Returns:
            means [N, K, D], and bool [N, K]: the class covers at least `least_pixels` cells of the frame.
        """
        k = len(self.filled)
        cells = F.interpolate(labels[:, None].float(), pixels.shape[-2:], mode="nearest-exact")[:, 0].long()
        classes = torch.arange(k, device=cells.device)  # (`one_hot` looks for IGNORE and waits for the device)
        one_hot = (cells[..., None] == classes).flatten(1, 2).to(pixels.dtype)  # N hw K
        counts = one_hot.sum(1)  # N K
        sums = one_hot.transpose(1, 2) @ pixels.flatten(2).transpose(1, 2)  # N K D
        return sums / counts.clamp(min=1)[..., None], counts >= self.least_pixels

    def nearest(self, means: Tensor) -> Tensor:
        """Return for each mean [N, K, D] the slot of its class that is nearest among the filled ones: int64 [N, K]."""
        distance = (means[:, :, None] - self.prototypes.detach()).square().sum(-1)  # N K P
        return distance.masked_fill(~self.filled, float("inf")).argmin(-1)

    def observe(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Take in labelled frames: fill empty slots, move the nearest prototypes; return the loss that moves them.

        Args:
            pixels: [N, D, h, w], before any temporal module changed them; no gradient flows into them.
            labels: uint8 [N, H, W].

        Returns:
            Mean over the (frame, class) pairs seen of |G - mean|^2 / D for "mse"; 0 for "ema".
        """
        # Means and distances in float32 whatever autocast says: they are sums over thousands of cells.
        with without_autocast(pixels):
            return self._learn(*self.class_means(pixels.detach().float(), labels))

    def _learn(self, means: Tensor, seen: Tensor) -> Tensor:
        """Do what `observe` says with the means of each frame's classes."""
        means, seen = _from_all_ranks(means), _from_all_ranks(seen)
        with torch.no_grad():
            self._free(seen)
            self._fill(means, seen)
        slots = self.nearest(means)
        numbers = torch.arange(self.filled.shape[1], device=slots.device)
        hits = (slots[..., None] == numbers) & (seen & self.filled.any(1))[..., None]  # N K P
        self.usage += hits.sum(0)
        if self.idle is not None:
            self.idle += seen.any(0)[:, None]
            self.idle.masked_fill_(hits.any(0), 0)
        if self.update_rule == "ema":
            with torch.no_grad():
                self._average(means, hits)
            return means.new_zeros(())
        chosen = self.prototypes[torch.arange(means.shape[1], device=means.device), slots]  # N K D
        errors = (chosen - means).square().mean(-1) * hits.sum(-1)
        return errors.sum() / hits.sum().clamp(min=1)

    def _free(self, seen: Tensor) -> None:
        """Let go of slots that were idle too long, of classes whose means are there to fill them."""
        if self.idle is not None:
            dead = self.filled & (self.idle >= self.reseed) & seen.any(0)[:, None]
            self.filled &= ~dead
            self.idle.masked_fill_(dead, 0)

    def _fill(self, means: Tensor, seen: Tensor) -> None:
        """Put the means of classes with an empty slot into it, frame by frame, unless another slot holds the same."""
        for mean, present in zip(means.to(self.prototypes.dtype), seen, strict=True):
            free = ~self.filled  # K P
            known = ((self.prototypes == mean[:, None]).all(-1) & self.filled).any(1)
            slot = free & (free.cumsum(1) == 1) & (present & ~known)[:, None]
            self.prototypes.data.copy_(mean[:, None].where(slot[..., None], self.prototypes))
            self.filled |= slot

    def _average(self, means: Tensor, hits: Tensor) -> None:
        """Move each prototype that was hit towards the mean of its hits."""
        counts = hits.sum(0)  # K P
        targets = torch.einsum("nkp,nkd->kpd", hits.to(means.dtype), means) / counts.clamp(min=1)[..., None]
        moved = self.momentum * self.prototypes + (1 - self.momentum) * targets
        self.prototypes.data = torch.where((counts > 0)[..., None], moved, self.prototypes).to(self.prototypes.dtype)


def _from_all_ranks(x: Tensor) -> Tensor:
    """Join a tensor [N, ...] of all processes, in rank order, so that every process makes the same update."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)
