"""Supervised training: step, log, nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from everyframe.data.layout import VideoRef
from everyframe.frames import Clip
from everyframe.metrics.functional import class_iou
from everyframe.metrics.stateful import ConfusionMatrix
from everyframe.models.segmenter import Segmenter
from everyframe.training.objective import Objective
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.optim import Optimization
from everyframe.training.validation import logged_scores, observe, share_buffers


class Supervised(LightningModule):
    """Trains a segmenter on clips with labelled query frames; validates it on whole videos as a stream.

    Args:
        model: the segmenter.
        objective: what a batch costs; `video_objective(model)` when left out.
        optimization: optimiser and schedule.
        steps: length of the run in optimiser steps, for the schedule.
    """

    def __init__(
        self,
        model: Segmenter,
        objective: Objective | None = None,
        optimization: Optimization | None = None,
        steps: int = 40_000,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective or video_objective(model)
        self.optimization = optimization or Optimization()
        self.steps = steps
        self.confusion = ConfusionMatrix(len(model.label_space))
        self.class_iou: dict[str, float] = {}

    @property
    def exported(self) -> Segmenter:
        """The model that is validated and saved."""
        return self.model

    def training_step(self, clip: Clip, batch_index: int) -> dict[str, Tensor]:
        """Return the cost of a batch of clips and its terms."""
        prediction = self.model(clip.images, clip.roles)
        costs = self.objective(prediction, clip, self.global_step)
        self.log_costs(costs, len(clip.videos))
        return {name: cost if name == "loss" else cost.detach() for name, cost in costs.items()}

    def log_costs(self, costs: Mapping[str, Tensor], clips: int, **more: Tensor | float) -> None:
        """Log the terms of a step's cost, and what else is measured in it."""
        values = {f"train/{name}": torch.as_tensor(value).detach() for name, value in {**costs, **more}.items()}
        # A row's step says how many optimiser steps its weights will have seen.
        self.log_dict({"step": float(self.global_step + 1), **values}, batch_size=clips)

    def on_validation_start(self) -> None:
        """Score the same model in every process."""
        share_buffers(self.exported)

    def validation_step(self, video: VideoRef | None, batch_index: int) -> None:
        """Label every frame of a video and count; None stands for no video (see `validation.video_loader`)."""
        if video is not None:
            observe(self.confusion, self.exported, video, self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        scores = self.collect_scores()
        self.log_dict({"step": float(self.global_step), **scores})

    def collect_scores(self) -> dict[str, float]:
        """Join the counts of all processes into scores by the names under which they are logged, and start anew."""
        matrix = self.confusion.compute()
        self.confusion.reset()
        self.class_iou = dict(zip(self.model.label_space.names, class_iou(matrix).tolist(), strict=True))
        return logged_scores(matrix)

    def failings(self) -> list[str]:
        """Return what a user should know of the run's end beside its score, in sentences."""
        return []

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Build the optimiser and its schedule per optimiser step."""
        mixed_and_clipped = "mixed" in self.trainer.precision and bool(self.trainer.gradient_clip_val)
        optimizer = self.optimization.optimizer(self.model, self.objective, fused=not mixed_and_clipped)
        schedule = self.optimization.schedule(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
