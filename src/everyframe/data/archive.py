"""Zip files that are there whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from everyframe.files import whole_file


@contextmanager
def new_zip(out: str | Path, compression: int = zipfile.ZIP_DEFLATED) -> Iterator[zipfile.ZipFile]:
    """Write a zip that gets its name once it is whole; whatever is raised meanwhile leaves nothing behind.

    Args:
        out: its name; a file of that name is replaced.
        compression: `zipfile.ZIP_STORED` for what is compressed already.
    """
    with whole_file(out) as part, zipfile.ZipFile(part, "w", compression) as archive:
        yield archive
