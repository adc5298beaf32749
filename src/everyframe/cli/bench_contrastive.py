"""`everyframe bench contrastive`: memory and time of the contrastive loss in tiles, beside the dense form.

Each measurement runs in a process of its own: forward and backward from features [2, C, h, w] that are there already.
Memory is the highest resident memory above that, sampled beside the loss (on CUDA: torch's own peak). The dense form's
memory at larger sizes is its measured one scaled by the square of the number of cells.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch

from everyframe.cli.bench_predict import machine
from everyframe.cli.parser import Parser
from everyframe.cli.peak_memory import PeakMemory
from everyframe.errors import InputError
from everyframe.losses.contrastive import contrastive_loss

MIB = 2**20


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = Parser(prog="everyframe bench contrastive", description=__doc__)
    made.add_argument("--dense-cells", type=int, default=7200, metavar="M", help="both forms (%(default)s)")
    made.add_argument("--cells", type=int, nargs="*", default=[28_800], metavar="M", help="tiled alone (%(default)s)")
    made.add_argument("--channels", type=int, default=256, help="C of the features (%(default)s)")
    made.add_argument("--classes", type=int, default=20, help="in the two frames (%(default)s)")
    made.add_argument("--tile", type=int, help="side of a tile in cells (default: the loss's own)")
    made.add_argument("--bfloat16", action="store_true", help="round the factors of the products to bfloat16")
    made.add_argument("--rounds", type=int, default=3, help="runs at --dense-cells, the best counts (%(default)s)")
    made.add_argument("--device", default="cpu", help="%(default)s")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON as well")
    return made


def main(arguments: list[str]) -> int:
    """Measure, print a table, and write JSON where asked to."""
    options = parser().parse_args(arguments)
    few = options.dense_cells
    if min([few, *options.cells, options.channels, options.classes, options.rounds]) < 2:
        raise InputError("bench contrastive: expected numbers of at least 2 (rounds too), came a smaller one")
    numbers: dict[str, Any] = {"machine": machine(), "arguments": {k: str(v) for k, v in vars(options).items()}}
    print(", ".join(f"{name} {value}" for name, value in numbers["machine"].items()))
    print("  form        cells   extra memory       time")
    dense = _row("dense", few, options, options.rounds)
    tiled = {few: _row("tiled", few, options, options.rounds)}
    tiled |= {cells: _row("tiled", cells, options, 1) for cells in options.cells if cells != few}
    most = options.cells[0] if options.cells else few
    scaled = dense["extra_mib"] * (most / few) ** 2
    numbers |= {
        "dense": {str(few): dense},
        "tiled": {str(cells): row for cells, row in tiled.items()},
        "cells": most,
        "dense_mib_scaled": scaled,
        "memory_ratio_tiled_to_dense": tiled[most]["extra_mib"] / scaled,
        "time_ratio_tiled_to_dense": tiled[few]["seconds"] / dense["seconds"],
        "value_difference": abs(tiled[few]["value"] - dense["value"]) / abs(dense["value"]),
    }
    print(f"  dense at {most} cells, scaled by the square: {scaled:.0f} MiB")
    print(f"  memory, tiled to dense at {most} cells: {numbers['memory_ratio_tiled_to_dense']:.2%}")
    print(f"  time, tiled to dense at {few} cells: {numbers['time_ratio_tiled_to_dense']:.2f}")
    if options.json is not None:
        try:
            options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{options.json}: expected a file that can be written, came {error.strerror}") from None
    return 0


def _row(form: str, cells: int, options: argparse.Namespace, rounds: int) -> dict[str, float]:
    """Measure in a fresh process, so that no memory of an earlier run is used again, and print."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, form, cells, options, rounds))
    process.start()
    send.close()
    try:
        row: dict[str, float] = receive.recv()
    except EOFError:
        raise InputError(
            f"bench contrastive: the {form} form at {cells} cells did not end (too little memory?); take fewer cells"
        ) from None
    finally:
        process.join()
    print(f"  {form:8s} {cells:8d} {row['extra_mib']:10.1f} MiB {row['seconds']:8.2f} s", flush=True)
    return row


def _child(send: Any, form: str, cells: int, options: argparse.Namespace, rounds: int) -> None:
    send.send(measure(form, cells, options, rounds))
    send.close()


def measure(form: str, cells: int, options: argparse.Namespace, rounds: int) -> dict[str, float]:
    """Run forward and backward of one form.

    Returns:
        Extra memory in MiB (highest of all rounds), seconds (of the best round), the loss, and the actual cells.
    """
    features, labels = scene(cells, options.channels, options.classes, options.device)
    products = torch.bfloat16 if options.bfloat16 else None
    warm = features[..., :2, :2].detach().clone().requires_grad_()
    contrastive_loss(warm, labels[..., :2, :2], products=products).backward()  # threads and kernels are loaded
    features.requires_grad_()
    seconds, value, extra = math.inf, 0.0, 0.0
    for _ in range(rounds):
        features.grad = None
        with PeakMemory(features.device) as peak:
            start = time.perf_counter()
            loss = contrastive_loss(features, labels, products=products, tile=options.tile, dense=form == "dense")
            loss.backward()
            value = loss.item()
            seconds = min(seconds, time.perf_counter() - start)
        del loss
        extra = max(extra, peak.extra)
    return {"extra_mib": extra / MIB, "seconds": seconds, "value": value, "cells": float(labels.numel())}


def scene(cells: int, channels: int, classes: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two frames of about `cells` cells together: regions of classes, and features that lean towards them."""
    generator = torch.Generator().manual_seed(0)
    side = max(round(math.sqrt(cells / 2)), 2)
    coarse = torch.randint(0, classes, (2, 1, 6, 8), generator=generator).float()
    labels = torch.nn.functional.interpolate(coarse, (side, side), mode="nearest")[:, 0].byte()
    centres = torch.randn(classes, channels, generator=generator)
    features = torch.randn(2, channels, side, side, generator=generator)
    features += centres[labels.long()].permute(0, 3, 1, 2)
    return features.to(device), labels.to(device)
