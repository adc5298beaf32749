"""Stream: one object per video that owns its state and turns frames into label maps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.inference.labelmap import label_map
from everyframe.inference.predictor import Predictor, State, timing

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precisions a predictor runs in. float32 is the default on every device, so that numbers agree between them."""


class Stream:
    """Label the frames of one video, one after the other.

    Predictors that look ahead answer late: `everyframe.inference.lookahead.LookAhead` feeds a stream of such a one.

    The model is put into eval mode and moved to the device, and stays so: in a training loop of your own, call
    `model.train()` afterwards. Its weights stay float32; lower precisions run by autocast, with the weights in
    channels-last memory.

    Args:
        predictor: a `Segmenter` or any wrapper; shared between streams, it is not changed by them.
        device: "auto" (a CUDA device if there is one, else the CPU), or as `torch.device` reads it.
        dtype: "float32" (the default), "bfloat16" (two to four times as fast where the processor has it, with label
            maps that differ in a few pixels of a thousand), "float16" (CUDA only).

    Attributes:
        state: what the predictor remembers of this video; None before the first frame.

    Raises:
        InputError: the device or precision does not exist here.

    Example:
        >>> stream = Stream(model)  # doctest: +SKIP
        >>> for frame in open_source("street.mp4"):  # doctest: +SKIP
        ...     labels = stream.step(frame)  # uint8 [H, W]
    """

    def __init__(self, predictor: Predictor, device: str | torch.device = "auto", dtype: str | None = None) -> None:
        self.predictor = predictor
        self.label_space = predictor.label_space
        self.device = pick_device(device)
        self.dtype = pick_dtype(dtype, self.device)
        self.state: State = None
        self._size: tuple[int, int] | None = None
        if isinstance(predictor, nn.Module):
            predictor.to(self.device).eval()
            if self.dtype is not torch.float32:  # three times as fast for ResNet-50; makes no difference in float32
                predictor.to(memory_format=torch.channels_last)

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the frames so far; None before the first one."""
        return self._size

    def reset(self) -> None:
        """Forget the video: the next frame is a first frame."""
        self.state, self._size = None, None

    def step(self, frame: Frame) -> NDArray[np.uint8]:
        """Label the next frame.

        Returns:
            uint8 [H, W] of the frame's own size, train ids 0..K-1.
        """
        check_answers_at_once(self.predictor)
        return to_numpy(label_map(self.logits(frame), frame.size)[0])

    @torch.inference_mode()
    def logits(self, frame: Frame) -> Tensor:
        """Take the step of `step`, and return its logits [1, K, h, w] before upsampling, on the device.

        Raises:
            InputError: the predictor gives another number of channels than it has classes.
        """
        if self._size is not None and self._size != frame.size:
            log.warning("frame %s: size changes from %s to %s; starts anew", frame.name, self._size, frame.size)
            self.reset()
        self._size = frame.size
        image = frame.image.unsqueeze(0).to(self.device, non_blocking=True)
        with self._autocast():
            logits, self.state = self.predictor.step(image, self.state)
        self._check(logits)
        return logits

    def restore(self, state: State, size: tuple[int, int]) -> None:
        """Go on where another stream of the same predictor stopped.

        Args:
            state: the `state` it had.
            size: (H, W) of its frames.
        """
        self.state, self._size = state, size

    def synchronize(self) -> None:
        """Wait until the device has done all that it was asked to (for stopwatches)."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _check(self, logits: Tensor) -> None:
        """Refuse logits of other classes: their argmax would be ids that stand in no table."""
        classes = len(self.label_space)
        if logits.ndim != 4 or logits.shape[1] != classes:
            raise InputError(
                f"{type(self.predictor).__name__}.step: expected logits [B, {classes}, h, w], one channel for each "
                f"class of its label_space, came {list(logits.shape)}; build the model and its label_space alike"
            )

    def _autocast(self) -> AbstractContextManager[object]:
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


@contextmanager
def kept_mode(model: object) -> Iterator[None]:
    """Give a model's modules back the mode, training or eval, that each had before the block; other objects pass."""
    before = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    try:
        yield
    finally:
        for module, training in before:  # one by one: frozen parts of a model that trains are in eval mode
            module.training = training


def check_answers_at_once(predictor: Predictor) -> None:
    """Refuse a predictor that looks ahead where every frame needs its answer at once.

    Raises:
        InputError: it looks ahead.
    """
    if timing(predictor) != (0, False):
        raise InputError(
            f"expected a model that answers each frame at once, came one that looks ahead ({timing(predictor)}); use "
            f"it in predict, stream or evaluate, or leave `offline` and `smooth_window` out"
        )


def to_numpy(labels: Tensor) -> NDArray[np.uint8]:
    """Return a label map [H, W] as a numpy array."""
    array: NDArray[np.uint8] = labels.cpu().numpy()
    return array


def pick_device(device: str | torch.device) -> torch.device:
    """Return the device; "auto" is a CUDA device if there is one, else the CPU.

    Raises:
        InputError: there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device: expected auto, cpu, or a device of this machine, came {device!r} ({reason})"
        ) from None
    return picked


def pick_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the precision; None is float32.

    Raises:
        InputError: not a precision that the device computes in.
    """
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in DTYPES or (name == "float16" and device.type == "cpu"):
        raise InputError(
            f"dtype: expected float32, bfloat16, or float16 on a CUDA device, came {name} on {device.type}"
        )
    return DTYPES[name]
