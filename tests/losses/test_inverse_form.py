"""InverseForm: what a transform does to a tile, which tiles are compared, and what the regressor is read from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.losses.inverse_form import (
    LARGEST,
    TransformRegressor,
    inverse_distance,
    random_transforms,
    transform,
)


class Recorder(TransformRegressor):
    """Keeps the tiles it is shown."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        self.seen = (first, second)
        return super().forward(first, second)


def test_tiles_are_those_of_the_grid_row_by_row() -> None:
    regressor = Recorder(tile=4, hidden=5)
    predicted, target = torch.rand(2, 1, 12, 24), torch.rand(2, 1, 12, 24)
    inverse_distance(regressor, predicted, target)
    for tiles, x in zip(regressor.seen, (predicted, target), strict=True):
        assert tiles.shape == (2 * 3 * 6, 4, 4)
        torch.testing.assert_close(tiles[0], x[0, 0, :4, :4])
        torch.testing.assert_close(tiles[7], x[0, 0, 4:8, 4:8])
        torch.testing.assert_close(tiles[35], x[1, 0, 8:, 20:])
    inverse_distance(regressor, predicted[..., :12], target[..., :12])
    assert len(regressor.seen[0]) == 2 * 9  # a square map: 3 x 3


def test_loss_is_the_mean_length() -> None:
    regressor = TransformRegressor(tile=4, hidden=5)
    with torch.no_grad():
        for parameter in regressor.parameters():
            parameter.zero_()
        regressor.layers[4].bias.copy_(torch.tensor([1.0, 2.0, 2.0, 4.0]))
    x = torch.rand(1, 1, 12, 24)
    assert inverse_distance(regressor, x, x).item() == 5.0


def test_gradient_at_no_distance_is_finite() -> None:
    regressor = TransformRegressor(tile=4, hidden=5)
    for parameter in regressor.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(1, 1, 12, 24, requires_grad=True)
    inverse_distance(regressor, x, x.detach()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def only(**values: float) -> Tensor:
    names = ("growth", "rotation", "right", "down")
    return torch.tensor([[values.get(name, 0.0) for name in names]])


def test_transforms_by_hand() -> None:
    tile = torch.zeros(1, 8, 8)
    tile[0, 1, 2] = 1
    torch.testing.assert_close(transform(tile, only()), tile)
    right, down = transform(tile, only(right=0.5)), transform(tile, only(down=0.25))
    assert right[0].round().nonzero().tolist() == [[1, 4]]  # half of half a tile of 8: two pixels
    assert down[0].round().nonzero().tolist() == [[2, 2]]
    turned = transform(tile, only(rotation=math.pi / 2))
    torch.testing.assert_close(turned[0], tile[0].rot90(-1), atol=1e-5, rtol=0)
    both = transform(tile, only(rotation=math.pi / 2, right=0.5))  # turned first, then shifted
    torch.testing.assert_close(both[0, :, 2:], tile[0].rot90(-1)[:, :-2], atol=1e-5, rtol=0)
    block = torch.zeros(1, 8, 8)
    block[0, 3:5, 3:5] = 1
    assert transform(block, only(growth=1.0))[0].round().sum() == 16  # twice as wide, twice as tall


def test_drawn_transforms_fill_their_range() -> None:
    drawn = random_transforms(2000, torch.Generator().manual_seed(0))
    assert (drawn.abs() <= torch.tensor(LARGEST)).all()
    assert (drawn.abs().amax(0) > 0.99 * torch.tensor(LARGEST)).all()
    torch.testing.assert_close(drawn.mean(0), torch.zeros(4), atol=0.02, rtol=0)


def test_weights_tell_the_sizes() -> None:
    regressor = TransformRegressor(tile=6, hidden=7, outputs=2)
    published = {f"inversenet.fc.{name.removeprefix('layers.')}": x for name, x in regressor.state_dict().items()}
    again = TransformRegressor.from_state(published)
    a, b = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(again(a, b), regressor(a, b))
    with pytest.raises(InputError, match="expected the weights of a transform regressor"):
        TransformRegressor.from_state({"conv.weight": torch.zeros(3, 3)}, "other.safetensors")
    with pytest.raises(InputError, match="expected the weights of a transform regressor"):
        TransformRegressor.from_state({name: x for name, x in published.items() if not name.endswith("2.bias")})
