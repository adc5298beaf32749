"""Saved models: a folder with `config.json` and `model.safetensors`, here or on the Hugging Face hub."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everyframe.errors import InputError, writing
from everyframe.files import whole_file
from everyframe.labels import LabelSpace
from everyframe.models import hub
from everyframe.models.onnx_model import OnnxModel
from everyframe.models.runs import run_of, runs_in
from everyframe.models.segmenter import Segmenter
from everyframe.models.state import load_state, read_state, save_tensors
from everyframe.models.transformers_files import (
    PICKLE_FILES,
    PROCESSOR_FILES,
    SAFETENSORS_FILES,
    is_transformers,
    load_transformers,
)
from everyframe.models.transformers_model import TransformersModel
from everyframe.models.zoo import create_model, find_parts

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
RUNS_SHOWN = 12
_EXPECTED = f"expected a model folder of everyframe ({CONFIG} and {WEIGHTS})"


def save(model: Segmenter, folder: str | Path, metrics: Mapping[str, float] | None = None) -> None:
    """Write a model so that `load` can read it.

    Args:
        model: made by `create_model`.
        folder: created when missing; files of an earlier model in it are replaced.
        metrics: measured numbers to keep with the model; a key carries its variant, for example "mIoU (gt-classes)".

    Raises:
        InputError: the model was put together by hand or holds an object as an option, or the folder cannot be written
            (`DiskFullError` for a full disk).
    """
    if not model.config:
        raise InputError(
            "save: expected a model made by create_model, whose name and options can be written down, came one put "
            "together by hand; set model.config = {'name': ..., 'options': {...}} if create_model can build it"
        )
    folder = Path(folder)
    try:
        described_as = json.dumps(describe(model, metrics), indent=1) + "\n"
    except TypeError as error:
        raise InputError(
            f"save: expected options that JSON can hold, came one that it cannot ({error}); give parts by name, "
            f'such as temporal={{"flow": "dis"}}'
        ) from None
    tensors: dict[str, Tensor] = {name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Both are written before either gets its name: an interrupted or full disk leaves the earlier model whole.
        with whole_file(folder / CONFIG) as described, whole_file(folder / WEIGHTS) as weights:
            save_tensors(weights, tensors, {"format": "pt"})
            described.write_text(described_as, encoding="utf-8")


def describe(model: Segmenter, metrics: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return the content of `config.json`."""
    options = dict(model.config.get("options", {}))
    return {
        "library": "everyframe",
        "everyframe_version": _version(),
        "class": type(model).__name__,
        "name": model.config["name"],
        "options": options,
        "image": {
            "mean": (model.mean.flatten() / 255).tolist(),
            "std": (model.std.flatten() / 255).tolist(),
            "short_side": model.short_side,
        },
        "label_space": model.label_space.to_dict(),
        "metrics": dict(metrics or model.config.get("metrics", {})),
    }


def load(
    path: str | Path, *, strict: bool = True, device: str | torch.device = "cpu", allow_pickle: bool = False
) -> Segmenter | TransformersModel | OnnxModel:
    """Read a saved model: a folder, an .onnx file, or "owner/name" (or "owner/name@revision") on the Hugging Face hub.

    Besides the models of everyframe these are segmentation models of `transformers` (SegFormer, UperNet, MaskFormer,
    Mask2Former, EoMT, VidEoMT and others, see `everyframe.models.transformers_model.FAMILIES`), which then run in the
    same ways, and what `everyframe export` wrote as ONNX. No code of a folder is run, and nothing but tensors is read
    from its weights.

    Args:
        path: folder of a model or of a training run, .onnx file, or hub id; an existing folder wins.
        strict: refuse weights that do not fit the model exactly; otherwise take what fits and log the rest.
        device: where the model goes.
        allow_pickle: for models of `transformers` without safetensors, read pytorch_model.bin; tensors only.

    Returns:
        The model in eval mode.

    Raises:
        InputError: not found, not a model that can be run, damaged, or weights that do not fit.
    """
    folder = Path(model_path(path))
    if folder.suffix == ".onnx" and not folder.is_dir():
        return OnnxModel(folder, device)
    on_hub = not folder.exists()
    if on_hub:
        folder = hub.download(str(path), (CONFIG,))
    content = _read_json(folder)
    if is_transformers(content):
        if on_hub:
            folder = hub.download(str(path), (CONFIG, *PROCESSOR_FILES, *SAFETENSORS_FILES))
            if allow_pickle and not any(folder.glob("*.safetensors")):
                folder = hub.download(str(path), PICKLE_FILES)
        return load_transformers(folder, content, strict=strict, allow_pickle=allow_pickle, device=device)
    if on_hub:
        folder = hub.download(str(path), (CONFIG, WEIGHTS))
    return _build(folder, read_config(folder), strict).to(device).eval()


def model_path(model: str | Path) -> str | Path:
    """Return where a model lies: of the folder of a training run its `model`, else what came."""
    within = Path(model) / "model"
    is_run = (within / CONFIG).is_file() and not (Path(model) / CONFIG).exists()
    return within if is_run else model


def load_segmenter(path: str | Path, *, strict: bool = True, device: str | torch.device = "cpu") -> Segmenter:
    """Read a saved model whose parts are needed, not only its predictions: one of everyframe's own. See `load`.

    Raises:
        InputError: as `load`, and for models of `transformers`.
    """
    model = load(path, strict=strict, device=device)
    if not isinstance(model, Segmenter):
        came = "an exported one" if isinstance(model, OnnxModel) else f"{type(model.network).__name__} of transformers"
        raise InputError(
            f"{path}: expected a model that everyframe trained, came {came}, which runs in predict, evaluate and "
            f"ensemble alone"
        )
    return model


def _build(folder: Path, config: Mapping[str, Any], strict: bool) -> Segmenter:
    """Make the model that `config` describes, with the weights beside it."""
    try:
        find_parts(str(config["name"]))
    except InputError as error:
        own = "one with parts of your own needs them first: `everyframe --import FILE.py`, or import them before `load`"
        raise InputError(f"{folder / CONFIG}: {error}; {own}") from None
    try:
        model = create_model(config["name"], LabelSpace.from_dict(config["label_space"]), **config["options"])
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder / CONFIG}: cannot build this model with everyframe {_version()} ({error}); it was saved by "
            f"{config.get('everyframe_version', 'an unknown version')}: install that one, or copy the model anew"
        ) from None
    model.config |= {"metrics": config["metrics"]} if config["metrics"] else {}
    model.short_side = config["image"]["short_side"]
    load_state(model, read_state(folder / WEIGHTS), folder / WEIGHTS, strict=strict)
    return model


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read and check `config.json` of a saved model.

    Raises:
        InputError: the folder holds no model of everyframe.
    """
    path, config = Path(folder) / CONFIG, _read_json(folder)
    if not isinstance(config, dict) or config.get("library") != "everyframe" or config.get("class") != "Segmenter":
        kind = config.get("model_type", "another program's") if isinstance(config, dict) else "another program's"
        raise InputError(f"{path}: {_EXPECTED}, came the configuration of a {kind} model")
    lost = [key for key in ("name", "options", "label_space", "image") if key not in config]
    if lost:
        raise InputError(f"{path}: {_EXPECTED}, its entries {', '.join(lost)} are missing; copy the model anew")
    config.setdefault("metrics", {})
    config["image"].setdefault("short_side", None)
    return config


def _read_json(folder: str | Path) -> Any:
    """Return the content of a folder's `config.json`, whatever program wrote it.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(f"{folder}: {_EXPECTED}, {_found(Path(folder))}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected JSON, came {error}; the file is damaged: copy the model anew") from None


def _found(path: Path) -> str:
    """Say what lies where a model was expected, and what to give if it belongs to a run."""
    if run := run_of(path):
        return f"came a checkpoint of everyframe; give its run: {run}"
    if runs := runs_in(path):
        more = f" and {len(runs) - RUNS_SHOWN} more" if len(runs) > RUNS_SHOWN else ""
        return f"{path} holds runs: {', '.join(runs[:RUNS_SHOWN])}{more}; give one, such as {path / runs[0]}"
    if path.suffix == ".pt2":
        return "came an archive for torch.export; give the model's folder, or export it as .onnx"
    return f"found no {CONFIG}"


def push_to_hub(
    model: Segmenter,
    repo_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    private: bool = False,
    token: str | None = None,
    commit_message: str = "Upload model",
) -> str:
    """Upload a model and its card to the Hugging Face hub; `load(repo_id)` reads it back.

    Args:
        model: made by `create_model`.
        repo_id: "owner/name"; created when missing.
        metrics: measured numbers for the card; a key carries its variant, for example "mIoU (gt-classes)".
        private: whether a new repository is private.
        token: access token; left out, the one that `hf auth login` stored.
        commit_message: see the hub's history.

    Returns:
        The address of the upload.

    Raises:
        InputError: not an id, no access, or no network.
    """
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder, metrics)
        card = hub.model_card(describe(model, metrics), repo_id)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        return hub.upload(Path(folder), repo_id, private=private, token=token, commit_message=commit_message)


def _version() -> str:
    try:
        return version("everyframe")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
