"""The row of training clips: repeats, shares, starting anywhere, shares of ranks."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from everyframe.data.loader import StreamSampler
from everyframe.data.ordering import ClipGroup, ClipOrder


def row(order: ClipOrder, count: int, start: int = 0) -> list[tuple[int, int]]:
    return list(islice(order.keys(start), count))


def repeating(seed: int = 3) -> ClipOrder:
    return ClipOrder([ClipGroup(np.arange(4), factors=np.array([1.0, 2.5, 0.25, 1.0]))], seed)


def shared(seed: int = 3) -> ClipOrder:
    factors = np.array([1.0, 1.7])
    return ClipOrder([ClipGroup(np.arange(5), 0.75), ClipGroup(np.array([7, 9]), 0.25, factors)], seed)


ORDERS = {"repeating": repeating, "shared": shared}


def test_repeats_add_up() -> None:
    """40 passes of 4.75 clips: exactly 40, 100, 10 and 40 appearances, and on the way there never far from it."""
    keys = row(repeating(), 190)
    assert Counter(clip for _, clip in keys) == {0: 40, 1: 100, 2: 10, 3: 40}
    for count in range(1, 190):
        seen = Counter(clip for _, clip in keys[:count])
        for clip, factor in enumerate([1.0, 2.5, 0.25, 1.0]):
            assert abs(seen[clip] - count * factor / 4.75) <= 1 + math.ceil(factor)  # one, and one pass's shuffling
    # Each appearance of a clip is a draw of its own, numbered from 0.
    assert sorted(n for n, clip in keys if clip == 1) == list(range(100))


def test_without_factors_every_pass_holds_every_clip_once() -> None:
    keys = row(ClipOrder([ClipGroup(np.array([3, 5, 8]))], 1), 30)
    for number in range(10):
        assert sorted(keys[3 * number : 3 * number + 3]) == [(number, 3), (number, 5), (number, 8)]
    assert keys == row(ClipOrder([ClipGroup(np.array([3, 5, 8]), factors=np.ones(3))], 1), 30)


def test_fractions_depend_on_the_seed_alone() -> None:
    assert row(repeating(3), 50) == row(repeating(3), 50)
    assert row(repeating(3), 50) != row(repeating(4), 50)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("start", [0, 1, 5, 48, 333])
def test_the_row_can_be_entered_anywhere(name: str, start: int) -> None:
    assert row(ORDERS[name](), 40, start) == row(ORDERS[name](), start + 40)[start:]


@pytest.mark.parametrize("name", ORDERS)
def test_two_ranks_see_what_one_sees(name: str) -> None:
    whole = list(StreamSampler(5, 60, 3, order=ORDERS[name]()))
    shares = [list(StreamSampler(5, 30, 3, rank, 2, order=ORDERS[name]())) for rank in range(2)]
    assert [key for step in zip(*shares, strict=True) for key in step] == whole
    resumed = [list(StreamSampler(5, 10, 3, rank, 2, 40, ORDERS[name]())) for rank in range(2)]
    assert resumed == [share[20:] for share in shares]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_shares_hold_in_every_stretch_and_on_every_rank(share: float) -> None:
    order = ClipOrder([ClipGroup(np.arange(50), 1 - share), ClipGroup(np.arange(50, 57), share)])
    second = np.array([clip >= 50 for _, clip in row(order, 4000)])
    assert abs(second.mean() - share) < 0.001
    for length in (8, 40, 400):
        sums = np.convolve(second, np.ones(length), "valid")
        assert abs(sums - length * share).max() <= 2
    for ranks in (2, 3, 4, 8):
        own = [second[rank::ranks] for rank in range(ranks)]
        assert max(abs(part.sum() - len(part) * share) for part in own) <= 8
    # Each data set is gone through in whole passes of its own.
    own = [key for key in row(order, 4000) if key[1] >= 50]
    assert all(sorted(clip for _, clip in own[i : i + 7]) == list(range(50, 57)) for i in range(0, len(own) - 7, 7))


def test_three_groups() -> None:
    order = ClipOrder([ClipGroup(np.array([g]), share) for g, share in enumerate((2.0, 1.0, 1.0))])
    seen = Counter(clip for _, clip in row(order, 400))
    assert all(abs(seen[g] - count) <= 2 for g, count in enumerate((200, 100, 100)))
