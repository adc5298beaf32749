"""Batch normalisation under strong augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def unrecorded_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise by the statistics of the batch, as in training, and leave the running ones as they were.

    A student sees strongly changed colours beside pictures as they are. If both moved the running statistics, its
    teacher, which has them and sees pictures as they are, would normalise by a mixture that it never meets, and be the
    worse while the learning rate is high (docs/results-ssltm.md has the figures). Li et al., "Revisiting Batch
    Normalization for Practical Domain Adaptation" (2016), on statistics that belong to a domain.

    Args:
        model: in training mode, or not; synchronised batch normalisation is meant too.
    """
    layers = [(layer, layer.momentum) for layer in model.modules() if isinstance(layer, _BatchNorm)]
    kept = [[None if buffer is None else buffer.clone() for buffer in _buffers(layer)] for layer, _ in layers]
    try:
        for layer, _ in layers:
            layer.momentum = 0.0
        yield
    finally:
        for (layer, momentum), before in zip(layers, kept, strict=True):
            layer.momentum = momentum
            for buffer, value in zip(_buffers(layer), before, strict=True):
                if buffer is not None and value is not None:
                    buffer.copy_(value)  # a momentum of 0 does not keep out what is not finite


def _buffers(layer: _BatchNorm) -> tuple[Tensor | None, ...]:
    return layer.running_mean, layer.running_var, layer.num_batches_tracked
