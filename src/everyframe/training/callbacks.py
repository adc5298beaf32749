"""What happens around the steps: random numbers, broken losses, the best model, per-class scores, throughput."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from everyframe.errors import InputError
from everyframe.models.checkpoint import save
from everyframe.training.logs import CsvTable


class SeedEachStep(Callback):
    """Makes random numbers a function of (seed, step, rank).

    Dropout and stochastic depth draw from the global generators of Python, NumPy and torch. Seeding them anew at each
    step makes a resumed run draw what the uninterrupted one drew, whatever validation, logging or data loading took
    from the generators in between; a saved generator state would depend on all of these.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        """Seed all generators."""
        batches = trainer.fit_loop.epoch_loop.total_batch_idx
        sequence = np.random.SeedSequence([self.seed, batches, trainer.global_rank])
        first, second, third = (int(word) for word in sequence.generate_state(3))
        random.seed(first)
        np.random.seed(second)
        torch.manual_seed(third)  # all devices


class StopOnNonFiniteLoss(Callback):
    """Ends a run whose loss is no number, before a checkpoint of the broken weights is written."""

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Mapping[str, Tensor], batch: Any, batch_index: int
    ) -> None:
        """Look at the loss of this step."""
        if not torch.isfinite(outputs["loss"]):
            terms = ", ".join(f"{name} {value.item():.4g}" for name, value in outputs.items())
            raise InputError(
                f"the loss of step {trainer.global_step} is not finite ({terms}); lower --optimizer.lr, clip gradients "
                "(--trainer.gradient_clip_val 1), or train with --trainer.precision 32-true"
            )


class BestModel(Callback):
    """Writes the model of the best validation to a folder (`config.json` + `model.safetensors`) as soon as it is known.

    Args:
        folder: of the model.
        checkpoint: of the whole run at that step, to resume from.
        monitor: name of the logged score; the larger the better.
    """

    def __init__(self, folder: Path, checkpoint: Path, monitor: str) -> None:
        self.folder = folder
        self.checkpoint = checkpoint
        self.monitor = monitor
        self.score = float("-inf")
        self.step = -1
        self.validated_step = -1

    def state_dict(self) -> dict[str, Any]:
        """Score and step of the best model so far."""
        return {"score": self.score, "step": self.step, "validated_step": self.validated_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `state_dict`."""
        self.score, self.step, self.validated_step = state["score"], state["step"], state["validated_step"]

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Compare, and save."""
        if trainer.sanity_checking:
            return
        self.validated_step = trainer.global_step
        score = float(trainer.callback_metrics[self.monitor])
        if score > self.score or math.isnan(self.score) or self.step < 0:
            self.score, self.step = score, trainer.global_step
            if trainer.is_global_zero:
                save(module.exported, self.folder)
            if trainer.state.fn == "fit":
                trainer.save_checkpoint(self.checkpoint)


class ClassTable(Callback):
    """Writes the IoU of each class after each validation, a column per class.

    Args:
        path: of the CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.table = CsvTable(path)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Append a row."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            self.table.append(trainer.global_step, module.class_iou)


class Throughput(Callback):
    """Logs clips per second of all processes and the share of the time that went into waiting for data."""

    def __init__(self) -> None:
        self._clips = 0
        self._busy = self._waiting = 0.0
        self._before: float | None = None
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        """What passed since the last step was spent on waiting for this batch."""
        self._start = time.perf_counter()
        if self._before is not None:
            self._waiting += self._start - self._before

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Log with the other scalars, about every `log_every_n_steps`."""
        now = self._before = time.perf_counter()
        self._busy += now - self._start
        self._clips += sum(len(clip.videos) for clip in (batch.values() if isinstance(batch, dict) else [batch]))
        if (batch_index + 1) % (trainer.log_every_n_steps * trainer.accumulate_grad_batches) == 0:
            total = self._busy + self._waiting
            clips = self._clips * trainer.world_size / total
            module.log_dict({"time/clips_per_second": clips, "time/waiting_for_data": self._waiting / total})
            self._clips, self._busy, self._waiting = 0, 0.0, 0.0

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Validation is no waiting for data."""
        self._before = None
