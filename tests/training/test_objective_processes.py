"""Two processes, each with half of a batch, together cost what one with the whole batch does, and learn the same."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from tiny_run import make_clip
from torch import Tensor

from everyframe.frames import Clip
from everyframe.labels import LabelSpace
from everyframe.losses.distributed import mean_over_processes
from everyframe.losses.inverse_form import TransformRegressor
from everyframe.losses.mask_set import MaskSetLoss
from everyframe.models.zoo import create_model
from everyframe.training.objectives_temporal import video_objective

Result = tuple[dict[str, float], Tensor]
"""Costs by name, and the gradient of all weights in one vector."""

TERMS: dict[str, Any] = {
    "edges": 0.3, "edge_attention": 0.1, "inverse_form": 0.3, "region": 0.5, "contrastive": 0.1,
    "contrastive_projection": 0, "contrastive_feature": 0, "class_weights": [1.0, 3.0],
}  # fmt: skip


def half(x: Tensor, rank: int | None) -> Tensor:
    return x if rank is None else x[rank : rank + 1]


def pixel_terms(folder: Path, rank: int | None, average: str, unlabelled: bool) -> Result:
    """All terms on two clips: one labelled and moving, one still, whose labels are few or none."""
    torch.manual_seed(3)
    model = create_model("ocr-tiny", LabelSpace(("dark", "bright")), head={"width": 8, "dropout": 0.0}).eval()
    objective = video_objective(model, **TERMS, average=average, edge_regressor=str(folder / "regressor.safetensors"))
    clip = Clip.stack([make_clip(2), make_clip(3)])
    clip.labels[0, 0] = clip.labels[0, 1]
    clip.indices[:] = torch.tensor([[3, 6], [4, 4]])
    clip.labels[1, 1, :, 0 if unlabelled else 6 :] = 255
    parts = {f.name: getattr(clip, f.name) for f in fields(clip)}
    clip = replace(clip, **{name: half(x, rank) for name, x in parts.items() if isinstance(x, Tensor)})
    costs = objective(model(clip.images, clip.roles), clip)
    costs["loss"].backward()
    weights = [p for p in (*model.parameters(), *objective.parameters()) if p.grad is not None]
    values = {name: cost.item() for name, cost in costs.items()}
    return values, torch.cat([p.grad.flatten() for p in weights if p.grad is not None])


def set_loss(folder: Path, rank: int | None, average: str, unlabelled: bool) -> Result:
    """Two images, of six masks and of one or none."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 2, 8, 7), (2, 2, 8, 4), (2, 4, 6, 6))
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    labels = torch.randint(0, 6, (2, 12, 12), dtype=torch.uint8, generator=generator)
    labels[1] = 255 if unlabelled else 2

    def same(*shape: int, device: object = None) -> Tensor:
        return torch.rand(*shape[-2:], generator=torch.Generator().manual_seed(shape[-2])).expand(shape)

    own = [half(x, rank) for x in given]
    losses = MaskSetLoss(points=32)(*own, half(labels, rank), draw=same, reduce=mean_over_processes)
    torch.stack(list(losses.values())).sum().backward()
    return {name: x.item() for name, x in losses.items()}, torch.cat([x.grad.flatten() for x in given])  # type: ignore[union-attr]


COSTS = {"pixel terms": pixel_terms, "set loss": set_loss}
CASES = [
    ("pixel terms", "labelled", False),
    ("pixel terms", "labelled", True),
    ("pixel terms", "pixels", False),
    ("set loss", "", False),
    ("set loss", "", True),
]


def _child(
    rank: int, folder: Path, out: multiprocessing.queues.Queue[list[tuple[dict[str, float], list[float]]]]
) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    results = [COSTS[name](folder, rank, average, unlabelled) for name, average, unlabelled in CASES]
    out.put([(values, gradient.tolist()) for values, gradient in results])
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("processes")
    torch.manual_seed(8)
    save_file(TransformRegressor(tile=4, hidden=6).state_dict(), made / "regressor.safetensors")
    return made


@pytest.fixture(scope="module")
def of_two(folder: Path) -> list[tuple[Any, ...]]:
    """Results of the cases, each of both processes."""
    torch.set_num_threads(1)  # a forked process must not wait for threads that it does not have
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    children = [context.Process(target=_child, args=(rank, folder, found)) for rank in (0, 1)]
    for child in children:
        child.start()
    results = [found.get(timeout=240) for _ in children]
    for child in children:
        child.join(timeout=60)
    return list(zip(*results, strict=True))


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{a} {b} {'unlabelled' if c else ''}" for a, b, c in CASES])
def test_two_processes_cost_what_one_does(folder: Path, of_two: list[tuple[Any, ...]], case: int) -> None:
    name, average, unlabelled = CASES[case]
    want, gradient = COSTS[name](folder, None, average, unlabelled)
    (first, g0), (second, g1) = of_two[case]
    assert {part: (first[part] + second[part]) / 2 for part in want} == pytest.approx(want, rel=1e-4, abs=1e-6)
    torch.testing.assert_close((torch.tensor(g0) + torch.tensor(g1)) / 2, gradient, rtol=1e-3, atol=1e-6)
