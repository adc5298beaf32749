"""A tiny model and data in memory; as a script, a training run for tests that need processes of their own.

usage: python tiny_run.py OUT OPTIONS_OF_RUN_AS_JSON
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from everyframe.data.layout import FrameRef, VideoRef
from everyframe.frames import Clip, Role
from everyframe.labels import LabelSpace
from everyframe.models.heads.base import Head, Outputs
from everyframe.models.segmenter import Segmenter
from everyframe.semi.pseudo import Teaching
from everyframe.training.objective import pixel_objective
from everyframe.training.optim import Optimization
from everyframe.training.run import Run, train

SPACE = LabelSpace(("dark", "bright"))
SIZE = (12, 16)


class TinyBackbone(nn.Module):
    channels = (6,)
    strides = (2,)

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.seconds = seconds

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.training:
            time.sleep(self.seconds)
        return [self.norm(self.conv(x)).relu()]


class TinyHead(Head):
    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.num_classes, self.stride = 2, 2
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(6, 2, 1)
        self.auxiliary = nn.Conv2d(6, 2, 1)

    def embed(self, maps: Any) -> dict[str, Tensor]:
        return {"pixels": maps[0], "auxiliary": self.auxiliary(maps[0])}

    def predict(self, embedding: dict[str, Tensor]) -> Outputs:
        return {"logits": self.classifier(self.dropout(embedding["pixels"]))}


def tiny_model(dropout: float = 0.2, seconds: float = 0.0) -> Segmenter:
    torch.manual_seed(7)
    model = Segmenter(TinyBackbone(seconds), TinyHead(dropout), SPACE)
    model.config = {"name": "tiny-of-the-tests", "options": {}}
    return model


def break_gradient(model: Segmenter, step: int, rank: int = 0) -> None:
    """Make the gradient of one weight NaN in one process at one step, counted from 1; the losses up to it are sound."""
    seen = [0]

    def broken(gradient: Tensor) -> Tensor:
        seen[0] += 1
        own = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return gradient * float("nan") if (seen[0], own) == (step, rank) else gradient

    model.head.classifier.weight.register_hook(broken)


def make_clip(number: int) -> Clip:
    """Noise whose brightness is the class; the second of two frames is the query; some pixels are ignored."""
    rng = np.random.default_rng([3, number])
    bright = rng.random(SIZE) < 0.5
    image = np.where(bright, 200, 50)[None].repeat(3, 0) + rng.integers(-40, 40, (3, *SIZE))
    labels = bright.astype(np.uint8)
    labels[: number % 5] = 255
    images = torch.from_numpy(image.astype(np.uint8))
    unlabelled = torch.full(SIZE, 255, dtype=torch.uint8)
    return Clip(
        images=torch.stack([images.flip(-1), images]),
        labels=torch.stack([unlabelled, torch.from_numpy(labels)]),
        labelled=torch.tensor([False, True]),
        roles=(Role.ADJACENT, Role.QUERY),
        indices=torch.arange(2),
        videos=(f"video{number}",),
    )


def make_unlabelled_clip(number: int, padded: int | None = None) -> Clip:
    """Like `make_clip`, with the label map hidden, and the last rows padding."""
    clip = make_clip(number)
    rows = number % 4 if padded is None else padded
    hidden, inside = clip.labels[1:].clone(), torch.ones(SIZE, dtype=torch.bool)
    if rows:
        clip.images[..., -rows:, :], hidden[:, -rows:], inside[-rows:] = 0, 255, False
    clip.labels[:], clip.labelled[:] = 255, False
    clip.inside, clip.hidden = inside, hidden
    return clip


class TinyLoader:
    """An endless row of clips with a position, like `ClipLoader`."""

    def __init__(
        self, batches: int, batch_size: int, rank: int, ranks: int, make: Callable[[int], Clip] = make_clip
    ) -> None:
        self.batches, self.batch_size, self.rank, self.ranks = batches, batch_size, rank, ranks
        self.make = make
        self.position = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Clip]:
        for _ in range(self.batches):
            first = self.position + self.rank * self.batch_size
            self.position += self.batch_size * self.ranks
            yield Clip.stack([self.make(first + i) for i in range(self.batch_size)])

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class TinyData(LightningDataModule):
    """Clips in memory, validation videos from a folder (or none)."""

    def __init__(self, folder: Path | None = None, videos: int = 1, batch_size: int = 4, unlabelled: int = 0) -> None:
        super().__init__()
        self.unlabelled = unlabelled
        self.val_videos = [] if folder is None else [write_video(folder, n) for n in range(videos)]
        self.batches_per_epoch: int | None = None
        self.batch_size = batch_size

    def train_dataloader(self) -> TinyLoader | CombinedLoader:
        trainer = self.trainer
        assert trainer is not None
        assert self.batches_per_epoch is not None
        place = trainer.global_rank, trainer.world_size
        labelled = TinyLoader(self.batches_per_epoch, self.batch_size, *place)
        if not self.unlabelled:
            return labelled
        more = TinyLoader(self.batches_per_epoch, self.unlabelled, *place, lambda n: make_unlabelled_clip(n + 500))
        return CombinedLoader({"labelled": labelled, "unlabelled": more}, "min_size")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch

    def val_dataloader(self) -> DataLoader[VideoRef | None]:
        trainer = self.trainer
        assert trainer is not None
        own: list[VideoRef | None] = list(self.val_videos[trainer.global_rank :: trainer.world_size])
        own += [None] * (-(-len(self.val_videos) // trainer.world_size) - len(own))
        return DataLoader(own, batch_size=None, collate_fn=lambda video: video)  # type: ignore[arg-type]


def write_video(folder: Path, number: int, frames: int = 3) -> VideoRef:
    """Write pictures and label maps of one validation video."""
    from PIL import Image

    refs = []
    for index in range(frames):
        clip = make_clip(1000 + 10 * number + index)
        paths = [folder / f"v{number}_{index}_{kind}.png" for kind in ("image", "label")]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(clip.images[1].permute(1, 2, 0).numpy()).save(paths[0])
        Image.fromarray(clip.labels[1].numpy()).save(paths[1])
        refs.append(FrameRef(index, str(index), paths[0], paths[1]))
    return VideoRef(f"v{number}", tuple(refs))


def run(
    out: Path,
    steps: int,
    data: TinyData | None = None,
    *,
    seconds: float = 0.0,
    dropout: float = 0.2,
    dice: float = 0.1,
    optimizer: str = "adamw",
    videos: int = 1,
    batch_size: int = 4,
    validate_every: int = 5,
    save_every: int = 100,
    teacher: dict[str, Any] | None = None,
    unlabelled: int = 0,
    resume: str | None = None,
    broken: tuple[int, int] | None = None,
    **trainer: Any,
) -> Run:
    """Train the tiny model; broken: (step, rank) of `break_gradient`."""
    model = tiny_model(dropout, seconds)
    if broken is not None:
        break_gradient(model, *broken)
    return train(
        model,
        data if data is not None else TinyData(out / "videos", videos, batch_size, unlabelled),
        out,
        pixel_objective(dice=dice),
        Optimization(optimizer, lr=0.01, warmup=3),
        None if teacher is None else Teaching(**teacher),
        steps=steps,
        validate_every=validate_every,
        save_every=save_every,
        resume=resume,
        trainer={"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "precision": "32-true", **trainer},
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), **json.loads(sys.argv[2]))
