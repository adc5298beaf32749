"""Zip files that are there whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_zip(out: str | Path, compression: int = zipfile.ZIP_DEFLATED) -> Iterator[zipfile.ZipFile]:
    """Write a zip that gets its name once it is whole; whatever is raised meanwhile leaves nothing behind.

    Args:
        out: its name; a file of that name is replaced.
        compression: `zipfile.ZIP_STORED` for what is compressed already.
    """
    out = Path(out)
    part = out.with_name(f".{out.name}.part")
    try:
        with zipfile.ZipFile(part, "w", compression) as archive:
            yield archive
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
