"""Optical flow: where does each pixel of a frame lie in another one? Estimators for metrics, losses and models alike.

A flow is float32 [2, H, W], displacement (x, y) in pixels: the pixel (x, y) of the first frame lies at
(x + flow[0], y + flow[1]) in the second. Anything with a `between` method serves (`Flow`): flow that is known
(`GivenFlow`, such as the exact flow of synthetic videos), OpenCV's DIS, which needs no weights, or torchvision's RAFT.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everyframe.errors import InputError

FlowField = NDArray[np.float32]
"""[2, H, W]: (x, y) displacement in pixels."""


class FlowPair(NamedTuple):
    """Flow from the first frame to the second, and back when it is known (it tells which pixels are occluded)."""

    forward: FlowField
    backward: FlowField | None = None


class Flow(Protocol):
    """Anything that finds the flow between two frames."""

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        """Flow from the first frame to the second, uint8 [3, H, W] RGB, and back where it is known.

        Returns:
            `FlowPair` of numpy float32 [2, H, W] in pixels of the frames, x then y, all finite.
        """
        ...


class GivenFlow:
    """Flow that is known, one field for each pair of consecutive frames, in order.

    Args:
        forward: [2, H, W] fields, from each frame to the next.
        backward: fields from each frame back to the one before; without them nothing is taken as occluded.
    """

    def __init__(self, forward: Iterable[Any], backward: Iterable[Any] | None = None) -> None:
        self._forward = iter(forward)
        self._backward = None if backward is None else iter(backward)

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        """The next pair of fields; the pictures are not looked at, but their size must fit."""
        try:
            forward = next(self._forward)
            backward = None if self._backward is None else next(self._backward)
        except StopIteration:
            raise InputError("GivenFlow: expected a flow for every pair of consecutive frames, came too few") from None
        size = (int(first.shape[-2]), int(first.shape[-1]))
        return FlowPair(checked_flow(forward, size), None if backward is None else checked_flow(backward, size))


class DISFlow:
    """Dense inverse search (Kroeger et al., ECCV 2016) from OpenCV: no weights, some 20 ms a 480p pair.

    Args:
        preset: "ultrafast", "fast" or "medium", OpenCV's settings from coarse to fine.
        backward: also compute the flow back, so that occluded pixels can be told.
    """

    def __init__(self, preset: Literal["ultrafast", "fast", "medium"] = "medium", backward: bool = True) -> None:
        import cv2

        presets = {
            "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
            "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
            "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
        }
        if preset not in presets:
            raise InputError(f"DISFlow: expected a preset of {', '.join(presets)}, came {preset!r}")
        self.backward = backward
        self._preset = presets[preset]
        self._of_thread = threading.local()
        """`engine`, and the `size` of what it has seen: an engine that two threads share ends the process."""

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        """Flow between two frames, uint8 [3, H, W] RGB."""
        grey = [self._grey(image) for image in (first, second)]
        forward = self._run(grey[0], grey[1])
        return FlowPair(forward, self._run(grey[1], grey[0]) if self.backward else None)

    SMALLEST = 16
    """DIS fails on pictures of fewer than 12 pixels a side; smaller ones are padded."""

    def _run(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> FlowField:
        import cv2

        height, width = first.shape
        missing = [(0, max(0, self.SMALLEST - length)) for length in (height, width)]
        if any(after for _, after in missing):
            first, second = np.pad(first, missing, "edge"), np.pad(second, missing, "edge")
        own = self._of_thread
        if first.shape != getattr(own, "size", None):
            # On small pictures the engine lowers its own settings, and would keep them for larger ones.
            own.engine, own.size = cv2.DISOpticalFlow.create(self._preset), first.shape
        # Starts from no motion: each pair stands alone, whatever came before it.
        field = np.asarray(own.engine.calc(first, second, np.zeros((*first.shape, 2), np.float32)))
        return np.ascontiguousarray(field[:height, :width].transpose(2, 0, 1), dtype=np.float32)

    @staticmethod
    def _grey(image: Tensor) -> NDArray[np.uint8]:
        import cv2

        pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


class RAFTFlow:
    """RAFT (Teed and Deng, ECCV 2020) from torchvision, as the VSPW authors' TC uses it (20 updates).

    The network is built at the first pair, so that constructing this costs nothing. It runs in float32, whatever
    autocast says.

    Args:
        weights: a file with torchvision's state dict, or "download" for torchvision's published weights.
        size: "large" or "small".
        updates: refinement steps.
        device: where to run.
        backward: also compute the flow back, so that occluded pixels can be told.
    """

    SMALLEST = 128
    """RAFT's correlation pyramid needs frames of 128 pixels a side; smaller ones are padded."""

    def __init__(
        self,
        weights: str | Path = "download",
        size: Literal["large", "small"] = "large",
        updates: int = 20,
        device: str | torch.device = "cpu",
        backward: bool = True,
    ) -> None:
        if size not in ("large", "small"):
            raise InputError(f'RAFTFlow: expected size "large" or "small", came {size!r}')
        self.weights, self.size, self.updates = weights, size, updates
        self.device, self.backward = torch.device(device), backward
        self._network: torch.nn.Module | None = None

    @torch.inference_mode()
    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        """Flow between two frames, uint8 [3, H, W] RGB."""
        if self._network is None:
            self._network = self._build()
        pair = torch.stack([first, second]).to(self.device).float() / 127.5 - 1
        height, width = pair.shape[-2:]
        bottom, right = (max(-length % 8, self.SMALLEST - length) for length in (height, width))
        pair = torch.nn.functional.pad(pair, (0, right, 0, bottom), mode="replicate")
        # Both directions as one batch.
        sources, goals = (pair, pair.flip(0)) if self.backward else (pair[:1], pair[1:])
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 flow is off by a tenth of a pixel
            fields = self._network(sources, goals, num_flow_updates=self.updates)[-1]
        fields = fields[..., :height, :width].cpu().numpy()
        return FlowPair(fields[0], fields[1] if self.backward else None)

    def _build(self) -> torch.nn.Module:
        from torchvision.models import optical_flow

        large = self.size == "large"
        build = optical_flow.raft_large if large else optical_flow.raft_small
        if str(self.weights) == "download":
            published = optical_flow.Raft_Large_Weights if large else optical_flow.Raft_Small_Weights
            network = build(weights=published.DEFAULT)
        else:
            path = Path(self.weights)
            if not path.is_file():
                raise InputError(f"RAFTFlow: expected a weights file or 'download', found no file {path}")
            network = build(weights=None)
            try:
                network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            except Exception as error:  # many kinds: not a checkpoint, or the checkpoint of something else
                first_line = str(error).strip().splitlines()[0]
                raise InputError(
                    f"{path}: expected the state dict of torchvision's raft_{self.size}, came a file that does not "
                    f"load ({first_line})"
                ) from error
        return network.eval().to(self.device)


def checked_flow(flow: Any, size: tuple[int, int]) -> FlowField:
    """As float32 [2, H, W].

    Raises:
        InputError: another shape, or numbers that are not finite.
    """
    field = np.asarray(flow.detach().cpu() if isinstance(flow, Tensor) else flow, np.float32)
    if field.shape != (2, *size):
        raise InputError(
            f"flow: expected [2, {size[0]}, {size[1]}] like the frames, x then y, came {list(field.shape)}"
        )
    if not np.isfinite(field).all():
        raise InputError("flow: expected finite displacements, came NaN or infinity; leave such pixels out of view")
    return field


def checked_pair(pair: Any, size: tuple[int, int]) -> FlowPair:
    """Check what an estimator's `between` returned, both ways.

    Args:
        pair: as it came.
        size: (H, W) of the frames.

    Raises:
        InputError: no `FlowPair`, or see `checked_flow`.
    """
    if not isinstance(pair, FlowPair):
        raise InputError(
            f"flow: expected a FlowPair from between, came {type(pair).__name__}; return "
            f"everyframe.flow.FlowPair(forward, backward), or FlowPair(forward) where the way back is not known"
        )
    return FlowPair(
        checked_flow(pair.forward, size), None if pair.backward is None else checked_flow(pair.backward, size)
    )


def open_flow(flow: str | Flow, device: str | torch.device = "cpu", backward: bool = True) -> Flow:
    """Return an estimator by the name that options use. Nothing is read or downloaded before its first pair.

    Args:
        flow: "dis", "raft", "raft:WEIGHTS.pth"; an estimator comes back as it is.
        device: where RAFT runs; DIS runs on the CPU.
        backward: also compute the flow back.

    Raises:
        InputError: there is no such flow.
    """
    if not isinstance(flow, str):
        if not callable(getattr(flow, "between", None)) or isinstance(flow, type):
            came = f"the class {flow.__name__}" if isinstance(flow, type) else f"{type(flow).__name__} without it"
            raise InputError(f"flow: expected a name, or an object with between(first, second), came {came}")
        return flow
    name, _, weights = flow.partition(":")
    if name == "dis" and not weights:
        return DISFlow(backward=backward)
    if name == "raft":
        return RAFTFlow(weights or "download", device=device, backward=backward)
    raise InputError(
        f"flow: expected dis, raft or raft:WEIGHTS.pth, or an object with `between` (evaluation takes none too), came "
        f"{flow!r}"
    )


@cache
def named_flow(name: str, device: str = "cpu") -> Flow:
    """As `open_flow`, without flow back, and one for each device for the whole program."""
    return open_flow(name, device, backward=False)


@torch.no_grad()
def batch_flow(flow: str | Flow, first: Tensor, second: Tensor) -> Tensor:
    """Find the flow between the frames of two batches, one pair after the other.

    Args:
        flow: a name, see `open_flow`, which then runs on the device of `first` where it can; or an estimator.
        first: the frames on whose grid the flow is, 0..255, [N, 3, H, W] RGB.
        second: the frames into which it points, likewise.

    Returns:
        float32 [N, 2, H, W] in pixels, on the device of `first`.

    Raises:
        InputError: what the estimator gives is no flow, see `checked_pair`.
    """
    estimator = named_flow(flow, str(first.device)) if isinstance(flow, str) else flow
    pairs = zip(_as_bytes(first), _as_bytes(second), strict=True)
    size = (first.shape[-2], first.shape[-1])
    fields = [torch.from_numpy(checked_pair(estimator.between(a, b), size).forward) for a, b in pairs]
    return torch.stack(fields).to(first.device)


def _as_bytes(images: Tensor) -> Tensor:
    return images if images.dtype == torch.uint8 else images.round().clamp(0, 255).to(torch.uint8)
