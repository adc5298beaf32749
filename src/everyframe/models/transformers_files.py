"""Folders that `transformers` saved: what to fetch of them, and how they become predictors."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace
from everyframe.models.state import first_line
from everyframe.models.transformers_model import FAMILIES, TransformersModel

logger = logging.getLogger(__name__)

MINIMUM = "5.4"
"""The first version of transformers that has all of `FAMILIES` and processors that work on tensors."""

PROCESSOR_FILES = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
SAFETENSORS_FILES = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")


def is_transformers(config: Any) -> bool:
    """Whether the content of a config.json is that of a model of `transformers`."""
    return isinstance(config, Mapping) and "model_type" in config and config.get("library") != "everyframe"


def load_transformers(
    folder: Path,
    config: Mapping[str, Any],
    *,
    strict: bool = True,
    allow_pickle: bool = False,
    device: str | torch.device = "cpu",
) -> TransformersModel:
    """Build a predictor from a folder that `transformers` saved. Reads this folder only, and runs no code in it.

    Args:
        folder: holds config.json, the processor's settings and the weights.
        config: content of its config.json.
        strict: refuse weights that leave parts of the network without; otherwise log which, they stay random.
        allow_pickle: where there are no safetensors, take pytorch_model.bin; nothing but tensors is unpickled.
        device: where the model goes.

    Returns:
        The model in eval mode, its weights in float32.

    Raises:
        InputError: transformers is missing or too old, or the folder holds no segmentation model that can be run.
    """
    class_name, predictor = _family(folder, config)
    pickled = _uses_pickle(folder, allow_pickle)
    if not any(_there(folder, PROCESSOR_FILES)):
        raise InputError(
            f"{folder}: expected {' or '.join(PROCESSOR_FILES[:2])}, which says how pictures are resized and "
            f"normalised, found neither; copy it from the model that this one was made from"
        )
    library = _import_library()
    read: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with _quiet(library):
            network, report = getattr(library, class_name).from_pretrained(
                folder, **read, dtype=torch.float32, use_safetensors=not pickled, output_loading_info=True
            )
        make = (
            library.AutoVideoProcessor if predictor.input_type == "videos" else _image_processor_class(library, folder)
        )
        processor = make.from_pretrained(folder, **read)
    except Exception as error:  # the library raises OSError, ValueError, RuntimeError, ... by what is wrong
        raise InputError(
            f"{folder}: transformers {library.__version__} cannot load this {config['model_type']} model: "
            f"{first_line(error)[:200]}; copy its files anew, or try the version of transformers that saved it "
            f"({config.get('transformers_version', 'not known')})"
        ) from error
    _check_complete(folder, class_name, sorted(report["missing_keys"]), strict)
    try:
        reduced = getattr(processor, "do_reduce_labels", False) or _reduces_labels(_settings(folder))
        return predictor(network, processor, label_space(network.config, reduced)).to(device).eval()
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def label_space(config: Any, reduce_labels: bool = False) -> LabelSpace:
    """Return the classes of a model of `transformers`.

    Args:
        config: has `num_labels` and `id2label`; names that come twice get their number behind them.
        reduce_labels: the masks that it learned from hold class + 1, and 0 where there is none (as ADE20K's do):
            these are the raw ids then.

    Raises:
        InputError: more classes than a label map can hold.
    """
    count = int(config.num_labels)
    names = [str(config.id2label.get(k, f"class {k}")) for k in range(count)]
    times = Counter(names)
    names = [f"{name} ({k})" if times[name] > 1 else name for k, name in enumerate(names)]
    raw = {IGNORE: IGNORE, **{k + 1: k for k in range(count)}, 0: IGNORE} if reduce_labels else {}
    return LabelSpace(tuple(names), raw_to_train=raw)


def _family(folder: Path, config: Mapping[str, Any]) -> tuple[str, type[TransformersModel]]:
    kind = config["model_type"]
    architectures = config.get("architectures") or []
    if kind not in FAMILIES:
        raise InputError(
            f"{folder}: expected a model of everyframe, or a semantic segmentation model of transformers "
            f"({', '.join(FAMILIES)}), came {', '.join(architectures) or 'a model'} ({kind})"
        )
    class_name, predictor = FAMILIES[kind]
    if architectures and class_name not in architectures:
        raise InputError(
            f"{folder}: expected {class_name}, came {', '.join(architectures)}, which predicts no label maps; choose "
            f"a model that was trained for semantic segmentation"
        )
    return class_name, predictor


def _uses_pickle(folder: Path, allow_pickle: bool) -> bool:
    """Whether the weights must be read from a pickle.

    Raises:
        InputError: they must but may not, or there are none.
    """
    if any(_there(folder, SAFETENSORS_FILES)):
        return False
    pickles = [*_there(folder, PICKLE_FILES)]
    if pickles and allow_pickle:
        return True
    convert = "everyframe.load(..., allow_pickle=True).save_pretrained(FOLDER) makes a folder of safetensors"
    if pickles:
        raise InputError(f"{folder}: expected weights in safetensors, came {pickles[0].name}, a pickle; {convert}")
    raise InputError(
        f"{folder}: expected weights in safetensors, found none; on the hub the branch refs/pr/N may hold them "
        f"(owner/name@refs/pr/N), or else {convert}"
    )


def _there(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        yield from sorted(folder.glob(pattern))


def _check_complete(folder: Path, class_name: str, lost: list[str], strict: bool) -> None:
    """Refuse, or log, parts of the network that the weights do not have."""
    if not lost:
        return
    what = (
        f"the weights lack {len(lost)} parts of {class_name}: {', '.join(lost[:6])}{', ...' if len(lost) > 6 else ''}"
    )
    if strict:
        raise InputError(
            f"{folder}: {what}; was it saved before it was trained for segmentation? load with strict=False to run it "
            f"with these parts random"
        )
    logger.warning("%s: %s; they are random", folder, what)


def _settings(folder: Path) -> dict[str, Any]:
    """Return the content of preprocessor_config.json; nothing where the settings lie in another file."""
    path = folder / PROCESSOR_FILES[0]
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return settings


def _image_processor_class(library: Any, folder: Path) -> Any:
    """Return what reads the processor: a class by its name of before transformers 4.26, else the library's choice."""
    name = str(_settings(folder).get("image_processor_type", ""))
    if name.endswith("FeatureExtractor"):
        return getattr(library, name.replace("FeatureExtractor", "ImageProcessor"))
    return library.AutoImageProcessor


def _reduces_labels(settings: Mapping[str, Any]) -> bool:
    """Whether the training masks counted classes from 1, by the names that older files have for it."""
    return bool(settings.get("reduce_labels") or settings.get("reduce_zero_label"))


def _import_library() -> Any:
    """Import transformers.

    Raises:
        InputError: it is not installed, or too old.
    """
    need, install = f"this model needs transformers {MINIMUM} or newer", "pip install 'everyframe[hub]'"
    try:
        import transformers
    except ImportError as error:
        raise InputError(f"{need}, which cannot be imported ({first_line(error)}); {install}") from None
    if tuple(map(int, transformers.__version__.split(".")[:2])) < tuple(map(int, MINIMUM.split("."))):
        raise InputError(f"{need}, came {transformers.__version__}; {install}")
    return transformers


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keep the library's bars and reports off the terminal: what is wrong is said in one line, by us."""
    log = library.utils.logging
    shown, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if shown:
            log.enable_progress_bar()
