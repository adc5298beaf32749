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


def test_only_present_classes_are_named() -> None:
    size = (120, 400)
    legend = Legend(SPACE.names, SPACE.palette, size, "bottom")
    image = np.zeros((*size, 3), np.uint8)
    for present, absent in ((0, 1), (1, 0)):
        strip = legend.draw(image, np.full(size, present, np.uint8))[size[0] :].reshape(-1, 3)
        assert (strip == SPACE.palette[present]).all(1).sum() > 30
        assert not (strip == SPACE.palette[absent]).all(1).any()


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
