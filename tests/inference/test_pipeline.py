from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator

import pytest

from everyframe.inference.pipeline import ReadAhead, Stopwatch, WriteBehind


def threads() -> int:
    return sum(thread.name.startswith("everyframe") for thread in threading.enumerate())


def test_read_ahead_keeps_order_and_stays_bounded() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            yield i

    with ReadAhead(items(), 3) as ahead:
        for i in ahead:
            assert len(made) <= i + 1 + 3 + 2  # being handed over, waiting in the queue, waiting to get in
            if i == 5:
                time.sleep(0.05)
    assert made == list(range(20))
    assert threads() == 0


def test_read_ahead_stops_early_and_closes_the_source() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            i = 0
            while True:
                yield (i := i + 1)
        finally:
            closed.set()

    with ReadAhead(endless(), 2) as ahead:
        for i in ahead:
            if i == 3:
                break
    assert closed.is_set()
    assert threads() == 0


def test_read_ahead_raises_after_the_items_before() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise RuntimeError("broken file")

    with ReadAhead(items(), 8) as ahead:
        got = iter(ahead)
        time.sleep(0.02)
        assert (next(got), next(got)) == (1, 2)
        with pytest.raises(RuntimeError, match="broken file"):
            next(got)


class Unopened:
    """Items that cannot begin, such as a broken video."""

    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("broken file")


class Unclosed:
    """One item, and an end that goes wrong; or an item that goes wrong as well."""

    def __init__(self, failure: Exception) -> None:
        self._left: list[Exception | int] = [failure, 1]

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        item = self._left.pop()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        raise OSError("cannot close")


def read_in_time(items: Iterable[int]) -> list[int | str]:
    """All that a reader gets, with what is raised as text; a reader that waits for ever fails the test."""
    got: list[int | str] = []

    def read() -> None:
        try:
            with ReadAhead(items) as ahead:
                got.extend(ahead)
        except Exception as error:
            got.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(timeout=5)
    assert not reader.is_alive()
    return got


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_goes_wrong_at_either_end_reaches_the_reader() -> None:
    assert read_in_time(Unopened()) == ["broken file"]
    assert read_in_time(Unclosed(StopIteration())) == [1, "cannot close"]
    assert read_in_time(Unclosed(ValueError("bad frame"))) == [1, "bad frame"]  # the first cause, not the last


def test_write_behind_keeps_order_and_finishes() -> None:
    got: list[int] = []
    with WriteBehind(lambda i: (time.sleep(0.001), got.append(i))[1], 2) as behind:
        for i in range(30):
            behind.put(i)
    assert got == list(range(30))
    assert threads() == 0


def test_write_behind_raises_and_drops_the_rest() -> None:
    got: list[int] = []

    def consume(i: int) -> None:
        if i == 3:
            raise OSError("full")
        got.append(i)

    def put(items: range, pause: float) -> None:
        with WriteBehind(consume, 2) as behind:
            for i in items:
                behind.put(i)
                time.sleep(pause)

    with pytest.raises(OSError, match="full"):
        put(range(10_000), 0.001)  # far more than could be put if nothing travelled
    assert got == [0, 1, 2]
    with pytest.raises(OSError, match="full"):  # only seen when it ends
        put(range(3, 4), 0)
    assert threads() == 0


def test_write_behind_finishes_what_was_put_before_an_exception() -> None:
    got: list[int] = []

    def interrupted() -> None:
        with WriteBehind(got.append, 8) as behind:
            for i in range(5):
                behind.put(i)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert got == list(range(5))


def test_stopwatch_adds_up() -> None:
    watch = Stopwatch()
    for _ in watch.iterate((time.sleep(0.01) for _ in range(3)), "read"):
        with watch.measure("work"):
            time.sleep(0.005)
    assert 0.03 <= watch.seconds["read"] < 0.3
    assert 0.015 <= watch.seconds["work"] < 0.3
