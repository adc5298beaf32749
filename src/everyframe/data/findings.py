"""What is wrong with a data set, said the same way while training starts and in `everyframe data check`.

A layout calls `found(...)`. Normally an error stops with an `InputError` and a warning is shown once; inside
`collecting()` both are only noted, so that the checker can go on and list everything.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from everyframe.errors import InputError

Level = Literal["error", "warning"]


class DataWarning(UserWarning):
    """A part of the data set is left out, and training goes on without it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem, in how many files it occurs, and what to do.

    Attributes:
        level: "error" when training would be wrong or stop, "warning" when something is left out or looks odd.
        what: the problem, in words that are the same for all files that have it.
        fix: what to do.
        files: the files or folders concerned.
    """

    level: Level
    what: str
    fix: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f"{self.files[0]}: " if self.files else ""
        more = f" (and {len(self.files) - 1} more)" if len(self.files) > 1 else ""
        return f"{where}{self.what}{more}{'; ' * bool(self.fix)}{self.fix}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"level": self.level, "what": self.what, "fix": self.fix, "files": list(self.files)}


@dataclass(slots=True)
class Findings:
    """Problems as they come in, joined where only the file differs."""

    files: dict[tuple[Level, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, level: Level, what: str, fix: str, files: Iterable[Path | str] = ()) -> None:
        """Note a problem of some files."""
        self.files[level, what, fix] += [str(file) for file in files]

    def joined(self) -> list[Finding]:
        """Return one finding for each problem, in the order in which they first came in."""
        return [Finding(level, what, fix, tuple(files)) for (level, what, fix), files in self.files.items()]


_collected: ContextVar[list[Finding] | None] = ContextVar("findings", default=None)


@contextmanager
def collecting() -> Iterator[list[Finding]]:
    """Note findings in the list given instead of raising or warning, until the block ends."""
    findings: list[Finding] = []
    token = _collected.set(findings)
    try:
        yield findings
    finally:
        _collected.reset(token)


def found(level: Level, what: str, fix: str, files: Sequence[Path | str] = ()) -> None:
    """Say that something is wrong.

    Raises:
        InputError: `level` is "error" and nobody collects.
    """
    finding = Finding(level, what, fix, tuple(map(str, files)))
    findings = _collected.get()
    if findings is not None:
        findings.append(finding)
    elif level == "error":
        raise InputError(str(finding))
    else:
        warnings.warn(str(finding), DataWarning, stacklevel=3)
