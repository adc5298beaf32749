"""The checkpoint to resume from, and the signals that ask for it."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from everyframe.stopping import NUMBERS, end_now


class Interrupted(Exception):
    """A signal ended the run after its checkpoint was written.

    Attributes:
        signal: which one.
        step: optimiser steps done.
        path: of the checkpoint.
        model: where the weights of this step were saved because no validation had chosen a model yet; else None.
    """

    def __init__(self, number: signal.Signals, step: int, path: Path) -> None:
        super().__init__(number, step, path)
        self.signal, self.step, self.path = number, step, path
        self.model: Path | None = None

    def __str__(self) -> str:
        unchosen = f"; no validation was reached, so {self.model} holds the weights of this step" if self.model else ""
        return f"stopped by {self.signal.name} after step {self.step}; the checkpoint is {self.path}{unchosen}"


class StopSignals:
    """While entered, SIGTERM (a scheduler's notice) and SIGINT (Ctrl-C) are kept as a wish to stop.

    A SIGINT after the first signal ends the program at once: nothing more is saved, the checkpoint before stays. A
    signal that the program was started to ignore (`nohup`, a job in the background) stays ignored.

    Attributes:
        received: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.getsignal(number) for number in NUMBERS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def listen(self) -> None:
        """Put the handlers (back) in place: Lightning sets one that talks to other processes inside a signal."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if handler is signal.SIG_IGN else self._on_signal)

    def _on_signal(self, number: int, _: Any) -> None:
        if self.received is not None and number == signal.SIGINT:
            end_now(number)  # Lightning would catch an exception, and take its time
        self.received = self.received or signal.Signals(number)


class LastCheckpoint(Callback):
    """Writes `last.ckpt` every `every` steps, before each validation, at the end, and when a signal asks to stop.

    A signal lets the step under way finish; then the checkpoint is written and `Interrupted` raised. In a distributed
    run all processes agree on the step they stop at.

    Args:
        path: of the checkpoint; replaced as a whole, so a crash while writing leaves the one before.
        every: optimiser steps between two checkpoints.
        validate_every: optimiser steps between two validations.
        signals: what asks to stop.
    """

    AGREE_EVERY = 10
    """Steps between two questions whether any process of a distributed run was asked to stop: each one waits."""

    def __init__(self, path: Path, every: int, validate_every: int, signals: StopSignals) -> None:
        self.path = path
        self.every = every
        self.validate_every = validate_every
        self.signals = signals
        self._stopping = False

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Listen to signals."""
        self.signals.listen()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_index: int
    ) -> None:
        """Save when it is time or when asked to stop."""
        if (batch_index + 1) % trainer.accumulate_grad_batches:
            return
        step = trainer.global_step
        self._stopping = self._asked_to_stop(trainer, step)
        due = step % self.every == 0 or step % self.validate_every == 0 or step >= trainer.max_steps
        if due or self._stopping:
            trainer.save_checkpoint(self.path)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        """Stop instead of taking the next step; by now the step before is in the logs."""
        self._stop(trainer, self._stopping)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop instead of validating."""
        self.signals.listen()
        self._stop(trainer, self._stopping)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stop between two videos: the checkpoint was written before the validation."""
        self._stop(trainer, trainer.world_size == 1 and self.signals.received is not None)

    def _asked_to_stop(self, trainer: Trainer, step: int) -> bool:
        asked = self.signals.received is not None
        if trainer.world_size == 1:
            return asked
        return step % self.AGREE_EVERY == 0 and bool(trainer.strategy.reduce_boolean_decision(asked, all=False))

    def _stop(self, trainer: Trainer, now: bool) -> None:
        if now:  # where another process was asked to stop, this one has no signal of its own
            raise Interrupted(self.signals.received or signal.SIGTERM, trainer.global_step, self.path)


def step_of(path: Path) -> int:
    """Return the optimiser steps that a checkpoint has behind it."""
    return int(_read(path)["global_step"])


def missed_validation(path: Path, every: int) -> int | None:
    """Return the step of a checkpoint that was to be validated and was not; None where nothing is to be made up for.

    Args:
        path: of the checkpoint, which is written before the validation of its step.
        every: optimiser steps between two validations.
    """
    saved = _read(path)
    step, validated = int(saved["global_step"]), saved["callbacks"].get("BestModel", {}).get("validated_step")
    return step if step % every == 0 and validated != step else None


def _read(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return saved
