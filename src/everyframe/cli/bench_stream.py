"""`everyframe bench stream`: what memory of earlier frames costs on a stream, beside the same network without it.

Three ways to label every frame with the same weights, in turns within one run:

frame    backbone and head alone, each frame for itself (OCRNet, for SSLTM)
stream   `step`: each frame is encoded once, the temporal module sees earlier ones through its state
clip     `forward`: reference and adjacent frames are encoded again for every output

With --short, --window and --stride, and for models trained at a short side of their own, the stream alone: each frame
is resized and cut as `everyframe evaluate` does it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everyframe.cli.bench_predict import machine, moving
from everyframe.cli.parser import Parser
from everyframe.cli.timing import add_run_options, in_turns, tell
from everyframe.cli.views import add_look
from everyframe.errors import InputError
from everyframe.frames import Role
from everyframe.inference.predictor import Predictor
from everyframe.inference.stream import pick_device, pick_dtype
from everyframe.inference.trained_side import OwnSide
from everyframe.inference.views import Views, with_views
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import load_segmenter
from everyframe.models.cost import count_macs, count_parameters
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import Memory, state_bytes
from everyframe.models.zoo import create_model

WAYS = ("frame", "stream", "clip")


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = Parser(
        prog="everyframe bench stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--model", default="ssltm-swin-small", help="name of the zoo, random weights; or a saved folder (%(default)s)")
    add("--classes", type=int, default=124, help="of a model of the zoo (%(default)s)")
    add("--size", type=int, nargs=2, default=(480, 853), metavar=("H", "W"), help="of a frame (480 853)")
    add("--frames", type=int, default=9, help="timed outputs of each way (%(default)s)")
    add("--ways", nargs="+", choices=WAYS, default=WAYS, help="which to time (default: all)")
    add_look(made)
    add_run_options(made)
    return made


def main(arguments: list[str]) -> int:
    """Measure, print a table, and write JSON where asked to."""
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.frames < 1 or min(options.size) < 1:
        raise InputError(f"expected at least one frame of at least one pixel, came {options.frames} of {options.size}")
    if Path(options.model).is_dir():
        model = load_segmenter(options.model)
    else:
        model = create_model(options.model, LabelSpace(tuple(f"class {k}" for k in range(options.classes))))
    look: Views = {"short": options.short, "window": options.window, "stride": options.stride}
    numbers = {
        "machine": machine(),
        "model": options.model,
        **measure(model, tuple(options.size), options.frames, options.ways, options.device, options.dtype, look),
    }
    tell(numbers, describe(numbers), options.json)
    return 0


def measure(
    model: Segmenter,
    size: tuple[int, int],
    frames: int,
    ways: tuple[str, ...] = WAYS,
    device: str = "auto",
    dtype: str = "float32",
    look: Views | None = None,
) -> dict[str, Any]:
    """Time the ways in turns, once the stream's state has its full size.

    Args:
        model: changed to eval mode and moved to the device.
        size: (H, W) of the frames.
        frames: outputs timed for each way; medians are returned.
        ways: some of `WAYS`.
        device: see `Stream`.
        dtype: see `Stream`.
        look: how the stream looks at a frame, see `with_views`.

    Returns:
        Seconds per way, the ratios `ratio_stream_to_frame` and `ratio_clip_to_frame` where both ways were timed,
        `state_bytes` and whether they stayed the same, parameters and multiply-accumulates of a step.

    Raises:
        InputError: frames are to be resized or cut for other ways than the stream.
    """
    predictor = with_views(model, **(look or {}))
    if not isinstance(predictor, Segmenter | OwnSide) and set(ways) != {"stream"}:
        raise InputError(
            f"bench stream: expected the stream alone where frames are resized or cut into windows, came "
            f"{', '.join(ways)}; add --ways stream, or --short 0 and no --window"
        )
    place = pick_device(device)
    precision = pick_dtype(dtype, place)
    model.to(place).eval()
    if precision is not torch.float32:
        model.to(memory_format=torch.channels_last)  # as `Stream` does
    adjacent, reference = tuple(model.temporal.adjacent), bool(model.temporal.reference)
    fill = max((-offset for offset in adjacent), default=0) + 1
    video = [frame.image[None].to(place) for frame in moving(fill + 3 + frames, size)]
    plain = Segmenter(model.backbone, model.head, model.label_space).to(place).eval()
    runner = _Runner(model, plain, video, predictor)
    coming = {way: iter(range(fill + 2, len(video))) for way in ways}  # a stream's frames follow one another
    calls = {way: partial(_next, getattr(runner, way), coming[way]) for way in ways}
    with torch.inference_mode(), torch.autocast(place.type, precision, enabled=precision is not torch.float32):
        if "stream" in ways:
            for index in range(fill + 2):  # the first steps fill the state, one more is the first of full size
                runner.stream(index)
        seconds = in_turns(calls, frames, place)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    numbers: dict[str, Any] = {
        "size": list(size), "frames": frames, "device": str(place), "dtype": dtype, "classes": len(model.label_space),
        "params": count_parameters(model), "gmacs": round(count_macs(predictor, size) / 1e9, 3),
        "adjacent": list(adjacent), "reference": reference,
        "seconds": medians, "frames_per_second": {way: 1 / value for way, value in medians.items()},
    }  # fmt: skip
    if "stream" in ways:
        settled = runner.sizes[fill + 1 :]
        numbers |= {"state_bytes": settled[-1], "state_is_constant": len(set(settled)) == 1}
    for way in ("stream", "clip"):
        if {way, "frame"} <= set(ways):
            numbers[f"ratio_{way}_to_frame"] = medians[way] / medians["frame"]
    return numbers


def _next(call: Callable[[int], Tensor], coming: Iterator[int]) -> None:
    call(next(coming))


class _Runner:
    """The three ways over one video; each method gives the logits of one frame.

    Args:
        model: with its temporal module.
        plain: the same backbone and head without it.
        video: frames [1, 3, H, W].
        predictor: what the stream steps; the model itself when left out.
    """

    def __init__(
        self, model: Segmenter, plain: Segmenter, video: list[Tensor], predictor: Predictor | None = None
    ) -> None:
        self.model, self.plain, self.video = model, plain, video
        self.predictor = model if predictor is None else predictor
        self.state: Memory = None
        self.sizes: list[int] = []

    def frame(self, index: int) -> Tensor:
        return self.plain.step(self.video[index])[0]

    def stream(self, index: int) -> Tensor:
        logits, self.state = self.predictor.step(self.video[index], self.state)
        self.sizes.append(state_bytes(self.state))
        return logits

    def clip(self, index: int) -> Tensor:
        temporal, last = self.model.temporal, len(self.video) - 1
        before = [offset for offset in temporal.adjacent if offset < 0]
        after = [offset for offset in temporal.adjacent if offset > 0]
        picked = [0] * bool(temporal.reference)
        picked += [min(max(index + offset, 0), last) for offset in (*before, 0, *after)]
        roles = (
            *(Role.REFERENCE,) * bool(temporal.reference),
            *(Role.ADJACENT,) * len(before),
            Role.QUERY,
            *(Role.ADJACENT,) * len(after),
        )
        outputs = self.model(torch.stack([self.video[i] for i in picked], dim=1), roles).outputs
        return self.model.head.semantic({name: value[:, 0] for name, value in outputs.items()})


def describe(numbers: dict[str, Any]) -> str:
    """Return the table that the command prints."""
    height, width = numbers["size"]
    lines = [
        f"\n{numbers['model']}, {numbers['params'] / 1e6:.2f} M parameters, {numbers['gmacs']:.1f} GMACs a step, "
        f"{numbers['classes']} classes, {height}x{width}, {numbers['dtype']} on {numbers['device']}; "
        f"medians of {numbers['frames']} outputs, in turns",
    ]
    for way, seconds in numbers["seconds"].items():
        ratio = numbers.get(f"ratio_{way}_to_frame")
        beside = "" if ratio is None else f"   {ratio:6.3f} times a frame alone"
        lines.append(f"  {way:8s} {seconds * 1e3:10.1f} ms   {1 / seconds:8.2f} frames/s{beside}")
    if "state_bytes" in numbers:
        steady = "constant" if numbers["state_is_constant"] else "NOT constant"
        lines.append(f"  state    {numbers['state_bytes']:,} bytes per stream, {steady} once it is full")
    return "\n".join(lines)
