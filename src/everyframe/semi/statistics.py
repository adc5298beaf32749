"""Batch normalisation under strong augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
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
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    kept = [dict(layer.named_buffers(recurse=False)) for layer in layers]
    try:
        for layer, buffers in zip(layers, kept, strict=True):
            for name, buffer in buffers.items():
                # Written to in its place. (A momentum of 0 lets NaN through; to write back is what autograd refuses.)
                setattr(layer, name, buffer.clone())
        yield
    finally:
        for layer, buffers in zip(layers, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(layer, name, buffer)
