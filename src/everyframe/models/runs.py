"""Where a training run keeps its model: what to give when something else of the run was named."""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = "checkpoints"
MODEL_CONFIG = Path("model") / "config.json"
RUN_CONFIG = "config.yaml"


def run_of(checkpoint: Path) -> Path | None:
    """Return the run whose training wrote a checkpoint (to go on from, not to predict with), if it has a model."""
    run = checkpoint.parent.parent
    is_one = checkpoint.suffix == ".ckpt" and checkpoint.parent.name == CHECKPOINTS and checkpoint.is_file()
    return run if is_one and (run / RUN_CONFIG).is_file() and (run / MODEL_CONFIG).is_file() else None


def runs_in(folder: Path) -> list[str]:
    """Return the names of the runs with a model that lie in a folder."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if (path / MODEL_CONFIG).is_file())
