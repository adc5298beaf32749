"""The highest memory of a piece of work, on a CPU or a CUDA device."""

from __future__ import annotations

import ctypes
import threading

import torch

from everyframe.cli.bench_predict import resident_bytes


class PeakMemory:
    """Highest memory while it is open, above what was in use when it was opened.

    On CUDA torch's own count, else the process's resident memory, sampled every 2 ms.

    Attributes:
        extra: bytes, once it is closed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.extra = 0.0
        self._done = threading.Event()

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            _give_back()
            self._before = resident_bytes()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            self.extra = float(torch.cuda.max_memory_allocated(self.device) - self._before)
        else:
            self._done.set()
            self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.extra = max(self.extra, float(resident_bytes() - self._before))


def _give_back() -> None:
    """Let the C library return freed memory to the system, where it can: kept, it would hide what comes next."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another C library than GNU's
        return
