"""The one exception that users meet: a clear line instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """What the user gave cannot be used: a file, a folder, an option, a label id.

    The message says what was expected, what came, and what to do, in that order. The command line prints it as one
    line and exits with status 1; anything else that is raised is a defect of everyframe and keeps its traceback.
    """


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a file or folder is written into one clear line.

    Raises:
        InputError: no permission, a full disk, no such folder.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: expected to write here, cannot ({error.strerror or error}); free the disk or choose another place"
        ) from None
