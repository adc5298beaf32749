"""everyframe: label one frame per video; get every frame right.

The public names below load on first use, so that `import everyframe` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Clip": "frames",
    "Frame": "frames",
    "InputError": "errors",
    "LabelSpace": "labels",
    "Results": "metrics.results",
    "Segmenter": "models.segmenter",
    "create_model": "models.zoo",
    "evaluate": "evaluate",
    "load": "models.checkpoint",
    "predict": "predict",
    "stream": "predict",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'everyframe' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(import_module(f"everyframe.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
