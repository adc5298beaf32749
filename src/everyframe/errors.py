"""The one exception that users meet: a clear line instead of a traceback."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave cannot be used: a file, a folder, an option, a label id.

    The message says what was expected, what came, and what to do, in that order. The command line prints it as one
    line and exits with status 1; anything else that is raised is a defect of everyframe and keeps its traceback.
    """
