"""InverseForm: how far must a tile of the predicted edges be moved to lie on the true ones?

Borse et al., "InverseForm: A Loss Function for Structured Boundary-Aware Segmentation" (CVPR 2021). A small network,
trained beforehand on edges that were moved by a known transform (`random_transforms`, `transform`,
`everyframe.training.inverse_form`), looks at a predicted and a true tile and says which transform lies between them.
Its size is the loss. The authors' meaning of the four numbers is not published; here they are `TRANSFORM`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.errors import InputError

TRANSFORM = ("growth", "rotation", "right", "down")
"""Scale less 1; radians; shifts in half tiles. All 0: the tiles are the same."""

LARGEST = (0.3, 0.5, 0.25, 0.25)
"""Largest absolute value of each that `random_transforms` draws."""


class TransformRegressor(nn.Module):
    """Perceptron from two tiles of edges to the transform between them; the default sizes are the paper's.

    Args:
        tile: side of the tiles, in pixels.
        hidden: width of the first layer.
        outputs: numbers of the transform.
    """

    def __init__(self, tile: int = 224, hidden: int = 1000, outputs: int = len(TRANSFORM)) -> None:
        super().__init__()
        self.tile = tile
        self.layers = nn.Sequential(
            nn.Linear(2 * tile * tile, hidden), nn.ReLU(), nn.Linear(hidden, 32), nn.ReLU(), nn.Linear(32, outputs)
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Tiles [M, tile, tile] each -> [M, outputs]."""
        return self.layers(torch.cat([first.flatten(1), second.flatten(1)], dim=1))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], source: str = "weights") -> TransformRegressor:
        """Build the regressor whose weights these are; names may begin with anything, as in the published files.

        Raises:
            InputError: not three linear layers after each other.
        """
        found = {tuple(name.split(".")[-2:]): value for name, value in state.items()}
        layers = {".".join(key): value for key, value in found.items() if key[0] in {"0", "2", "4"}}
        first, last = layers.get("0.weight"), layers.get("4.weight")
        tile = 0 if first is None else round((first.shape[-1] / 2) ** 0.5)
        whole = layers.keys() == {f"{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")}
        if first is None or last is None or not whole or 2 * tile * tile != first.shape[-1]:
            raise InputError(
                f"{source}: expected the weights of a transform regressor (layers 0, 2 and 4), came "
                f"{', '.join(list(state)[:4])}; train one with `everyframe.training.inverse_form.train_regressor`"
            )
        made = cls(tile, len(first), len(last))
        made.layers.load_state_dict(layers)
        return made


def inverse_distance(
    regressor: TransformRegressor, predicted: Tensor, target: Tensor, grid: tuple[int, int] | None = None
) -> Tensor:
    """Mean length of the transforms between the tiles of two edge maps.

    Args:
        regressor: frozen; its tile decides the size to which maps are resized.
        predicted: probability of an edge, [N, C, H, W].
        target: 1 at edges, 0 elsewhere, [N, C, H, W].
        grid: rows and columns of tiles that a map is resized to; None: 3 rows, and columns by the map's shape (6 for
            the paper's maps of 1:2).

    Returns:
        Scalar.
    """
    tiles = [split_tiles(x, regressor.tile, grid) for x in (predicted, target)]
    return torch.linalg.vector_norm(regressor(*tiles), dim=1).mean()


def split_tiles(x: Tensor, side: int, grid: tuple[int, int] | None = None) -> Tensor:
    """Resize maps to whole tiles and cut them, row by row.

    Args:
        x: [N, C, H, W].
        side: t of a tile.
        grid: rows and columns, see `inverse_distance`.

    Returns:
        [N * C * rows * columns, t, t].
    """
    rows, columns = grid or (3, max(1, round(3 * x.shape[3] / x.shape[2])))
    x = F.interpolate(x.float(), (rows * side, columns * side), mode="bilinear", align_corners=False)
    x = x.unflatten(3, (columns, side)).unflatten(2, (rows, side))  # N C rows side columns side
    return x.transpose(3, 4).reshape(-1, side, side)


# -- what the regressor learns from ------------------------------------------------------------------------------------


def random_transforms(count: int, generator: torch.Generator) -> Tensor:
    """Draw transforms, evenly within `LARGEST`: float32 [count, 4], see `TRANSFORM`."""
    return (2 * torch.rand(count, len(TRANSFORM), generator=generator) - 1) * torch.tensor(LARGEST)


def transform(tiles: Tensor, transforms: Tensor) -> Tensor:
    """Move the content of tiles: grow about the centre, rotate (clockwise), shift; what comes from outside is 0.

    Args:
        tiles: [M, t, t].
        transforms: [M, 4], see `TRANSFORM`.

    Returns:
        [M, t, t].
    """
    growth, rotation, right, down = transforms.unbind(1)
    cos, sin = rotation.cos() / (1 + growth), rotation.sin() / (1 + growth)
    # grid_sample asks where each point comes from: the inverse of the transform.
    back = torch.stack(
        [
            torch.stack([cos, sin, -(cos * right + sin * down)], dim=1),
            torch.stack([-sin, cos, sin * right - cos * down], dim=1),
        ],
        dim=1,
    )
    points = F.affine_grid(back, [len(tiles), 1, *tiles.shape[1:]], align_corners=False)
    return F.grid_sample(tiles[:, None], points, align_corners=False)[:, 0]
