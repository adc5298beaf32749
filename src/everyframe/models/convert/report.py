"""What became of every weight of a published file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from everyframe.errors import writing
from everyframe.models.convert.keys import few


@dataclass(slots=True)
class Report:
    """What a conversion did.

    Attributes:
        source: the file or files.
        kind: key of `kinds.KINDS`.
        model: name in the zoo.
        parameters: of the model.
        classes: names of the model's classes.
        used: published name -> ours.
        changed: our name -> what was done to the tensor.
        dropped: published name -> why it was left out.
        unused: published names that have no place in the model.
        missing: our names that the file should hold and does not.
        mismatched: our name -> (shape here, shape in the file).
        fresh: our name -> why it is not expected in the file and begins fresh.
        fresh_classes: wanted classes that no published class becomes.
        assumed: what no shape says and was taken from the published configurations.
        notes: further sentences.
    """

    source: str
    kind: str
    model: str = ""
    parameters: int = 0
    classes: tuple[str, ...] = ()
    used: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[Sequence[int], Sequence[int]]] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    fresh_classes: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def lacks(self) -> bool:
        """Whether the model is incomplete."""
        return bool(self.missing or self.mismatched)

    @property
    def leaves(self) -> bool:
        """Whether a part of the file is not in the model, without a reason."""
        return bool(self.unused or self.mismatched)

    def problems(self) -> str:
        """Return what is missing, unused or of another shape, on one line."""
        shapes = [f"{name} {list(ours)} here, {list(theirs)} there" for name, (ours, theirs) in self.mismatched.items()]
        kinds = {
            "weights are missing": self.missing,
            "keys have no place in the model": self.unused,
            "weights have another shape": shapes,
        }
        return "; ".join(f"{len(names)} {kind}: {few(names, 4)}" for kind, names in kinds.items() if names)

    def summary(self) -> str:
        """Return a few lines."""
        lines = [f"{self.source}: {self.kind} -> {self.model}, {self.parameters / 1e6:.2f} M parameters, "
                 f"{len(self.classes)} classes" if self.model else f"{self.source}: {self.kind}"]  # fmt: skip
        lines.append(f"used {len(self.used)} keys; dropped {len(self.dropped)}{_reasons(self.dropped)}")
        if self.changed:
            lines.append(f"changed {len(self.changed)}{_reasons(self.changed)}")
        if self.fresh:
            lines.append(f"fresh {len(self.fresh)}{_reasons(self.fresh)}")
        if self.fresh_classes:
            count = f"{len(self.fresh_classes)} of {len(self.classes)}"
            lines.append(f"fresh classes, {count} without a source: {few(self.fresh_classes, 8)}")
        if self.problems():
            lines.append(self.problems())
        lines += [f"taken for granted: {line}" for line in self.assumed]
        lines += [f"note: {line}" for line in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dicts that JSON can hold."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write all of it as JSON.

        Raises:
            InputError: the file cannot be written.
        """
        with writing(path):
            Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def _reasons(entries: dict[str, str]) -> str:
    """Return " (12 of this, 3 of that)"."""
    counts: dict[str, int] = {}
    for reason in entries.values():
        counts[reason] = counts.get(reason, 0) + 1
    return f" ({'; '.join(f'{n} {reason}' for reason, n in counts.items())})" if counts else ""
