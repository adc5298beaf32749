from __future__ import annotations

import pytest

from everyframe.data.held_out import half_of, seen_note
from everyframe.data.layout import VideoRef
from everyframe.errors import InputError


def videos(*names: str) -> list[VideoRef]:
    return [VideoRef(name, ()) for name in names]


def test_halves_are_stretches_of_the_names_in_order() -> None:
    five = videos("e", "a", "d", "b", "c")
    first, second = half_of(five, "first"), half_of(five, "second")
    assert [video.name for video in first] == ["a", "b", "c"]
    assert [video.name for video in second] == ["d", "e"]
    with pytest.raises(InputError, match="--half first: expected two videos or more to divide, came 1"):
        half_of(videos("a"), "first")


def test_a_choice_on_videos_that_are_scored_is_told() -> None:
    assert seen_note("tau 0.4", ("a", "b"), videos("c", "d")) == ""
    told = seen_note("tau 0.4", ("a", "b"), videos("b", "c"))
    assert told.startswith(
        "tau 0.4 was chosen on 1 of the 2 videos that are scored here: the figures are an upper bound"
    )
