"""What happens around the steps: random numbers, broken losses, the best model, per-class scores, throughput."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from everyframe.errors import InputError, writing
from everyframe.files import whole_file
from everyframe.models.checkpoint import save
from everyframe.training.logs import CsvTable, log_interval
from everyframe.training.supervised import Supervised


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
    """Ends a run whose loss or gradient is no number, before the optimiser writes it into the weights.

    The processes of a distributed run look at the same two numbers, so that all of them stop at one step. With a
    gradient scaler (precision 16-mixed) gradients are not looked at: infinite ones are how it finds its scale.
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        """Add up the losses of the batches of one optimiser step: a sum is finite if they all are."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> None:
        """Look at loss and gradient of this step; the one copy from the device that it costs is a pair of numbers."""
        if self._loss is None:
            return
        loss, self._loss = self._loss.float(), None
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        norm = torch.zeros_like(loss) if scaled else _gradient_norm(optimizer).to(loss)
        finite = torch.isfinite(trainer.strategy.reduce(torch.stack([loss, norm]), reduce_op="sum")).tolist()
        if not all(finite):
            name = "gradient" if finite[0] else "loss"
            raise InputError(
                f"the {name} of step {trainer.global_step + 1} is not finite ({_terms(trainer, loss)}); lower "
                "--optimizer.lr, clip gradients (--trainer.gradient_clip_val 1), or train with --trainer.precision "
                "32-true"
            )


def _gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the L2 norm of all gradients: on a CPU torch finds it far faster than the largest magnitude.

    It overflows for gradients beyond 1e19 too, whose squares AdamW could not keep either.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _terms(trainer: Trainer, loss: Tensor) -> str:
    """Return what the module logged of its last batch, in the first process whose loss is broken, else in the first."""
    logged = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/")}
    own = ", ".join(f"{name.removeprefix('train/')} {float(value):.4g}" for name, value in logged.items())
    if trainer.world_size == 1:
        return own
    texts: list[Any] = [None] * trainer.world_size
    dist.all_gather_object(texts, (bool(torch.isfinite(loss)), trainer.global_rank, own))
    return str(min(texts)[2])


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
        """See `state_dict`; what this process has validated since that state counts more."""
        if state["validated_step"] >= self.validated_step:
            self.score, self.step, self.validated_step = state["score"], state["step"], state["validated_step"]

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Compare, and save."""
        assert isinstance(module, Supervised)
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

    def keep(self, source: Path, last: Path) -> None:
        """Write down what a validation outside of the steps found, for a run that goes on: its model has to be beaten.

        Args:
            source: checkpoint of the validated step. A new one would lack the position in the data, which Lightning
                has forgotten by then.
            last: the checkpoint to go on from, written with the score; `self.checkpoint` too if the step is the best.
        """
        saved = torch.load(source, map_location="cpu", weights_only=True)
        saved["callbacks"][self.state_key] = self.state_dict()
        for path in (last, self.checkpoint) if self.step == saved["global_step"] else (last,):
            with writing(path), whole_file(path) as part:
                torch.save(saved, part)


class ClassTable(Callback):
    """Writes the IoU of each class after each validation, a column per class.

    Args:
        path: of the CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.table = CsvTable(path)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Append a row."""
        assert isinstance(module, Supervised)
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
        if (batch_index + 1) % (log_interval(trainer) * trainer.accumulate_grad_batches) == 0:
            total = self._busy + self._waiting
            clips = self._clips * trainer.world_size / total
            module.log_dict({"time/clips_per_second": clips, "time/waiting_for_data": self._waiting / total})
            self._clips, self._busy, self._waiting = 0, 0.0, 0.0

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Validation is no waiting for data."""
        self._before = None
