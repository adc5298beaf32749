"""`everyframe bench deform`: what deformable attention costs, beside the forms that others use.

plain         ours in PyTorch alone: bags of table rows
transformers  `multi_scale_deformable_attention` of Mask2Former in transformers: all samples stacked
grid_sample   the same level by level, without the stack
triton        ours on CUDA

The default is a layer of the pixel decoder for a 480x480 crop: maps of stride 8, 16 and 32, a query at each of their
cells. All forms get the same tensors, in turns within one run.
"""

from __future__ import annotations

import argparse
import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor

from everyframe.cli.bench_predict import machine
from everyframe.cli.parser import Parser
from everyframe.cli.timing import add_run_options, in_turns, tell
from everyframe.errors import InputError
from everyframe.inference.stream import pick_device, pick_dtype
from everyframe.models.ops.deform_attn import cell_centres
from everyframe.models.ops.deform_attn_forms import Form, forms

PASSES = ("forward", "both")
"""The forward pass alone; forward and backward."""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = Parser(
        prog="everyframe bench deform", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--crop", type=int, nargs="+", default=[480], metavar="N", help="side, or H W, of the crop (%(default)s)")
    add("--strides", type=int, nargs="+", default=[8, 16, 32], metavar="S", help="of the maps (8 16 32)")
    add("--batch", type=int, default=1, help="crops (%(default)s)")
    add("--heads", type=int, default=8, help="%(default)s")
    add("--channels", type=int, default=32, help="per head (%(default)s)")
    add("--points", type=int, default=4, help="per head and map (%(default)s)")
    add("--rounds", type=int, default=7, help="timed calls of each form; medians count (%(default)s)")
    add_run_options(made, dtype_of="of the values: ")
    return made


def main(arguments: list[str]) -> int:
    """Measure, print a table, and write JSON where asked to."""
    options = parser().parse_args(arguments)
    sizes = [*options.crop, *options.strides, options.batch, options.heads, options.channels, options.points]
    if min(*sizes, options.rounds) < 1 or len(options.crop) > 2:
        raise InputError("bench deform: expected numbers of at least 1 and one or two sides of the crop")
    if options.threads:
        torch.set_num_threads(options.threads)
    height, width = options.crop[0], options.crop[-1]
    device = pick_device(options.device)
    shapes = [(-(-height // stride), -(-width // stride)) for stride in options.strides]
    tensors = scene(shapes, options.batch, options.heads, options.channels, options.points)
    dtype = pick_dtype(options.dtype, device)
    value, locations, weights = (x.to(device) for x in tensors)
    numbers: dict[str, Any] = {
        "machine": machine(), "arguments": {k: str(v) for k, v in vars(options).items()}, "device": str(device),
        "shapes": shapes, "queries": locations.shape[1],
        **measure(forms(device), value.to(dtype), shapes, locations, weights, options.rounds),
    }  # fmt: skip
    tell(numbers, describe(numbers), options.json)
    return 0


def scene(
    shapes: list[tuple[int, int]], batch: int, heads: int, channels: int, points: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, locations and weights: each cell of the maps looks a few cells around itself on each map."""
    generator = torch.Generator().manual_seed(0)
    centres = cell_centres(shapes)  # S 2
    cells, levels = len(centres), len(shapes)
    value = torch.randn(batch, cells, heads, channels, generator=generator)
    offsets = 2 * torch.randn(batch, cells, heads, levels, points, 2, generator=generator)
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32)
    locations = centres[:, None, None, None] + offsets / sizes[:, None]
    weights = torch.randn(batch, cells, heads, levels * points, generator=generator).softmax(-1)
    return value, locations, weights.unflatten(-1, (levels, points))


def measure(
    candidates: dict[str, Form],
    value: Tensor,
    shapes: list[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    rounds: int,
) -> dict[str, Any]:
    """Time the forms in turns.

    Args:
        candidates: name -> form; "plain" is among them.
        value: see `ms_deform_attn`, as the next three.
        shapes: of the maps.
        locations: of the points.
        weights: of the points.
        rounds: timed calls of each form and pass; one more comes first, for what is loaded or compiled once.

    Returns:
        "seconds" {form: {pass: median}}; "ratio_plain_to_FORM_PASS" for every other form; "difference" {form: largest
        difference to the plain form, over its largest value}.
    """
    given = [x.clone().requires_grad_() for x in (value, locations, weights)]
    upstream = torch.randn(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]).to(value)

    def forward(form: Form) -> Tensor:
        with torch.no_grad():
            return form(given[0], shapes, given[1], given[2])

    def both(form: Form) -> None:
        torch.autograd.grad(form(given[0], shapes, given[1], given[2]), given, upstream)

    passes = {"forward": forward, "both": both}
    calls = {(name, part): partial(passes[part], form) for name, form in candidates.items() for part in PASSES}
    seconds = in_turns(calls, rounds, value.device)
    medians = {name: {part: statistics.median(seconds[name, part]) for part in PASSES} for name in candidates}
    outputs = {name: forward(form).float() for name, form in candidates.items()}
    largest = outputs["plain"].abs().max()
    others = [name for name in candidates if name != "plain"]
    return {
        "seconds": medians,
        **{
            f"ratio_plain_to_{name}_{part}": medians["plain"][part] / medians[name][part]
            for name in others
            for part in PASSES
        },
        "difference": {n: ((outputs[n] - outputs["plain"]).abs().max() / largest).item() for n in others},
    }


def describe(numbers: dict[str, Any]) -> str:
    """Return the table that the command prints."""
    maps = ", ".join(f"{h}x{w}" for h, w in numbers["shapes"])
    lines = [f"\nmaps {maps}, {numbers['queries']} queries, on {numbers['device']}; medians, in turns"]
    lines.append("  form           forward        with backward     plain takes of its time")
    for name, parts in numbers["seconds"].items():
        ratios = [numbers.get(f"ratio_plain_to_{name}_{part}") for part in PASSES]
        beside = "" if None in ratios else "   " + ", ".join(f"{ratio:6.2f}" for ratio in ratios)
        lines.append(f"  {name:12s} {parts['forward'] * 1e3:8.2f} ms     {parts['both'] * 1e3:10.2f} ms{beside}")
    return "\n".join(lines)
