"""everyframe: label one frame per video; get every frame right.

The public names below load on first use, so that `import everyframe` stays light.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
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
    "export": "export.export",
    "load": "models.checkpoint",
    "predict": "predict",
    "stream": "predict",
}
"""Public name -> file that defines it."""

__all__ = sorted(_PUBLIC)


class _Package(ModuleType):
    """Keeps `everyframe.predict` and `everyframe.evaluate` functions.

    Importing the file of that name would put the module in the function's place. The module stays importable:
    `from everyframe.predict import Summary`.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'everyframe' has no attribute {name!r}; public names: {', '.join(__all__)}")
        value = getattr(import_module(f"everyframe.{_PUBLIC[name]}"), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _PUBLIC or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return __all__


sys.modules[__name__].__class__ = _Package
