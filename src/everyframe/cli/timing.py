"""How the benches take time: the device's work included, and what is compared in turns."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

Name = TypeVar("Name")


def add_run_options(parser: argparse.ArgumentParser, dtype_of: str = "") -> None:
    """Add where and how a bench runs, and where its numbers go."""
    add = parser.add_argument
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (%(default)s)")
    add("--dtype", default="float32", help=f"{dtype_of}float32, bfloat16 or float16 (%(default)s)")
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--json", type=Path, metavar="FILE", help="write the numbers as JSON as well")


def tell(numbers: Mapping[str, Any], text: str, file: Path | None) -> None:
    """Print what a bench measured, with the machine (`numbers["machine"]`) first, and keep the numbers as JSON."""
    print(", ".join(f"{name} {value}" for name, value in numbers["machine"].items()))
    print(text)
    if file is not None:
        file.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one call; what the device had to do before it is not counted."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(calls: Mapping[Name, Callable[[], Any]], rounds: int, device: torch.device) -> dict[Name, list[float]]:
    """Time calls in turns, beginning with another one each time: whoever comes first finds other caches.

    Returns:
        Seconds of each call in `rounds` rounds; one more comes first, for what is loaded, compiled or allocated once.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(rounds + 1):
        start = turn % len(names)
        for name in (*names[start:], *names[:start]):
            took = timed(calls[name], device)
            if turn:
                seconds[name].append(took)
    return seconds
