from __future__ import annotations

import numpy as np
import pytest
import torch

from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace
from everyframe.report.overlay import overlay, overlay_with_legend, side_by_side

SPACE = LabelSpace(("road", "car"), palette=((200, 0, 100), (0, 255, 0)))


def test_blend_by_hand() -> None:
    """(1 - alpha) * image + alpha * colour, rounded; the image itself where there is no label."""
    image = np.array([[[100, 50, 0], [0, 0, 200], [9, 8, 7]]], np.uint8)
    labels = np.array([[0, 1, IGNORE]], np.uint8)
    assert overlay(image, labels, SPACE, 0.5).tolist() == [[[150, 25, 50], [0, 128, 100], [9, 8, 7]]]
    assert overlay(image, labels, SPACE, 0.25).tolist() == [[[125, 38, 25], [0, 64, 150], [9, 8, 7]]]
    assert overlay(image, labels, SPACE, 0.0).tolist() == image.tolist()
    assert overlay(image, labels, SPACE, 1.0).tolist() == [[[200, 0, 100], [0, 255, 0], [9, 8, 7]]]


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (48, 64)])
def test_tensors_and_arrays_agree_and_are_not_changed(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    labels = rng.integers(0, 2, size, np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)  # not contiguous
    before = image.copy()
    for options in ({}, {"boundaries": True}):
        from_array = overlay(image, labels, SPACE, **options)
        from_tensor = overlay(tensor, labels, SPACE, **options)
        assert isinstance(from_tensor, torch.Tensor)
        assert from_tensor.shape == (3, *size)
        assert np.array_equal(from_tensor.permute(1, 2, 0).numpy(), from_array)
    assert np.array_equal(image, before)


def test_boundaries_lie_between_classes() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 3:] = 1
    white = (overlay(image, labels, SPACE, 0.0, boundaries=True) == 255).all(2)
    assert white.any(1).all()
    assert not white[:, :2].any()
    assert not white[:, 5:].any()
    one_class = overlay(image, np.zeros_like(labels), SPACE, 0.0, boundaries=True)
    assert not one_class.any()


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="expected labels of"):
        overlay(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 5), np.uint8), SPACE)


def test_text_is_there_and_legible() -> None:
    """The strip has bright letters on dark ground beside each swatch, whatever the class colours."""
    dark = LabelSpace(("night",), palette=((24, 24, 24),))
    picture = overlay_with_legend(np.full((120, 300, 3), 24, np.uint8), np.zeros((120, 300), np.uint8), dark)
    strip = picture[120:]
    assert (strip.min(2) > 180).sum() > 40
    assert (strip.max(2) < 60).mean() > 0.5


def test_overlay_with_legend_keeps_the_kind() -> None:
    labels = np.zeros((48, 64), np.uint8)
    tensor = overlay_with_legend(torch.zeros(3, 48, 64, dtype=torch.uint8), labels, SPACE)
    array = overlay_with_legend(np.zeros((48, 64, 3), np.uint8), labels, SPACE)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), array)


def test_side_by_side() -> None:
    left = torch.full((3, 40, 60), 200, dtype=torch.uint8)
    right = np.full((20, 30, 3), 90, np.uint8)
    joined = side_by_side([left, right])
    assert joined.shape == (40, 60 + 2 + 60, 3)
    assert (joined[:, :60] == 200).all()
    assert (joined[:, 62:] == 90).all()
    captioned = side_by_side([left, right], ["image", "a caption far too long for its picture"])
    assert captioned.shape[0] > 40
    assert np.array_equal(captioned[-40:], joined)
    assert (captioned[:-40] > 180).any()
    with pytest.raises(ValueError, match="as many captions"):
        side_by_side([left], ["a", "b"])
    with pytest.raises(ValueError, match="expected pictures"):
        side_by_side([])
