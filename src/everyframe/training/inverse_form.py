"""Training the network that InverseForm's loss asks how far two tiles of edges are apart.

It sees the edges of label maps and the same edges moved by a known transform, and learns to name the transform. It
needs no pictures and no model: once trained for a data set, its file serves all runs (`objective.edge_regressor`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.data.layout import VideoRef
from everyframe.data.layouts import load_split
from everyframe.data.reading import read_labels
from everyframe.errors import InputError, writing
from everyframe.files import whole_file
from everyframe.inference.stream import pick_device
from everyframe.labels import LabelSpace
from everyframe.losses.boundary import edge_map
from everyframe.losses.inverse_form import TransformRegressor, random_transforms, split_tiles, transform
from everyframe.models.state import save_tensors


class RegressorScore(NamedTuple):
    """How well transforms are named, over the last tenth of the steps, on tiles not seen with these transforms.

    Attributes:
        error: mean length of the difference of named and true transform, in the units of `TRANSFORM`.
        nothing: mean length of the true transform, which is the error of naming none.
    """

    error: float
    nothing: float


def train_regressor(
    data: str,
    out: str | Path,
    *,
    split: str = "train",
    steps: int = 20_000,
    batch_size: int = 32,
    lr: float = 1e-4,
    tile: int = 224,
    hidden: int = 1000,
    radius: int = 2,
    seed: int = 0,
    device: str = "auto",
) -> RegressorScore:
    """Train a transform regressor on the label maps of a data set, and write it to a file.

    Args:
        data: "LAYOUT:ROOT", see `load_split`.
        out: .safetensors file.
        split: whose label maps are taken.
        steps: of AdamW.
        batch_size: tiles per step.
        lr: learning rate, falling to 0 by a cosine.
        tile: side of the tiles; label maps are cut into 3 rows of them.
        hidden: width of the first layer.
        radius: see `edge_map`; that of `objective.edge_radius`.
        seed: of weights, tiles and transforms.
        device: "auto", "cpu", "cuda", ...

    Raises:
        InputError: no label map has an edge, or the file cannot be written.
    """
    if min(steps, batch_size, tile, hidden, radius) < 1:
        raise InputError("train_regressor: expected steps, batch_size, tile, hidden and radius of at least 1")
    place, out = pick_device(device), Path(out)
    videos, space = load_split(data, split)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        regressor = TransformRegressor(tile, hidden).to(place)
    optimizer = torch.optim.AdamW(regressor.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    errors, lengths = [], []
    tiles = edge_tiles(videos, space, tile, radius, generator)
    for step in range(steps):
        batch = torch.stack([next(tiles) for _ in range(batch_size)]).to(place)
        wanted = random_transforms(batch_size, generator).to(place)
        named = regressor(transform(batch, wanted), batch)
        if step >= steps - max(1, steps // 10):
            errors.append((named - wanted).detach().norm(dim=1).mean().item())
            lengths.append(wanted.norm(dim=1).mean().item())
        optimizer.zero_grad()
        F.mse_loss(named, wanted).backward()
        optimizer.step()
        schedule.step()
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as part:
            save_tensors(part, {name: value.cpu() for name, value in regressor.state_dict().items()})
    return RegressorScore(sum(errors) / len(errors), sum(lengths) / len(lengths))


def edge_tiles(
    videos: Sequence[VideoRef], space: LabelSpace, tile: int, radius: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield tiles with edges, float32 [t, t], without end: all label maps in a random order, then in another one.

    Raises:
        InputError: no label map has an edge.
    """
    labelled = [(video, index) for video in videos for index in video.labelled]
    while True:
        found = False
        for number in torch.randperm(len(labelled), generator=generator).tolist():
            video, index = labelled[number]
            labels = read_labels(video, index, space)
            assert labels is not None
            edges = (edge_map(torch.from_numpy(labels)[None], radius) == 1)[:, None]
            tiles = split_tiles(edges.float(), tile)
            tiles = tiles[(tiles > 0).flatten(1).any(1)]
            found |= len(tiles) > 0
            yield from tiles[torch.randperm(len(tiles), generator=generator)]
        if not found:
            raise InputError(
                f"expected label maps with edges between classes, came {len(labelled)} without one; give a split with "
                f"labels"
            )
