"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part"
"""Ending of a file that is being written; its name begins with a dot as well, so that no glob of results finds it."""


@contextmanager
def whole_file(path: str | Path, ending: str = PART) -> Iterator[Path]:
    """Yield a name beside `path` to write to, and give the file its real name once it is whole.

    Whatever is raised meanwhile, a signal too, leaves what stood at `path` as it was, and nothing of the new file.

    Args:
        path: of the file; its folder must exist.
        ending: of the name meanwhile, where the writer goes by it.

    Raises:
        OSError: the file cannot be written, see `everyframe.errors.writing`.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}{ending}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; of processes that write it at once, the last one's stays."""
    with whole_file(path, f".{os.getpid()}{PART}") as part:
        part.write_text(text, encoding="utf-8")


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file or folder to a name that it takes once the copy is whole; what stood there is replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}{PART}")
    if source.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        shutil.rmtree(target, ignore_errors=True)
    else:
        shutil.copy2(source, part)
    os.replace(part, target)


def file_digest(path: str | Path) -> str:
    """Return a digest of what a file holds, "" where there is none."""
    path = Path(path)
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
