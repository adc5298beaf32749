"""The teacher: a moving average of the student's weights (Mean Teacher)."""

from __future__ import annotations

import copy
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Model = TypeVar("Model", bound=nn.Module)


def teacher_momentum(step: int, limit: float = 0.999) -> float:
    """Return the share of its own weights that the teacher keeps after step t: min(1 - 1 / (t + 1), limit).

    The teacher is the plain mean of all students so far until that mean would be slower than the limit, so it forgets
    the initial weights at once.

    Args:
        step: t, optimiser steps done before this one, from 0.
        limit: momentum of the long run.
    """
    return min(1 - 1 / (step + 1), limit)


class Teacher(nn.Module, Generic[Model]):
    """A copy of the student whose weights follow by an exponential moving average.

    Tarvainen and Valpola, "Mean teachers are better role models" (NeurIPS 2017). Always in eval mode, so it has no
    dropout and normalises by running statistics; no gradient ever reaches it. Buffers (running statistics, counters)
    are copied. So are the parameters of modules with an attribute `copied_by_teacher` that is true: what fills up slot
    by slot, or is an average already, must not be blended with what it was before.

    It has no state but its weights, which stand in a checkpoint like any module's.

    Args:
        student: the model to follow; it is copied and not kept.
        momentum: see `teacher_momentum`.

    Attributes:
        model: the averaged model.
    """

    def __init__(self, student: Model, momentum: float = 0.999) -> None:
        super().__init__()
        self.model = copy.deepcopy(student).requires_grad_(False)
        self.momentum = momentum
        self._copied = {
            name
            for prefix, module in student.named_modules()
            if getattr(module, "copied_by_teacher", False)
            for name, _ in module.named_parameters(prefix)
        }
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever the modules around it do."""
        return super().train(False)

    @torch.no_grad()
    def update(self, student: Model, step: int) -> None:
        """Follow the student after its optimiser step.

        Args:
            student: the model that was trained.
            step: optimiser steps done before this one, from 0.
        """
        own, new = dict(self.model.named_parameters()), dict(student.named_parameters())
        averaged = [name for name in own if name not in self._copied]
        average = get_ema_multi_avg_fn(teacher_momentum(step, self.momentum))
        average([own[name] for name in averaged], [new[name] for name in averaged], step)
        self._copy([own[name] for name in self._copied], [new[name] for name in self._copied])
        self._copy(list(self.model.buffers()), list(student.buffers()))

    def _copy(self, own: list[Tensor], new: list[Tensor]) -> None:
        for mine, theirs in zip(own, new, strict=True):
            mine.copy_(theirs)
