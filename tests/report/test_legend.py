from __future__ import annotations

import numpy as np
import pytest

from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace
from everyframe.report.legend import LARGEST_SHARE, Legend

SPACE = LabelSpace(("road", "car"), palette=((200, 0, 100), (0, 255, 0)))
MANY = LabelSpace(tuple(f"class number {i} with a long name" for i in range(124)))
SIZES = [(1, 1), (48, 64), (47, 63), (480, 853), (640, 360)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", ["auto", "bottom", "right"])
@pytest.mark.parametrize("space", [SPACE, MANY])
def test_a_strip_hides_nothing_and_keeps_its_size(size: tuple[int, int], place: str, space: LabelSpace) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    legend = Legend(space.names, space.palette, size, place)
    for present in (0, 1, len(space)):  # no class at all, one, all
        labels = (
            np.resize(np.arange(max(1, present), dtype=np.uint8), size) if present else np.full(size, IGNORE, np.uint8)
        )
        drawn = legend.draw(image, labels)
        assert drawn.shape == (*legend.size, 3)
        assert np.array_equal(drawn[: size[0], : size[1]], image)
    if legend.place == "bottom" and size[0] >= 360:
        assert legend.size[0] <= (1 + LARGEST_SHARE) * size[0] + 20


@pytest.mark.parametrize("size", SIZES)
def test_inside_covers_a_quarter_at_most(size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    legend = Legend(MANY.names, MANY.palette, size, "inside")
    labels = np.resize(np.arange(124, dtype=np.uint8), size)
    drawn = legend.draw(image, labels)
    assert drawn.shape == image.shape
    assert (drawn.any(2).mean()) <= LARGEST_SHARE


def test_all_classes_stand_still_where_there_is_room_for_them() -> None:
    size = (120, 400)
    legend = Legend(SPACE.names, SPACE.palette, size, "bottom")
    image = np.zeros((*size, 3), np.uint8)
    strips = [legend.draw(image, np.full(size, present, np.uint8))[size[0] :] for present in (0, 1, IGNORE)]
    assert all((strips[0].reshape(-1, 3) == color).all(1).sum() > 30 for color in SPACE.palette)
    assert np.array_equal(strips[0], strips[1])
    assert np.array_equal(strips[0], strips[2])


def test_a_class_that_stays_does_not_move_when_others_come_and_go() -> None:
    size = (100, 320)
    legend = Legend(MANY.names, MANY.palette, size, "bottom")
    image, slots = np.zeros((*size, 3), np.uint8), []

    def places(*present: int) -> dict[int, tuple[int, int]]:
        """Where the colour of each class is first seen in the strip."""
        labels = np.resize(np.array(present, np.uint8), size)
        strip = legend.draw(image, labels, slots)[size[0] :]
        seen = {i: np.argwhere((strip == MANY.palette[i]).all(-1)) for i in range(len(MANY))}
        return {i: tuple(at[0].tolist()) for i, at in seen.items() if len(at) > 20}

    first = places(3, 7, 9)
    assert set(first) == {3, 7, 9}
    second = places(1, 3, 9)  # 7 went, 1 came: into its place
    assert (second[3], second[9], second[1]) == (first[3], first[9], first[7])
    third = places(9)
    assert third == {9: first[9]}
    crowded = places(*range(60))  # those that are left out are counted in the last place
    assert 9 not in crowded or crowded[9] == first[9]


def test_the_largest_classes_stay_when_there_is_no_room() -> None:
    size = (100, 320)
    labels = np.zeros(size, np.uint8)
    labels[:, 200:] = 1
    labels[0, :124] = np.arange(124)  # one pixel of each other class
    legend = Legend(MANY.names, MANY.palette, size, "bottom")
    strip = legend.draw(np.zeros((*size, 3), np.uint8), labels)[size[0] :].reshape(-1, 3)
    shown = [i for i, color in enumerate(MANY.palette) if (strip == color).all(1).sum() > 20]
    assert {0, 1} <= set(shown)
    assert len(shown) < 20


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="Legend: expected 4x6"):
        Legend(SPACE.names, SPACE.palette, (4, 6)).draw(np.zeros((5, 6, 3), np.uint8), np.zeros((4, 6), np.uint8))
