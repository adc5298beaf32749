"""The endless row of training clips: what stands where in it, and how to start anywhere.

The row is worked out from (groups, seed) alone. Any position can be found without walking there, which is what lets an
interrupted run go on, and R processes share the row by taking every R-th place of it.

- A *group* (a data set, or several joined as one) is gone through pass after pass, each pass shuffled anew.
- With *factors* a clip comes factor times per pass on the average: f(e) = floor(e * factor + phase) times in the first
  e passes, its phase drawn once. So the number of its appearances is never off by more than one, in any run.
- Several groups take turns by the golden-ratio sequence, position * 0.618… mod 1: the group in whose share of [0, 1) it
  falls comes next. Any stretch of the row then has nearly the given shares, and so has any rank's every R-th place,
  because the sequence has no period.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from everyframe.data.dataset import ClipKey
from everyframe.data.sampling import clip_rng

GOLDEN = (5**0.5 - 1) / 2
# Keep these generators apart from those of the clips, whose keys have three parts.
_SHUFFLE, _PHASE = 0x5FFE, 0x9EA5
_BLOCK = 1 << 20


@dataclass(frozen=True)
class ClipGroup:
    """Clips that are gone through together.

    Attributes:
        clips: int64 [C], their positions in the data set.
        share: of the row, relative to the other groups' shares.
        factors: float [C], how often each clip comes per pass on the average; None: once.
    """

    clips: NDArray[np.int64]
    share: float = 1.0
    factors: NDArray[np.float64] | None = None


class ClipOrder:
    """The endless row of clips.

    Args:
        groups: what it is made of; none may be empty, and some factor of each must be above 0.
        seed: of the shuffling.
    """

    def __init__(self, groups: Sequence[ClipGroup], seed: int = 0) -> None:
        self._groups = [_Passes(group, number, seed) for number, group in enumerate(groups)]
        shares = np.array([group.share for group in groups])
        self._ends = np.cumsum(shares / shares.sum())[:-1]

    def keys(self, start: int = 0) -> Iterator[ClipKey]:
        """Yield the row from position `start` on."""
        streams = [group.keys(turns) for group, turns in zip(self._groups, self._turns_before(start), strict=True)]
        if len(streams) == 1:
            yield from streams[0]
        for position in count(start):
            yield next(streams[int(self._turn(position))])

    def _turn(self, position: int | NDArray[np.int64]) -> NDArray[np.intp]:
        """Return which group's turn it is at a position."""
        return np.searchsorted(self._ends, position * GOLDEN % 1.0, side="right")

    def _turns_before(self, start: int) -> list[int]:
        """Return how many of the first `start` places each group has."""
        if len(self._groups) == 1:
            return [start]
        turns = np.zeros(len(self._groups), np.int64)
        for first in range(0, start, _BLOCK):
            positions = np.arange(first, min(first + _BLOCK, start))
            turns += np.bincount(self._turn(positions), minlength=len(turns))
        return [int(n) for n in turns]


class _Passes:
    """The endless row of one group."""

    def __init__(self, group: ClipGroup, number: int, seed: int) -> None:
        self.clips, self.number, self.seed = group.clips, number, seed
        self.factors = np.ones(len(group.clips)) if group.factors is None else group.factors
        whole = group.factors is None
        self.phase = 0.0 if whole else clip_rng(seed, _PHASE, number, 0).random(len(group.clips))

    def keys(self, start: int) -> Iterator[ClipKey]:
        number = self._pass_at(start)
        skip = start - int(self._seen(number).sum())
        while True:
            for key in self._pass(number)[skip:]:
                yield key[0], key[1]
            number, skip = number + 1, 0

    def _seen(self, passes: int) -> NDArray[np.int64]:
        """Return how often each clip has come after some passes."""
        seen: NDArray[np.int64] = np.floor(passes * self.factors + self.phase).astype(np.int64)
        return seen

    def _pass_at(self, position: int) -> int:
        """Return the pass that holds a position."""
        number = int(position / self.factors.sum())  # off by little: the phases
        while self._seen(number).sum() > position:
            number -= 1
        while self._seen(number + 1).sum() <= position:
            number += 1
        return number

    def _pass(self, number: int) -> list[list[int]]:
        """Return one pass: (how often the clip came before, its position in the data set) of each place."""
        before = self._seen(number)
        times = self._seen(number + 1) - before
        which = np.repeat(np.arange(len(times)), times)
        # A clip that comes twice in a pass is drawn anew: its key counts its appearances, not the passes.
        earlier = np.arange(len(which)) - np.repeat(np.cumsum(times) - times, times)
        keys = np.stack([before[which] + earlier, self.clips[which]], 1)
        order = clip_rng(self.seed, _SHUFFLE, self.number, number).permutation(len(which))
        listed: list[list[int]] = keys[order].tolist()
        return listed
