"""Progress bars on the terminal. Where standard error is a file or a pipe there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[str, int, int | None], None]
"""Told how far the work is: (what is worked on, units done, units in all where known)."""


@contextmanager
def progress_bar(what: str, *, bar_each: bool = False) -> Iterator[Advance | None]:
    """Show how far the work is.

    Args:
        what: stands before the bar until the work names what it is on.
        bar_each: one bar for everything that is worked on, with its speed, that stays; else one bar that goes.

    Yields:
        What to call as the work goes on; None where nobody looks.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    speed = (TextColumn("{task.fields[speed]}"),) if bar_each else ()
    with Progress(*columns, *speed, console=Console(stderr=True), transient=not bar_each) as bar:
        tasks: dict[str, TaskID] = {} if bar_each else {"": bar.add_task(what, total=None, speed="")}

        def advance(name: str, done: int, total: int | None) -> None:
            key = name if bar_each else ""
            if key not in tasks:
                tasks[key] = bar.add_task(name, total=total, speed="")
            rate = bar.tasks[tasks[key]].speed
            told = f"{rate:.1f} /s" if rate else ""
            bar.update(tasks[key], description=name or what, completed=done, total=total, speed=told)

        yield advance
