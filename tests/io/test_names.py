from __future__ import annotations

from itertools import permutations

from everyframe.io.names import natural_key


def test_numbers_sort_by_value() -> None:
    names = ["a10", "a2", "b1", "a02b", "A1", "10", "9", ""]
    assert sorted(names, key=natural_key) == ["", "9", "10", "A1", "a02b", "a2", "a10", "b1"]
    names = ["f10", "f2", "f1b", "f1a", "10", "9", "a10b2", "a10b10", "²"]
    assert sorted(names, key=natural_key) == ["9", "10", "a10b2", "a10b10", "f1a", "f1b", "f2", "f10", "²"]


def test_the_order_of_listing_never_shows() -> None:
    for names in permutations(["Shot1", "shot1", "SHOT1", "shot1b"]):
        assert sorted(names, key=natural_key) == ["SHOT1", "Shot1", "shot1", "shot1b"]
