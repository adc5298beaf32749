"""Mean Teacher runs of every published method at micro size; as a script, all of them in the processes of one launch.

usage: python method_runs.py OUT
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from tiny_run import TinyData, TinyLoader
from torch import Tensor, nn

from everyframe.data.sampling import ClipSampling
from everyframe.frames import IGNORE, Clip, Role
from everyframe.labels import LabelSpace
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model
from everyframe.semi.pseudo import Teaching
from everyframe.training.mean_teacher import MeanTeacher
from everyframe.training.objectives_mask import MaskOptions
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.optim import Optimization
from everyframe.training.run import Run, train

SPACE = LabelSpace(("a", "b", "c"))
SIZE = (32, 48)


@dataclass(frozen=True)
class Method:
    """A model, what else it takes to train it, and whether a batch costs the same however it is split."""

    system: str
    temporal: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    queries: int = 1
    splits: bool = True


METHODS = {
    "ssltm-mse": Method("ssltm", {"context": "both"}),
    "ssltm-ema": Method("ssltm", {"update": "ema"}),
    "ssltm-without-contexts": Method("ssltm", {"context": "none", "prototypes": 0}),
    "netwarp": Method("netwarp-ocr"),
    "tcb-ppm": Method("tcb-psp"),
    "tcb": Method("tcb-ocr"),
    "tcb-memory": Method("tcb-ocr-memory"),
    "etc": Method("etc-ocr", objective={"motion": 0.1}, queries=2),
    "deeplab": Method("deeplab"),
    "ocr": Method("ocr"),
    "psp": Method("psp"),
    "segmenter": Method("segmenter"),
    "uper": Method("uper"),
    # Points of masks are drawn at random, and queries' classes weighed, within each process.
    "mask2former": Method("mask2former", splits=False),
    "mask2former-ssltm": Method("mask2former-ssltm", splits=False),
}


def build(method: Method, split: bool) -> Segmenter:
    """Return the model; to be split, one without dropout and batch statistics, which depend on how batches are cut."""
    torch.manual_seed(7)
    masks = method.system.startswith("mask2former")
    head = {"queries": 6, "decoder_layers": 1, "encoder_layers": 1} if masks else {"width": 16}
    model = create_model(
        f"{method.system}-tiny", SPACE, backbone={"width": 8, "stem_width": 8}, head=head, temporal=method.temporal
    )
    for name, module in list(model.named_modules()) if split else ():
        parent, _, own = name.rpartition(".")
        if isinstance(module, nn.BatchNorm2d):
            setattr(model.get_submodule(parent), own, nn.GroupNorm(1, module.num_features))
        elif isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    return model


def make_clip(roles: tuple[Role, ...], number: int, known: bool) -> Clip:
    """Three bands of colours that move; the last query alone is labelled, or no frame is."""
    rng = np.random.default_rng([5, number])
    order, start = rng.permutation(3), int(rng.integers(16))
    frames, maps = [], []
    for t in range(len(roles)):
        bands = (np.arange(SIZE[1]) + start + t) // 16 % 3
        labels = np.broadcast_to(order[bands], SIZE).astype(np.uint8)
        frames.append(np.stack([60 + 60 * labels, 200 - 70 * labels, 30 + 25 * t + 0 * labels]))
        maps.append(labels)
    noise = rng.integers(-30, 30, (len(roles), 3, *SIZE))
    labels = torch.from_numpy(np.stack(maps))
    labels[:, : number % 5] = IGNORE
    labelled = torch.zeros(len(roles), dtype=torch.bool)
    labelled[-1] = known
    return Clip(
        images=torch.from_numpy((np.stack(frames) + noise).clip(0, 255).astype(np.uint8)),
        labels=labels.where(labelled[:, None, None], IGNORE).to(torch.uint8),
        labelled=labelled,
        roles=roles,
        indices=torch.arange(len(roles)),
        videos=(f"video{number}",),
        inside=torch.arange(SIZE[0])[:, None].expand(SIZE) < SIZE[0] - number % 3,
    )


class MethodData(TinyData):
    """Labelled and unlabelled clips with the roles that a model asks for."""

    def __init__(self, model: Segmenter, queries: int, batch_size: int, unlabelled: int) -> None:
        super().__init__(None, batch_size=batch_size, unlabelled=unlabelled)
        temporal = model.temporal
        reference = "far_end" if temporal.reference else None
        self.roles = ClipSampling(temporal.adjacent, reference, queries).roles

    def train_dataloader(self) -> CombinedLoader:
        trainer = self.trainer
        assert trainer is not None
        assert self.batches_per_epoch is not None

        def loader(size: int, make: Callable[[int], Clip]) -> TinyLoader:
            return TinyLoader(self.batches_per_epoch or 0, size, trainer.global_rank, trainer.world_size, make)

        labelled = loader(self.batch_size, lambda n: make_clip(self.roles, n, True))
        more = loader(self.unlabelled, lambda n: make_clip(self.roles, n + 500, False))
        return CombinedLoader({"labelled": labelled, "unlabelled": more}, "min_size")


def fit(
    out: Path,
    method: Method,
    steps: int,
    *,
    split: bool = False,
    batch_size: int = 2,
    unlabelled: int = 2,
    model: Segmenter | None = None,
    optimizer: str = "adamw",
    save_every: int = 100,
    resume: Path | None = None,
    **trainer: Any,
) -> Run:
    """Train a method with a teacher that believes in all that it sees: after two steps it would be sure of next to
    nothing, and no label of its own would be tested.
    """
    model = model or build(method, split)
    return train(
        model,
        MethodData(model, method.queries, batch_size, unlabelled),
        out,
        video_objective(model, MaskOptions(points=64), **method.objective),
        Optimization(optimizer, lr=0.002, warmup=0),
        Teaching(weight=1.0, threshold=0.0, ramp=0.0, mask_confidence="softmax"),
        steps=steps,
        validate_every=100,
        save_every=save_every,
        resume=resume,
        trainer={"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "precision": "32-true", **trainer},
    )


def record(module: MeanTeacher, *_: Any) -> None:
    """Keep the gradients of a step, as `on_before_optimizer_step`, in the run's folder."""
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in module.model.named_parameters()}
    torch.save(gradients, Path(module.trainer.default_root_dir) / f"gradients{module.global_rank}.pt")


def keep(module: MeanTeacher) -> None:
    """Keep the weights of student and teacher, as `on_train_end`."""
    torch.save(module.state_dict(), Path(module.trainer.default_root_dir) / f"weights{module.global_rank}.pt")


def weights_of(out: Path, rank: int) -> dict[str, Tensor]:
    """Return what `keep` kept."""
    kept: dict[str, Tensor] = torch.load(out / f"weights{rank}.pt", weights_only=True)
    return kept


def coverage_of(out: Path) -> list[float]:
    """Return which share of the pixels the teacher labelled, step by step."""
    with (out / "logs" / "train.csv").open() as file:
        return [float(row["coverage"]) for row in csv.DictReader(file)]


RESUMED = METHODS["ssltm-ema"]


def resume_among_two(out: Path) -> None:
    """Train four steps without a stop, and the last two of them anew from the checkpoint between."""
    half = out / "half.ckpt"

    def copy(module: MeanTeacher, *_: Any) -> None:
        if module.global_step == 2 and module.global_rank == 0 and not half.exists():
            shutil.copy(out / "whole" / "checkpoints" / "last.ckpt", half)

    MeanTeacher.on_train_batch_start = copy  # type: ignore[method-assign]
    fit(out / "whole", RESUMED, 4, save_every=2, devices=2, strategy="ddp")
    other = build(RESUMED, split=False)
    for p in other.parameters():  # all weights come from the checkpoint
        nn.init.constant_(p, 0.1)
    fit(out / "parts", RESUMED, 4, model=other, resume=half, devices=2, strategy="ddp")


if __name__ == "__main__":
    torch.set_num_threads(1)
    MeanTeacher.on_before_optimizer_step, MeanTeacher.on_train_end = record, keep  # type: ignore[method-assign]
    for name, method in METHODS.items():
        fit(Path(sys.argv[1]) / name, method, 2, split=True, optimizer="sgd", devices=2, strategy="ddp")
    resume_among_two(Path(sys.argv[1]) / "resumed")
