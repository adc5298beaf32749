"""What a first and a second signal do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from everyframe.stopping import NUMBERS, Stopped, signal_of, stop_signals_raise

TWICE = """
import signal
from everyframe.stopping import Stopped, stop_signals_raise
with stop_signals_raise():
    try:
        signal.raise_signal(signal.{first})
    except Stopped:
        signal.raise_signal(signal.SIGTERM)  # no more than was asked for already
        print("in good order", flush=True)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            print("never", flush=True)
"""


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_signal_is_raised_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(KeyboardInterrupt) as stopped, stop_signals_raise():
        signal.raise_signal(number)
    assert signal_of(stopped.value) is number
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("first", ["SIGTERM", "SIGINT"])
def test_a_sigint_after_it_ends_the_program_at_once(first: str) -> None:
    run = subprocess.run([sys.executable, "-c", TWICE.format(first=first)], stdout=subprocess.PIPE, text=True)
    assert run.returncode == -signal.SIGINT
    assert run.stdout == "in good order\n"


def test_what_was_raised_from_a_signal_tells_which_one() -> None:
    assert signal_of(KeyboardInterrupt()) is signal.SIGINT
    outer = KeyboardInterrupt()
    outer.__cause__ = Stopped(signal.SIGTERM)
    assert signal_of(outer) is signal.SIGTERM


def test_ignored_signals_stay_ignored_and_other_threads_are_let_be() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_signals_raise():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    entered: list[bool] = []

    def enter() -> None:
        with stop_signals_raise():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_ends_by_sigterm_without_a_word() -> None:
    with stop_signals_raise():
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(7)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGTERM
