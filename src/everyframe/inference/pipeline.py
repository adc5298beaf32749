"""Threads around a loop: read ahead, write behind, in bounded queues. Order is kept and exceptions travel."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")

QUEUE = 4
"""Items kept ready ahead of a loop, and items waiting behind it."""

POLL = 0.1
"""Seconds after which a thread that waits on a queue looks whether it is still wanted."""


class Stopwatch:
    """Seconds by stage. A stage is measured by one thread only, so that no lock is needed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def iterate(self, items: Iterable[Item], stage: str) -> Iterator[Item]:
        """Yield the items, and add the time each one takes to come to a stage."""
        iterator = iter(items)
        while True:
            try:
                with self.measure(stage):
                    item = next(iterator)
            except StopIteration:
                return
            yield item


class ReadAhead(Generic[Item]):
    """Iterate over `items` in a thread of its own, at most `depth` of them ahead.

    A context manager: leaving it stops the thread, also when the loop ends early, and closes the iterator.

    Args:
        items: iterated once, in the thread. What it raises (also when it begins or is closed) is raised to the reader,
            after the items before.
        depth: items kept ready.
    """

    def __init__(self, items: Iterable[Item], depth: int = QUEUE) -> None:
        self._items = items
        # An item comes as a tuple of one; what is none ends the row, an error if there was one.
        self._queue: queue.Queue[tuple[Item] | BaseException | None] = queue.Queue(max(depth, 1))
        self._unwanted = threading.Event()
        self._thread = threading.Thread(target=self._run, name="everyframe-read", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._unwanted.set()
        self._thread.join(timeout=5)  # a camera may block in its read; the thread is a daemon and ends with it

    def __iter__(self) -> Iterator[Item]:
        while True:
            entry = self._queue.get()
            if isinstance(entry, tuple):
                yield entry[0]
            elif entry is not None:
                raise entry
            else:
                return

    def _run(self) -> None:
        iterator: Iterator[Item] | None = None
        end: BaseException | None = None
        try:
            iterator = iter(self._items)  # opens the file, where the items are a video's
            for item in iterator:
                if not self._offer((item,)):
                    break
        except BaseException as error:  # travels to the reader
            end = error
        try:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        except BaseException as error:  # likewise, but what went wrong first is what the reader should see
            end = end or error
        self._offer(end)

    def _offer(self, entry: tuple[Item] | BaseException | None) -> bool:
        while not self._unwanted.is_set():
            try:
                self._queue.put(entry, timeout=POLL)
                return True
            except queue.Full:
                continue
        return False


class WriteBehind(Generic[Item]):
    """Hand items to `consume` in a thread of its own, at most `depth` of them waiting.

    A context manager: leaving it waits until all that was put is consumed, then raises what `consume` raised, unless
    another exception is on its way already.

    Args:
        consume: called with each item, in order. After it raises, the items that follow are dropped.
        depth: items waiting.
    """

    def __init__(self, consume: Callable[[Item], None], depth: int = QUEUE) -> None:
        self._consume = consume
        # An item comes as a tuple of one; None ends the row.
        self._queue: queue.Queue[tuple[Item] | None] = queue.Queue(max(depth, 1))
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="everyframe-write", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def put(self, item: Item) -> None:
        """Hand over an item; waits while the queue is full, raises what `consume` raised before."""
        if self._error is not None:
            raise self._error
        self._queue.put((item,))

    def _run(self) -> None:
        while True:
            entry = self._queue.get()
            if entry is None:
                return
            if self._error is None:
                try:
                    self._consume(entry[0])
                except BaseException as error:  # travels to whoever puts or leaves
                    self._error = error
