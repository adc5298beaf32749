"""What the terms of an objective are given: a batch, what a model made of it, and what was worked out of the two."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.models.segmenter import Prediction

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Outcome:
    """A batch and a model's prediction of it; what several terms need of them is computed once, see `once`.

    It lives as long as one call of an `Objective`, and so does all that it keeps: no graph outlives its step.

    Attributes:
        prediction: of the model.
        clip: the batch.
        step: optimiser steps done before this one, for terms that change over a run; None: not told.
    """

    prediction: Prediction
    clip: Clip
    step: int | None = None
    _kept: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returns, computed by the first who asks for it under this key.

        Terms need not know each other: those that ask for the same thing share a function or an object that makes it,
        and this is its key, with whatever else the result depends on.
        """
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]

    @property
    def logits(self) -> Tensor:
        """Logits of the query frames, [B*Q, K, h, w]."""
        return self.prediction.logits.flatten(0, 1)

    @property
    def labels(self) -> Tensor:
        """Label maps of the query frames, uint8 [B*Q, H, W]."""
        return self.once("labels", lambda: self.clip.query_labels.flatten(0, 1))

    def of_queries(self, x: Tensor) -> Tensor:
        """Pick the query frames of what `Prediction.features` holds for all frames: [B*T, ...] -> [B, Q, ...]."""
        return x.unflatten(0, (-1, len(self.clip.roles)))[:, self.clip.queries]

    def query_pairs(self, name: str) -> list[tuple[Tensor, Tensor]]:
        """Return (earlier, later) of consecutive query frames, uint8 [B, 3, H, W] each, for the term of this name.

        Raises:
            InputError: clips of a single query.
        """
        frames = self.of_queries(self.clip.images.flatten(0, 1)).unbind(1)
        if len(frames) < 2:
            raise InputError(
                f"objective.{name}: expected clips of two query frames or more, came 1; set data.queries: 2"
            )
        return list(pairwise(frames))


Term = Callable[[Outcome], Tensor]
"""One part of the cost of a batch: scalar, differentiable, averaged over the batch (and over the processes)."""
