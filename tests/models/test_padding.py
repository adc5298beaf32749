"""Padding of frames and cutting of maps, and the shapes of stages, by hand."""

from __future__ import annotations

import pytest
import torch

from everyframe.models.backbones.eva02 import Eva02
from everyframe.models.ops.padding import crop_maps, pad_frame
from everyframe.models.ops.stages import drop_path_rates, pyramid_shape


def test_zeros_stand_right_and_below() -> None:
    x = torch.ones(1, 2, 3, 5)
    padded = pad_frame(x, 4)
    assert padded.shape == (1, 2, 4, 8)
    assert padded.sum() == x.sum()
    assert torch.equal(padded[..., :3, :5], x)
    assert pad_frame(padded, 4) is padded


def test_maps_keep_the_cells_that_see_the_frame() -> None:
    """5 x 9 pixels: of stride 4 the cells 0..1 and 0..2, of stride 8 the cells 0 and 0..1."""
    maps = [torch.arange(16.0).view(1, 1, 4, 4), torch.arange(4.0).view(1, 1, 2, 2)]
    fine, coarse = crop_maps(maps, (5, 9), (4, 8))
    assert fine.flatten().tolist() == [0, 1, 2, 4, 5, 6]
    assert coarse.flatten().tolist() == [0, 1]


def test_stages_double_channels_and_strides() -> None:
    assert pyramid_shape(96, (0, 3)) == ((96, 768), (4, 32))
    assert pyramid_shape(10, (1,), patch=2) == ((20,), (4,))


def test_stochastic_depth_rises_over_all_blocks() -> None:
    assert drop_path_rates(0.5, (2, 1, 3)) == [[0.0, 0.1], [0.2], pytest.approx([0.3, 0.4, 0.5])]
    assert drop_path_rates(0.5, (1,)) == [[0.0]]


@pytest.mark.parametrize("out_indices", [(7, 11, 15, 23), (0, 1, 3, 2), (0, 1, 2)])
def test_eva02_names_blocks_that_it_does_not_have(out_indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 4 ascending out_indices, one per map, of 4 blocks"):
        Eva02(24, 4, 3, size=(64, 64), out_indices=out_indices)
