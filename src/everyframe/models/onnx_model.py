"""Models that `everyframe export` wrote as ONNX, run by ONNX Runtime in the same ways as others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.labels import LabelSpace

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

METADATA = "everyframe"
"""Key under which a file describes itself."""

TYPES = {"tensor(float)": torch.float32, "tensor(bool)": torch.bool, "tensor(uint8)": torch.uint8}


def require(*packages: str) -> None:
    """Refuse to go on without packages of the extra `export`.

    Raises:
        InputError: one of them is missing.
    """
    for package in packages:
        try:
            import_module(package)
        except ImportError:
            raise InputError(
                f"expected the package {package} for ONNX files, it is not installed; pip install 'everyframe[export]'"
            ) from None


def onnx_session(path: str | Path, device: str | torch.device = "cpu") -> InferenceSession:
    """Open an ONNX file with as many threads as PyTorch has; on CUDA where that is asked for and built in.

    Raises:
        InputError: ONNX Runtime is missing, or the file is none.
    """
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    wanted = ["CUDAExecutionProvider"] if torch.device(device).type == "cuda" else []
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise InputError(
            f"{path}: expected an ONNX file, it cannot be opened ({str(error).splitlines()[0]}); export it anew"
        ) from None


class OnnxModel:
    """An exported model: a predictor like any other.

    Frames of another size than the model was exported for are resized to it (bilinear), whatever their shape.

    Args:
        path: .onnx file that `everyframe export` wrote, with logits as its output.
        device: "cpu", or "cuda" where ONNX Runtime was built for it.

    Attributes:
        label_space: the K classes.
        size: (H, W) that the model looks at frames at.
        predicts: see `everyframe.inference.predictor.Scored`.

    Raises:
        InputError: no such file, or not one that can be run frame by frame here.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        if not Path(path).is_file():
            raise InputError(f"{path}: expected a file that `everyframe export` wrote, found none")
        self.session = onnx_session(path, device)
        described = self.session.get_modelmeta().custom_metadata_map.get(METADATA)
        if described is None:
            raise InputError(f"{path}: expected an ONNX file that `everyframe export` wrote, came another one")
        content = json.loads(described)
        if content["output"] != "logits":
            raise InputError(
                f"{path}: expected an export with logits, came one with {content['output']}, which runs elsewhere "
                f"alone; export it with --output logits"
            )
        self.label_space = LabelSpace.from_dict(content["label_space"])
        self.size: tuple[int, int] = tuple(content["size"])
        self.predicts = content["predicts"]
        self._inputs = self.session.get_inputs()

    def step(self, frame: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Predict the next frame, see `Segmenter.step`.

        Raises:
            InputError: another number of streams than the model was exported for.
        """
        batch = self._inputs[0].shape[0]
        if len(frame) != batch:
            raise InputError(
                f"expected {batch} streams, for which the model was exported, came {len(frame)}; export it with "
                f"--batch {len(frame)}"
            )
        if tuple(frame.shape[-2:]) != self.size:
            resized = F.interpolate(frame.float(), self.size, mode="bilinear", align_corners=False, antialias=True)
            frame = resized.round().clamp(0, 255).to(torch.uint8)
        if state is None:
            state = [torch.zeros(given.shape, dtype=TYPES[given.type]) for given in self._inputs[1:]]
        logits, *following = self.call(self.session, [frame, *state])
        return logits.to(frame.device), following

    @staticmethod
    def call(session: InferenceSession, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run a session on its inputs in order; returns its outputs, on the CPU."""
        names = [given.name for given in session.get_inputs()]
        given: dict[str, Any] = {name: x.cpu().numpy() for name, x in zip(names, tensors, strict=True)}
        return [torch.from_numpy(x) for x in session.run(None, given)]
