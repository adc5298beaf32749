"""Published files of weights, read without running anything that is in them."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from everyframe.errors import InputError
from everyframe.models.convert.config_text import parse_config
from everyframe.models.convert.pickles import read_pickle
from everyframe.models.runs import run_of
from everyframe.models.state import first_line, read_state

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Where training programs put the weights inside a checkpoint."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What parallel training, `torch.compile` and Lightning put before all names."""

ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".safetensors")
"""Of files of weights inside an archive."""


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
        notes: sentences for the report.
    """

    name: str
    state: dict[str, Tensor]
    config: dict[str, Any] | None = None
    names: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] | None = None
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_source(path: str | Path, entry: str | None = None) -> Source:
    """Read a .pth, .pt, .bin, .ckpt or .safetensors file, a .zip with one of them, or a folder of transformers.

    Args:
        path: of it.
        entry: which weights to take of several in one file, such as "state_dict_ema" or "teacher": the key of a
            dictionary, or what stands before the names; None takes those under `WRAPPERS`.

    Raises:
        InputError: nothing there, damaged, the file holds code or other things than weights, or `entry` holds none.
    """
    path = Path(path)
    if path.is_dir():
        if entry is not None:
            raise InputError(f"{path}: --entry {entry} chooses weights of a file, came a folder; leave it out")
        return _read_folder(path)
    if not path.is_file():
        raise InputError(f"{path}: expected a file of weights (.pth, .safetensors, .zip) or a folder, found nothing")
    if run := run_of(path):
        raise InputError(
            f"{path}: expected published weights, came a checkpoint of everyframe, whose model needs no conversion; "
            f"give its run: `everyframe predict --model {run}`"
        )
    if _is_archive(path):
        return _read_archive(path, entry)
    return _read_file(path, entry)


def _read_file(path: Path, entry: str | None = None, name: str = "") -> Source:
    """Read one file of weights; `name` stands in messages, the path unless given."""
    name = name or str(path)
    content = read_state(path) if path.suffix == ".safetensors" else read_pickle(path, name)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    weights, notes = _find_weights(content, name, entry)
    tensors = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    dropped = {str(key): "no tensor" for key, value in weights.items() if not isinstance(value, Tensor)}
    source = Source(name, without_prefixes(tensors), dropped=dropped, notes=notes)
    if isinstance(meta, Mapping):
        _read_meta(source, meta)
    return source


def _find_weights(content: Any, name: str, entry: str | None) -> tuple[Mapping[Any, Any], list[str]]:
    """Return the names and tensors in a checkpoint, and notes on other weights in it."""
    content = content if isinstance(content, Mapping) else {}
    inner = _dictionaries(content)
    first = entry if entry in inner else next((key for key in WRAPPERS if key in inner), None)
    others = [key for key, value in inner.items() if key != first and _has_tensors(value)]
    if first is not None:
        content = content[first]
    while key := next((key for key in WRAPPERS if key in _dictionaries(content)), None):
        content = content[key]
    if entry not in (None, first):
        under = {str(key): x for key, x in content.items() if str(key).startswith(f"{entry}.")}
        if not _has_tensors(under):
            raise InputError(f"{name}: expected weights under {entry!r} (--entry), came {_listed([*others, *content])}")
        return without_prefix(under, f"{entry}."), []
    if entry is not None and not _has_tensors(content):  # whoever names an entry wants no other
        choice = f"choose one of {_listed(others)}" if others else "leave --entry out"
        raise InputError(f"{name}: expected weights under {entry!r} (--entry), came no tensor; {choice}")
    if _has_tensors(content):
        again = [] if entry else others
        return content, [f"the file has other weights too, under {key!r}: --entry {key} takes them" for key in again]
    if len(others) == 1:
        return inner[others[0]], [f"the weights are those under {others[0]!r}"]
    came = f"several: choose with --entry, one of {_listed(others)}" if others else "something else"
    raise InputError(f"{name}: expected a dict of tensors (or one under {', '.join(map(repr, WRAPPERS))}), came {came}")


def _dictionaries(content: Mapping[Any, Any]) -> dict[str, Mapping[Any, Any]]:
    """Return the dictionaries that stand in a dictionary."""
    return {str(key): value for key, value in content.items() if isinstance(value, Mapping)}


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in content.values())


def _listed(keys: Sequence[object]) -> str:
    return ", ".join(map(str, keys[:6])) + ("…" if len(keys) > 6 else "")


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take a prefix off all names, if all of them have it."""
    if all(name.startswith(prefix) for name in state):
        return {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off whatever of `PREFIXES` all names have."""
    while state and (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)):
        state = without_prefix(state, prefix)
    return dict(state)


def _read_meta(source: Source, meta: Mapping[str, Any]) -> None:
    """Take configuration and classes from the "meta" of mmcv ("config", "CLASSES") and mmengine ("cfg")."""
    text = meta.get("cfg") or meta.get("config")
    if isinstance(text, str):
        config = parse_config(text, f"{source.name}, configuration")
        source.config = config if isinstance(config.get("model"), dict) else None
        if source.config is None:
            source.notes.append("the configuration in the file is not of plain values and was not read")
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
    return zipfile.is_zipfile(path) and not any(PurePosixPath(name).name == "data.pkl" for name in _contents(path))


def _contents(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: expected an archive that can be unpacked, came {first_line(error)}; fetch it anew")


def _read_archive(path: Path, entry: str | None) -> Source:
    names = [name for name in _contents(path) if name.endswith(ENDINGS) and not name.startswith("__MACOSX")]
    if len(names) != 1:
        raise InputError(
            f"{path}: expected an archive with one file of weights ({', '.join(ENDINGS)}), came {len(names)}; unpack "
            f"it and give the file"
        )
    with tempfile.TemporaryDirectory() as folder:
        # A name of our own: the archive's may point anywhere.
        inside = (Path(folder) / "weights").with_suffix(PurePosixPath(names[0]).suffix)
        try:
            with zipfile.ZipFile(path) as archive, archive.open(names[0]) as packed, inside.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 24)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last one: it has a password
            raise _damaged(path, error) from None
        return _read_file(inside, entry, f"{path}, {names[0]}")


def _read_folder(folder: Path) -> Source:
    """Read what transformers' `save_pretrained` wrote."""
    config_file = folder / "config.json"
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not config_file.is_file() or not files:
        raise InputError(
            f"{folder}: expected a folder of transformers (config.json and *.safetensors), came "
            f"{', '.join(sorted(p.name for p in folder.iterdir())[:6]) or 'an empty one'}; give the file of weights"
        )
    config = _read_json(config_file)
    if config.get("library") == "everyframe":
        raise InputError(f"{folder}: this is a model of everyframe already; `everyframe predict --model {folder}`")
    source = Source(str(folder), {}, {"transformers": config})
    for file in files:
        source.state |= read_state(file)
    labels = config.get("id2label") or {}
    if all(str(key).isdecimal() for key in labels):
        source.names = tuple(str(labels[key]) for key in sorted(labels, key=int)) or None
    images = folder / "preprocessor_config.json"
    if images.is_file():
        source.config = {"transformers": config, "preprocessor": _read_json(images)}
    return source


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected JSON, came {error}; copy the folder anew") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, came {type(content).__name__}; copy the folder anew")
    return content
