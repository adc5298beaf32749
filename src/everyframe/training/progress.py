"""One line that says how a run is going."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT

from everyframe.training.logs import log_interval


class Progress(ProgressBar):
    """A line that is rewritten on a terminal, and written every so many steps elsewhere (logs of batch jobs).

    Args:
        steps: optimiser steps of the run.
        stream: where to write; standard error when left out.
    """

    WIDTH = 20

    def __init__(self, steps: int, stream: TextIO | None = None) -> None:
        super().__init__()
        self.steps = steps
        self.stream = stream or sys.stderr
        self._enabled = True
        self._loss: float | None = None
        self._first = 0
        self._start = self._shown = 0.0
        self._video = 0

    def disable(self) -> None:
        """Say nothing (processes other than the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Say how it is going."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self._first, self._start = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_index: int
    ) -> None:
        """Show step, smoothed loss, learning rate and the time left."""
        if not self._enabled:
            return
        assert isinstance(outputs, Mapping)
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning has divided it
        self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss
        step, now = trainer.global_step, time.monotonic()
        last = step >= self.steps
        if self.stream.isatty():
            due = now - self._shown > 0.2 or last
        else:
            stepped = (batch_index + 1) % trainer.accumulate_grad_batches == 0
            due = stepped and step % (5 * log_interval(trainer)) == 0
        if due or last:
            self._shown = now
            self._write(f"{self._bar(step)} {step}/{self.steps}  {self._numbers(trainer, step, now)}", end=last)

    def _bar(self, step: int) -> str:
        done = int(self.WIDTH * step / self.steps)
        return "[" + "#" * done + "." * (self.WIDTH - done) + "]"

    def _numbers(self, trainer: Trainer, step: int, now: float) -> str:
        rate = (step - self._first) / max(now - self._start, 1e-9)
        left = int((self.steps - step) / max(rate, 1e-9))
        parts = [
            f"loss {self._loss:.3f}",
            f"lr {max(group['lr'] for group in trainer.optimizers[0].param_groups):.2g}",
            f"{rate:.2f} steps/s",
            f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left",
        ]
        return "  ".join(parts)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Count the videos anew."""
        self._video = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_index: int,
        dataloader_index: int = 0,
    ) -> None:
        """Show how many videos are done."""
        self._video += 1
        if self._enabled and self.stream.isatty():
            self._write(f"validation: {self._video} of {int(self.total_val_batches)} videos")

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Show the scores on a line of their own."""
        if self._enabled and not trainer.sanity_checking:
            scores = "  ".join(
                f"{name.removeprefix('val/')} {100 * float(value):.2f} %"
                for name, value in trainer.callback_metrics.items()
                if name.startswith("val/")
            )
            self._write(f"step {trainer.global_step}: {scores}", end=True)

    def _write(self, line: str, end: bool = False) -> None:
        if self.stream.isatty():
            self.stream.write(f"\r\033[K{line}" + ("\n" if end else ""))
        else:
            self.stream.write(line + "\n")
        self.stream.flush()
