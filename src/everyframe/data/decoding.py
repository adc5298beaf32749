"""Threads that decode ahead of a loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self, TypeVar

Item = TypeVar("Item")

AHEAD = 4
"""Results that wait per thread, at most."""


class DecodingThreads:
    """Calls functions ahead of the loop that takes their results; picture decoders release the interpreter lock.

    A context manager: leaving it drops what nobody took.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        self._ahead = AHEAD * max(threads, 1)
        self._threads = ThreadPoolExecutor(max(threads, 1), "everyframe-decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def ahead(self, function: Callable[..., Item], jobs: Iterable[tuple[Any, ...]]) -> Iterator[Item]:
        """Yield `function(*job)` of each job in order, a bounded number of them worked out ahead."""
        waiting: deque[Future[Item]] = deque()
        for job in jobs:
            waiting.append(self._threads.submit(function, *job))
            if len(waiting) >= self._ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
