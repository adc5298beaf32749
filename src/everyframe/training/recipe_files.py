"""The recipes that come with the package: found without what reads them, which takes seconds to import."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def recipes() -> dict[str, Path]:
    """Return the recipes that come with the package: name -> file."""
    folder = Path(str(files("everyframe") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
