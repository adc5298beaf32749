"""One training run: a model, its data, a folder."""

from __future__ import annotations

import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only

from everyframe.data.datamodule import TrainingData
from everyframe.errors import InputError
from everyframe.files import write_whole
from everyframe.models.checkpoint import save
from everyframe.models.segmenter import Segmenter
from everyframe.semi.pseudo import Teaching
from everyframe.training.callbacks import BestModel, ClassTable, SeedEachStep, StopOnNonFiniteLoss, Throughput
from everyframe.training.last_checkpoint import Interrupted, LastCheckpoint, StopSignals, missed_validation, step_of
from everyframe.training.logs import CsvLogger, EventLogger
from everyframe.training.mean_teacher import MeanTeacher
from everyframe.training.objective import Objective
from everyframe.training.optim import Optimization
from everyframe.training.progress import Progress
from everyframe.training.supervised import Supervised
from everyframe.training.validation import MONITOR

TRAINER_OWNED = (
    "logger", "callbacks", "max_epochs", "min_epochs", "max_steps", "min_steps", "val_check_interval",
    "check_val_every_n_epoch", "num_sanity_val_steps", "enable_checkpointing", "enable_model_summary",
    "default_root_dir", "use_distributed_sampler", "reload_dataloaders_every_n_epochs", "limit_test_batches",
    "limit_predict_batches", "overfit_batches", "barebones", "plugins", "inference_mode", "enable_autolog_hparams",
    "model_registry", "limit_train_batches", "fast_dev_run",
)  # fmt: skip
"""Arguments of Lightning's `Trainer` that `train` sets itself."""

NOISE = (
    ".*does not have many workers.*",
    ".*sync_dist=True.*",
    ".*`ckpt_path` is the same.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*lr_scheduler.step.*before.*optimizer.step.*",  # resuming restores both in the right order
    ".*Starting from v.*Lightning.*",
    ".*treespec, LeafSpec.*",
    ".*is smaller than the logging interval.*",  # the user's own, longer than the run
    ".*module.* in eval mode at the start.*",  # the teacher stays in it
)
"""Warnings of Lightning and torch that say nothing about this run."""


@dataclass(frozen=True)
class RunFolder:
    """What lies where in the folder of a run."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration: a recipe that repeats the run."""
        return self.root / "config.yaml"

    @property
    def classes(self) -> Path:
        """The classes that the run began with; going on with others is refused."""
        return self.root / "labels.json"

    @property
    def logs(self) -> Path:
        """`train.csv`, `val.csv`, `val_classes.csv`, TensorBoard's event files."""
        return self.root / "logs"

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.root / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """Checkpoint of the best validation."""
        return self.root / "checkpoints" / "best.ckpt"

    @property
    def model(self) -> Path:
        """The best model, for `everyframe predict --model`."""
        return self.root / "model"

    @property
    def outcome(self) -> Path:
        """`Run` as JSON, written when the last step is done."""
        return self.root / "outcome.json"

    def checkpoint(self, resume: str | Path | None) -> Path | None:
        """Return the checkpoint to go on from, or None to start.

        Args:
            resume: "auto" (the last checkpoint of this folder, if any), a file, or None.

        Raises:
            InputError: nothing at the path, or `resume` is None and the folder holds a run already.
        """
        if resume == "auto":
            return self.last if self.last.exists() else None
        if resume is not None:
            if not Path(resume).is_file():
                raise InputError(f"resume: expected 'auto' or a checkpoint file, found nothing at {resume}")
            return Path(resume)
        if self.last.exists() and is_first_process():
            raise InputError(f"{self.root} holds a run already: go on with `--resume auto`, or choose another --out")
        return None


@dataclass(frozen=True)
class Run:
    """How a run ended.

    Attributes:
        folder: of the run.
        steps: optimiser steps done.
        score: best validation score (mIoU over the classes in the ground truth), or None without labels to validate on.
        best_step: step of that score.
    """

    folder: RunFolder
    steps: int
    score: float | None
    best_step: int

    def write(self) -> None:
        """Write how it ended to the folder: the file whose presence says that the run reached its last step."""
        outcome = {"steps": self.steps, "score": self.score, "best_step": self.best_step}
        write_whole(self.folder.outcome, json.dumps(outcome, indent=1) + "\n")


def train(
    model: Segmenter,
    data: TrainingData,
    out: str | Path,
    objective: Objective | None = None,
    optimization: Optimization | None = None,
    teacher: Teaching | None = None,
    steps: int = 40_000,
    validate_every: int = 2_000,
    save_every: int = 500,
    seed: int = 0,
    resume: str | Path | None = None,
    trainer: Mapping[str, Any] | None = None,
) -> Run:
    """Train a segmenter.

    The run is one long epoch of `steps` optimiser steps; validation and checkpoints come every so many of them.

    Args:
        model: the segmenter, trained in place.
        data: `ClipDataModule`, or any data module with what `TrainingData` names.
        out: folder of the run, see `RunFolder`.
        objective: what a batch costs; `video_objective(model)` when left out.
        optimization: optimiser and schedule; `Optimization()` when left out.
        teacher: with a weight above 0, Mean Teacher training: the data module gives labelled and unlabelled clips, and
            the teacher is validated and saved in place of `model`.
        steps: length of the run in optimiser steps.
        validate_every: optimiser steps between two validations; there is always one at the end.
        save_every: optimiser steps between two checkpoints; there is always one before a validation.
        seed: of dropout, stochastic depth and the student's colours. (The data module has its own.)
        resume: "auto" goes on from the folder's last checkpoint if there is one; or a checkpoint file.
        trainer: more arguments of `lightning.pytorch.Trainer`: devices, accumulate_grad_batches, …; `precision` is
            `native_precision()` when left out, and batch norm is synchronised between processes on CUDA devices.

    Raises:
        InputError: the folder holds a run already, the model was put together by hand, the loss became infinite or NaN,
            the data cannot be used.
        Interrupted: SIGTERM or SIGINT came; the checkpoint is written, the model too if no validation had chosen one.
    """
    options = dict(trainer or {})
    _check(model, data, teacher, options)
    folder = RunFolder(Path(out))
    checkpoint = folder.checkpoint(resume)
    check_lengths(steps, validate_every, save_every)
    check_seed("seed", seed)
    accumulate = int(options.get("accumulate_grad_batches", 1))
    data.batches_per_epoch = steps * accumulate
    validates = len(data.val_videos) > 0 and options.get("limit_val_batches") != 0
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")

    model.short_side = getattr(data, "short_side", None)
    model.to(memory_format=torch.channels_last)  # convolutions, the larger part of most networks, are faster so
    if is_first_process():
        folder.outcome.unlink(missing_ok=True)
    if teacher and teacher.weight:
        module: Supervised = MeanTeacher(
            model, teacher, seed, objective=objective, optimization=optimization, steps=steps
        )
    else:
        module = Supervised(model, objective, optimization, steps)
    best = BestModel(folder.model, folder.best, MONITOR)
    with _quiet(), StopSignals() as signals:
        # The order matters: a broken loss is found before the checkpoint is written, and the best model is known before
        # the scores are shown.
        callbacks = [
            SeedEachStep(seed),
            StopOnNonFiniteLoss(),
            Throughput(),
            LastCheckpoint(folder.last, save_every, validate_every, signals),
            ClassTable(folder.logs / "val_classes.csv"),
            best,
            *([Progress(steps)] if options.get("enable_progress_bar", True) else []),
        ]
        options = {"log_every_n_steps": min(50, validate_every, steps), **options}
        fit = _Fit(module, data, folder, best, callbacks, options, validate_every * accumulate, validates)
        try:
            if validates and checkpoint is not None and (missed := missed_validation(checkpoint, validate_every)):
                fit.run_to(missed, checkpoint)  # a stop cut it off, and Lightning would go on behind it
            done = fit.run_to(steps, checkpoint)
        except Interrupted as stopped:
            if best.step < 0 and module.exported.config:  # the first validation replaces it
                stopped.model = folder.model
                if is_first_process():
                    save(module.exported, folder.model)
            raise
    if not validates and is_first_process():
        save(module.exported, folder.model)
    score = best.score if validates and not math.isnan(best.score) else None  # NaN: validation without labels
    run = Run(folder, done, score, best.step)
    if is_first_process():
        run.write()
        for line in module.failings():
            print(line, file=sys.stderr)
    return run


def _check(model: Segmenter, data: TrainingData, teacher: Teaching | None, options: Mapping[str, Any]) -> None:
    """Refuse what would be found out steps later only, or not at all."""
    if owned := sorted({*options} & {*TRAINER_OWNED}):
        raise InputError(
            f"trainer: expected options that train leaves to the caller, came {', '.join(owned)}; leave them out"
        )
    if not model.config:
        raise InputError(
            "train: expected a model made by create_model, whose name and options can be saved with it, came one put "
            "together by hand; register its parts (docs/architecture.md) and build it by name"
        )
    if teacher and teacher.weight and not getattr(data, "unlabeled_batch_size", 1):
        raise InputError(
            "teacher: expected clips without labels to teach on, came data with unlabeled_batch_size 0; give the data "
            "module as many as labelled ones, ClipDataModule(..., batch_size=8, unlabeled_batch_size=8)"
        )


@dataclass(frozen=True)
class _Fit:
    """Lightning's loop, up to one step or another.

    Attributes:
        module: what is trained.
        data: what it is trained on.
        folder: of the run.
        best: keeps the best model.
        callbacks: in their order.
        options: of Lightning's trainer.
        interval: batches between two validations.
        validates: whether there is anything to validate on.
    """

    module: Supervised
    data: TrainingData
    folder: RunFolder
    best: BestModel
    callbacks: list[Callback]
    options: Mapping[str, Any]
    interval: int
    validates: bool

    def run_to(self, step: int, start: Path | None) -> int:
        """Train up to a step, and validate there.

        Args:
            step: optimiser steps done at the end.
            start: checkpoint to go on from; None for the beginning.

        Returns:
            The optimiser steps done.
        """
        limit = self.options.get("limit_val_batches") if self.validates else 0
        limits = {"max_steps": step, "val_check_interval": self.interval, "limit_val_batches": limit}
        lightning = _trainer({**self.options, **limits}, self.folder, self.callbacks)
        lightning.fit(self.module, datamodule=self.data, ckpt_path=start, weights_only=True)
        done = lightning.global_step
        if self.validates and self.best.validated_step != done:
            lightning.validate(self.module, datamodule=self.data, verbose=False)
            if is_first_process():
                last = self.folder.last
                self.best.keep(start if start is not None and step_of(start) == done else last, last)
        return done


def _trainer(options: Mapping[str, Any], folder: RunFolder, callbacks: list[Callback]) -> Trainer:
    """Build Lightning's trainer for one long epoch.

    Args:
        options: Lightning's, as the user gave them, and the limits of steps and validation.
        folder: of the run.
        callbacks: in their order.

    Raises:
        InputError: options that this machine or Lightning does not take.
    """
    chosen = {
        "precision": native_precision(),
        "sync_batchnorm": on_cuda(options),  # several processes only; torch has it for CUDA alone
        **options,
    }
    try:
        return Trainer(
            **chosen,
            logger=[CsvLogger(folder.logs), EventLogger(folder.logs)],
            callbacks=callbacks,
            max_epochs=-1,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            inference_mode=False,  # what a validation counts into is counted into by the next one, in whichever loop
            enable_checkpointing=False,  # `LastCheckpoint` and `BestModel` do it
            enable_model_summary=False,
            default_root_dir=folder.root,
            use_distributed_sampler=False,  # the data module deals out clips and videos
        )
    except (MisconfigurationException, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"trainer: expected options that fit this machine, came others: {reason}") from None


def on_cuda(options: Mapping[str, Any]) -> bool:
    """Whether a trainer of these options computes on CUDA devices."""
    return torch.cuda.is_available() and options.get("accelerator", "auto") in ("auto", "gpu", "cuda")


def native_precision() -> str:
    """Return "bf16-mixed" where the processor computes in bfloat16 itself, else "32-true".

    Where it does, a step takes about half the time; where it does not, bfloat16 is emulated and slower.
    """
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "32-true"
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    return "bf16-mixed" if {"amx_bf16", "avx512_bf16"} & set(flags) else "32-true"


def is_first_process() -> bool:
    """Whether this process is the first, or the only one, of the run."""
    return not getattr(rank_zero_only, "rank", 0)


def check_lengths(steps: int, validate_every: int, save_every: int) -> None:
    """Refuse lengths of less than a step."""
    for name, value in (("steps", steps), ("validate_every", validate_every), ("save_every", save_every)):
        if value < 1:
            raise InputError(f"{name}: expected at least 1 optimiser step, came {value}")


def check_seed(name: str, seed: int) -> None:
    """Refuse a seed that NumPy's generators do not take."""
    if seed < 0:
        raise InputError(f"{name}: expected a whole number from 0 on, came {seed}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's remarks about devices, workers and its own services out of the user's sight."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for pattern in NOISE:
                warnings.filterwarnings("ignore", pattern)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
