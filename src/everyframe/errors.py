"""The one exception that users meet: a clear line instead of a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """What the user gave cannot be used: a file, a folder, an option, a label id.

    The message says what was expected, what came, and what to do, in that order. The command line prints it as one
    line and exits with status 1; anything else that is raised is a defect of everyframe and keeps its traceback.
    """


class DiskFullError(InputError):
    """There is no room for what is to be written; once there is, the same can be done again."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a file or folder is written into one clear line.

    Raises:
        InputError: no permission, no such folder, a file where a folder should be; `DiskFullError` for a full disk.
    """
    try:
        yield
    except OSError as error:
        cannot = f"{path}: expected to write here, cannot ({error.strerror or error})"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(f"{cannot}; free the disk or choose another place") from None
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise InputError(f"{cannot}; a file lies where a folder is needed: choose another place") from None
        raise InputError(f"{cannot}; choose another place") from None
