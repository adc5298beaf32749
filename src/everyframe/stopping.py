"""SIGTERM (a scheduler's notice) and SIGINT (Ctrl-C): a first one stops in good order, a SIGINT after it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NUMBERS = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask to stop."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop.

    Attributes:
        signal: which one.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.signal = number


def signal_of(stopped: BaseException | None) -> signal.Signals:
    """Return the signal behind a `KeyboardInterrupt`, also behind one that was raised from another."""
    while stopped is not None and not isinstance(stopped, Stopped):
        stopped = stopped.__cause__
    return signal.SIGINT if stopped is None else stopped.signal


def end_now(number: int) -> None:
    """End the program as a signal does that nobody handles: no `finally`, no `except`, no waiting for threads."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """While entered, the first SIGTERM or SIGINT raises `Stopped` where the main thread is; a SIGINT after it ends the
    program at once. A signal that the program was started to ignore (`nohup`, a job in the background) stays ignored.
    Processes that are forked meanwhile take both signals as Python does.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows handlers nowhere else
        yield
        return
    process, came = os.getpid(), False

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal came
        if os.getpid() != process:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            end_now(number)
        if came and number == signal.SIGINT:
            end_now(number)
        if not came:
            came = True
            raise Stopped(signal.Signals(number))

    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
