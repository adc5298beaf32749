"""What a command says when Ctrl-C or SIGTERM stops it."""

from __future__ import annotations

import sys

from everyframe.cli.progress import Advance
from everyframe.stopping import signal_of


class Told:
    """Remembers how far the work is, and passes it on to who shows it.

    Args:
        text: says how far, with the fields video, done, total (as the work tells them) and frames (told in all).

    Attributes:
        show: told as well; None where nobody looks.
    """

    def __init__(self, text: str) -> None:
        self.show: Advance | None = None
        self._text = text
        self._now = "before the first frame"
        self._frames = 0

    def __call__(self, video: str, done: int, total: int | None) -> None:
        """Take what an `Advance` is told."""
        self._frames += 1
        self._now = self._text.format(video=video, done=done, total=total, frames=self._frames)
        if self.show is not None:
            self.show(video, done, total)

    def __str__(self) -> str:
        return self._now


def tell_stopped(verb: str, stopped: KeyboardInterrupt, what: str = "") -> int:
    """Say what was done and what was not, and return the exit status: 130 after Ctrl-C, 143 after SIGTERM."""
    number = signal_of(stopped)
    print(f"everyframe {verb}: stopped by {number.name}{what and f', {what}'}", file=sys.stderr)
    return 128 + number
