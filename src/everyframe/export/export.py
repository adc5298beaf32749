"""Write a saved model as a file that other runtimes read, and compare it with the model before it gets its name."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from everyframe.errors import InputError, writing
from everyframe.export.check import Agreement, compare
from everyframe.export.traced import Output, Traced, trace
from everyframe.files import whole_file
from everyframe.models.checkpoint import load_segmenter
from everyframe.models.onnx_model import METADATA, OnnxModel, onnx_session, require
from everyframe.models.segmenter import Segmenter

FORMATS = (".onnx", ".pt2")
"""Endings of what can be written: ONNX, and the archive of `torch.export`."""

OPSET = 20
"""ONNX's version 20 has what is needed (grid_sample of any layout); runtimes since 2024 read it."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        traced: its graph.
        agreement: how near it is to the model.
    """

    path: Path
    traced: Traced
    agreement: Agreement

    def __str__(self) -> str:
        frame = self.traced.program.example_inputs[0][0]
        state = self.traced.state.values()
        kept = sum(tensor.numel() * tensor.element_size() for tensor in state)
        return (
            f"{self.path}: {self.path.stat().st_size / 1e6:.1f} MB; takes uint8 {list(frame.shape)} RGB and "
            f"{len(state)} state tensors ({kept / 1e6:.2f} MB, zeros at a video's first frame), gives "
            f"{self.traced.output}\n{self.agreement}"
        )


def export(
    model: str | Path | Segmenter,
    path: str | Path,
    *,
    size: tuple[int, int],
    output: Output = "logits",
    batch: int = 1,
    frames: int = 12,
) -> Exported:
    """Write a model's step as ONNX or as a `torch.export` archive.

    The graph takes `frame`, uint8 [B, 3, H, W] RGB, and what the stream remembers as `state_...`; it gives `logits` (or
    `labels`) and `next_...` for the next frame. Zeros begin a video. `everyframe.load` reads ONNX files again, and
    `predict` and `evaluate` run them.

    Args:
        model: a saved model's folder or hub id, or a built one, which stays as it is.
        path: .onnx (needs the extra `export`) or .pt2.
        size: (H, W) of the frames.
        output: "logits" at the head's stride, which `everyframe predict` needs; or "labels", uint8 [B, H, W].
        batch: B, streams side by side.
        frames: of the video on which the file is compared with the model.

    Raises:
        InputError: a model that cannot be exported, another ending, a package that is missing, or a file that differs
            from the model; nothing is written then.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: expected a name that ends in {' or '.join(FORMATS)}, came {path.suffix or 'none'}")
    if path.suffix == ".onnx":
        require("onnx", "onnxscript", "onnxruntime")
    if frames < 2:
        raise InputError(f"export: expected at least 2 frames to compare, came {frames}")
    segmenter = load_segmenter(model) if isinstance(model, str | Path) else copy.deepcopy(model)
    segmenter = segmenter.cpu().eval().requires_grad_(False)
    traced = trace(segmenter, size, batch=batch, output=output)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, ending=path.suffix) as part:
            write = _write_onnx if path.suffix == ".onnx" else _write_archive
            agreement = compare(traced, write(traced, part), frames)
            if not agreement.holds():
                raise InputError(
                    f"{path}: expected an export that agrees with the model, came one that does not ({agreement}); "
                    f"nothing was written"
                )
    return Exported(path, traced, agreement)


def description(traced: Traced) -> dict[str, Any]:
    """Return what a file says of itself, as JSON holds it."""
    return {
        "library": "everyframe",
        "model": traced.model.config.get("name"),
        "label_space": traced.model.label_space.to_dict(),
        "size": list(traced.size),
        "output": traced.output,
        "predicts": traced.model.head.predicts,
    }


def _write_archive(traced: Traced, path: Path) -> Any:
    torch.export.save(traced.program, path, extra_files={f"{METADATA}.json": json.dumps(description(traced))})
    module = torch.export.load(path).module()
    return lambda frame, state: module(frame, *state)


def _write_onnx(traced: Traced, path: Path) -> Any:
    with _quietly():
        program = torch.onnx.export(
            traced.program, dynamo=True, input_names=traced.inputs, output_names=traced.outputs, opset_version=OPSET,
            verbose=False,
        )  # fmt: skip
        assert program is not None
        program.model.metadata_props[METADATA] = json.dumps(description(traced))
        program.save(path)
    session = onnx_session(path)
    return lambda frame, state: OnnxModel.call(session, [frame, *state])


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the exporters' notes on their own steps away from the user."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
