"""A folder in which one process is at work, and the commands that it starts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from everyframe.errors import InputError, writing

_HELD: set[int] = set()
"""Open lock files of this process."""


def _let_go() -> None:
    """Close what a fork has inherited: a data loader's worker must not keep a folder when its run was killed."""
    for file in _HELD:
        os.close(file)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)

LOCK = ".lock"
"""File that is held; it stays, empty, when the work is done."""


@contextlib.contextmanager
def claim(folder: Path, verb: str) -> Iterator[tuple[int, ...]]:
    """Hold a folder as long as this is entered, and as long as a command lives that was started with what it yields.

    A command that a killed process left behind writes on: two that go on with the same files would mix their results.

    Args:
        folder: made if it is not there.
        verb: how messages name who works in it.

    Yields:
        File descriptors for `pass_fds` of the commands that write into the folder; none where the system or the disk
        knows no locks, and nobody is kept out then.

    Raises:
        InputError: another process holds the folder, or it cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR)
    _HELD.add(file)
    try:
        yield (file,) if _locked(file, folder, verb) else ()
    finally:
        if file in _HELD:  # not in a fork
            _HELD.remove(file)
            os.close(file)


def _locked(file: int, folder: Path, verb: str) -> bool:
    """Lock an open file; False where that cannot be done."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{folder}: another `everyframe {verb}`, or a command that one left behind, is at work there; wait for it, "
            f"or choose another --out"
        ) from None
    except OSError:  # some network disks
        return False
    return True
