"""Published files of weights, read without running anything that is in them."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.models.convert.config_text import parse_config
from everyframe.models.state import first_line, read_state

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Where training programs put the weights inside a checkpoint."""


class Inert(dict):
    """Stands for an object of another program's class: takes what the file says of it and does nothing."""

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


def _inert_getattr(*_: object) -> None:
    """Stand for `getattr` in the state of mmengine's `HistoryBuffer`."""


# Training programs put logs and command lines beside the weights. These names, and no others, become something inert:
# mmengine's message hub (https://github.com/open-mmlab/mmengine/issues/1655), arguments, numbers of numpy.
_HARMLESS: list[Any] = [
    (Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
    (Inert, "mmengine.config.config.ConfigDict"),
    (Inert, "mmcv.utils.config.ConfigDict"),
    (Inert, "addict.addict.Dict"),
    (Inert, "argparse.Namespace"),
    (Inert, "yacs.config.CfgNode"),
    (_inert_getattr, "builtins.getattr"),
    (_inert_getattr, "__builtin__.getattr"),
    *((rebuild, f"numpy.{core}.multiarray.{rebuild.__name__}")
      for core in ("core", "_core") for rebuild in (np.zeros(1).__reduce__()[0], np.float64(1).__reduce__()[0])),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]  # fmt: skip


@dataclass(slots=True)
class Source:
    """What was read.

    Attributes:
        name: the file or files, for messages.
        state: weights by their published names.
        config: the configuration beside the weights, or None: mmcv's and mmengine's with "model", transformers'
            `config.json` under "transformers".
        names: class names, or None.
        palette: their colours, or None.
        dropped: entries that are no weights -> why they are left out.
    """

    name: str
    state: dict[str, Tensor]
    config: dict[str, Any] | None = None
    names: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    dropped: dict[str, str] = field(default_factory=dict)


def read_source(path: str | Path) -> Source:
    """Read a .pth, .pt, .bin, .ckpt or .safetensors file, a .zip with one of them, or a folder of transformers.

    Raises:
        InputError: nothing there, damaged, or the file holds code or other things than weights.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of weights (.pth, .safetensors, .zip) or a folder, found nothing")
    if path.suffix == ".safetensors":
        return Source(str(path), read_state(path))
    if _is_archive(path):
        return _read_archive(path)
    return _read_checkpoint(path)


def _read_checkpoint(path: Path, name: str = "") -> Source:
    name = name or str(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError, EOFError, ... by the kind of damage
        raise InputError(
            f"{name}: expected a PyTorch file of plain weights, cannot read it safely "
            f"({type(error).__name__}: {_reason(error)}); nothing of it was run. If you trust who made it, save its "
            f"state_dict() alone and convert that"
        ) from None
    meta = content.get("meta") if isinstance(content, Mapping) else None
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(
            f"{name}: expected a dict of tensors (or one under {', '.join(map(repr, WRAPPERS))}), came something else"
        )
    dropped = {str(k): "no tensor" for k, v in content.items() if not isinstance(v, Tensor)}
    source = Source(name, without_prefix(tensors, "module."), dropped=dropped)
    if isinstance(meta, Mapping):
        _read_meta(source, meta)
    return source


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take a prefix off all names, if all of them have it."""
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def _reason(error: Exception) -> str:
    """Return what torch found in the file that it does not allow, or the first line of the error."""
    text = str(error)
    at = text.find("GLOBAL ")
    return f"it would run {text[at + 7 :].split()[0]}" if at >= 0 else first_line(error)[:120]


def _read_meta(source: Source, meta: Mapping[str, Any]) -> None:
    """Take configuration and classes from the "meta" of mmcv ("config", "CLASSES") and mmengine ("cfg")."""
    text = meta.get("cfg") or meta.get("config")
    if isinstance(text, str):
        config = parse_config(text, f"{source.name}, configuration")
        source.config = config if isinstance(config.get("model"), dict) else None
    classes = meta.get("dataset_meta") or {}
    names = meta.get("CLASSES") or classes.get("classes") or classes.get("CLASSES")
    colors = meta.get("PALETTE") or classes.get("palette") or classes.get("PALETTE")
    if isinstance(names, Sequence) and not isinstance(names, str):
        source.names = tuple(str(name).strip() for name in names)
        if isinstance(colors, Sequence) and len(colors) == len(names):
            source.palette = tuple((int(r), int(g), int(b)) for r, g, b in colors)


# -- archives and folders ----------------------------------------------------------------------------------------------


def _is_archive(path: Path) -> bool:
    """Tell an archive with a checkpoint in it from a checkpoint, which is a zip file too."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return not any(PurePosixPath(name).name == "data.pkl" for name in archive.namelist())


def _read_archive(path: Path) -> Source:
    with zipfile.ZipFile(path) as archive:
        endings = {".pth", ".pt", ".bin", ".ckpt"}
        names = [
            name
            for name in archive.namelist()
            if PurePosixPath(name).suffix in endings and not name.startswith("__MACOSX")
        ]
        if len(names) != 1:
            raise InputError(
                f"{path}: expected an archive with one .pth file, came {len(names)}; unpack it and give the file"
            )
        with tempfile.TemporaryDirectory() as folder:
            inside = Path(folder) / "weights.pth"  # a name of our own: the archive's may point anywhere
            with archive.open(names[0]) as packed, inside.open("wb") as out:
                while block := packed.read(1 << 24):
                    out.write(block)
            return _read_checkpoint(inside, f"{path}, {names[0]}")


def _read_folder(folder: Path) -> Source:
    """Read what transformers' `save_pretrained` wrote."""
    config_file = folder / "config.json"
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not config_file.is_file() or not files:
        raise InputError(
            f"{folder}: expected a folder of transformers (config.json and *.safetensors), came "
            f"{', '.join(sorted(p.name for p in folder.iterdir())[:6]) or 'an empty one'}; give the file of weights"
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{config_file}: expected JSON, came {error}; copy the folder anew") from None
    if config.get("library") == "everyframe":
        raise InputError(f"{folder}: this is a model of everyframe already; `everyframe predict --model {folder}`")
    source = Source(str(folder), {}, {"transformers": config})
    for file in files:
        source.state |= read_source(file).state
    labels = config.get("id2label") or {}
    source.names = tuple(str(labels[key]) for key in sorted(labels, key=int)) or None
    images = folder / "preprocessor_config.json"
    if images.is_file():
        source.config["preprocessor"] = json.loads(images.read_text(encoding="utf-8"))  # type: ignore[index]
    return source
