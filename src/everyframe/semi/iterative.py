"""The record of iterative self-training: which stages are done, what each one cost, where to go on.

The loop itself trains and predicts and lives above (`everyframe.training.self_training`); what it cost is what it is
compared by (SSLTM, supplement, fig. 3: iterative training against Mean Teacher in mIoU, hours and disk).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from everyframe.errors import InputError, writing
from everyframe.files import write_whole


@dataclass
class Stage:
    """One step of the loop: a training run, or the labelling of all videos.

    Attributes:
        name: "round0/train", "round1/label", "round1/train", ...
        status: "running" stands in a record whose loop was stopped or killed in this stage.
        seconds: wall time in all lives of the loop together.
        bytes: size on disk of everything in the stage's folder when it ended.
        results: what the stage reports: mIoU, frames, coverage, ...
        began: Unix time at which the life under way began; None when no one is at it.
    """

    name: str
    status: Literal["running", "done"] = "running"
    seconds: float = 0.0
    bytes: int = 0
    results: dict[str, Any] = field(default_factory=dict)
    began: float | None = None

    @property
    def hours(self) -> float:
        """Wall time in hours."""
        return self.seconds / 3600

    def __str__(self) -> str:
        results = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in self.results.items())
        return f"{self.name}: {self.hours:.3f} hours, {self.bytes / 1e6:.1f} MB on disk{results and ', '}{results}"


class StageRecord:
    """The stages of a loop in a JSON file that is rewritten as a whole whenever one begins or ends.

    Args:
        path: of the file; read when it exists.
        settings: what the result depends on, as JSON holds it; a loop that goes on must have the same.

    Raises:
        InputError: the file belongs to a loop of other settings, or is no record.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(settings))
        self.stages: dict[str, Stage] = {}
        if path.exists():
            self._read()

    def done(self, name: str) -> bool:
        """Tell whether a stage has ended."""
        return name in self.stages and self.stages[name].status == "done"

    @contextmanager
    def stage(self, name: str, folder: Path) -> Iterator[Stage]:
        """Be at a stage: measure its time and its folder, and call it done unless something is raised.

        Args:
            name: of the stage.
            folder: everything it writes lies in there. Of a life that was killed, the youngest file tells the end.
        """
        stage = self.stages.setdefault(name, Stage(name))
        if stage.began is not None:
            stage.seconds += max(0.0, _youngest(folder) - stage.began)
        stage.began = time.time()
        start = time.monotonic()
        self.save()
        try:
            yield stage
            stage.status = "done"
        finally:
            stage.seconds += time.monotonic() - start
            stage.began, stage.bytes = None, bytes_on_disk(folder)
            self.save()

    def save(self) -> None:
        """Write the file.

        Raises:
            InputError: it cannot be written.
        """
        stages = [{**asdict(stage), "hours": stage.hours} for stage in self.stages.values()]
        totals = {"hours": sum(s.hours for s in self.stages.values()), "bytes": sum(s["bytes"] for s in stages)}
        text = json.dumps({"settings": self.settings, "stages": stages, **totals}, indent=1)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, text)

    def _read(self) -> None:
        try:
            record = json.loads(self.path.read_text(encoding="utf-8"))
            settings = record["settings"]
            for entry in record["stages"]:
                stage = Stage(**{key: value for key, value in entry.items() if key != "hours"})
                self.stages[stage.name] = stage
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}: expected the record of an earlier loop, came {error!r}; remove the folder to start anew"
            ) from None
        ours = dict(_leaves(self.settings))
        theirs = dict(_leaves(settings))
        differ = [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]
        if differ:
            shown = "; ".join(f"{k} {theirs.get(k)!r} there, {ours.get(k)!r} now" for k in differ[:3])
            raise InputError(
                f"{self.path}: expected the settings of the loop in this folder, came others ({shown}); use the same "
                f"ones to go on, or another --out"
            )


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        yield prefix, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))


def bytes_on_disk(folder: Path) -> int:
    """Return the summed size of all files below a folder; 0 when there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _youngest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.rglob("*") if path.is_file()), default=0.0)
