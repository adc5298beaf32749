"""`everyframe bench predict`: what everything outside the model costs, and whether memory grows."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F

from everyframe.cli.parser import Parser
from everyframe.frames import Frame
from everyframe.inference.labelmap import label_map
from everyframe.inference.stream import Stream
from everyframe.io.sources import ArraySource, open_source
from everyframe.io.video import VideoWriter
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model
from everyframe.predict import predict

MIB = 2**20


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = Parser(prog="everyframe bench predict", description=__doc__)
    made.add_argument("--only", choices=("share", "labels", "memory"), help="run one part (default: all)")
    share = made.add_argument_group("share: H.264 in, label maps, overlay video and areas out")
    share.add_argument("--model", default="ocr-swin-small", help="name of the zoo, random weights (%(default)s)")
    share.add_argument("--classes", type=int, default=124, help="%(default)s")
    share.add_argument("--size", type=int, nargs=2, default=(480, 853), metavar=("H", "W"), help="%(default)s")
    share.add_argument("--frames", type=int, default=24, help="%(default)s")
    share.add_argument("--dtype", default="float32", help="%(default)s")
    memory = made.add_argument_group("memory: resident memory over a long video")
    memory.add_argument("--memory-model", default="fcn-gru-tiny", help="name of the zoo (%(default)s)")
    memory.add_argument("--memory-size", type=int, nargs=2, default=(120, 160), metavar=("H", "W"), help="%(default)s")
    memory.add_argument("--memory-frames", type=int, default=10_000, help="%(default)s")
    made.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers as JSON as well")
    return made


def main(arguments: list[str]) -> int:
    """Measure, print tables, and write JSON where asked to."""
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    numbers: dict[str, Any] = {"machine": machine(), "arguments": {k: str(v) for k, v in vars(options).items()}}
    print(", ".join(f"{name} {value}" for name, value in numbers["machine"].items()))
    size = tuple(options.size)
    if options.only in {None, "share"}:
        numbers["share"] = share(options.model, options.classes, size, options.frames, options.dtype)
    if options.only in {None, "labels"}:
        numbers["labels"] = labels(options.classes, size)
    if options.only in {None, "memory"}:
        numbers["memory"] = memory(options.memory_model, tuple(options.memory_size), options.memory_frames)
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "python": platform.python_version()}


def share(name: str, classes: int, size: tuple[int, int], frames: int, dtype: str) -> dict[str, Any]:
    """Time `predict` from an H.264 file to all its outputs, and the model alone on the same decoded frames."""
    model = create_model(name, LabelSpace(tuple(f"class {k}" for k in range(classes))))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        with VideoWriter(path, size, Fraction(25)) as writer:
            for frame in moving(frames, size):
                writer.write(frame.image)
        runner, decoded = Stream(model, "cpu", dtype), list(open_source(path))
        runner.logits(decoded[0])  # the first step allocates
        runner.reset()
        alone, cpu = [], time.process_time()
        for frame in decoded:
            start = time.perf_counter()
            runner.logits(frame)
            alone.append(time.perf_counter() - start)
        cpu_alone = time.process_time() - cpu
        summary = predict(model, path, Path(folder) / "out", device="cpu", dtype=dtype)
        cpu_all = time.process_time() - cpu - cpu_alone
    shares = summary.shares()
    numbers: dict[str, Any] = {
        "model": name, "dtype": dtype, "classes": classes, "size": size, "frames": frames,
        "model_alone_s": statistics.median(alone), "predict_s": summary.seconds / frames,
        "outside_the_model": 1 - shares["model"], "wall_against_model_alone": summary.seconds / sum(alone) - 1,
        "cpu_against_model_alone": cpu_all / cpu_alone - 1,
        "shares": shares,
    }  # fmt: skip
    print(f"\n{name}, {classes} classes, {size[0]}x{size[1]}, {dtype}, {frames} frames: H.264 -> PNG + overlay + CSV")
    print(f"  model alone, frames in memory  {numbers['model_alone_s'] * 1e3:9.1f} ms a frame (median)")
    print(f"  predict, end to end            {numbers['predict_s'] * 1e3:9.1f} ms a frame")
    print(f"  outside the model              {numbers['outside_the_model']:9.1%} of the wall time")
    print(f"  predict against model alone    {numbers['wall_against_model_alone']:+9.1%} in wall time")
    print(f"                                 {numbers['cpu_against_model_alone']:+9.1%} in processor time")
    for stage, part in shares.items():
        beside = " (beside the main loop)" if stage in {"decode", "write"} else ""
        print(f"    {stage:28s} {part:9.2%}{beside}")
    return numbers


def labels(classes: int, size: tuple[int, int], stride: int = 4, rounds: int = 9) -> dict[str, Any]:
    """Time `label_map` against interpolation and argmax, in turns, on logits as a network makes them and on noise."""
    h, w = (-(-side // stride) for side in size)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, classes, h // 40 + 1, w // 40 + 1, generator=generator)
    regions = 4 * F.interpolate(coarse, (h, w), mode="bicubic").pow(3)
    cases = {"regions": regions, "regions, channels last": regions.contiguous(memory_format=torch.channels_last)}
    cases["noise"] = torch.randn(1, classes, h, w, generator=generator)
    numbers: dict[str, Any] = {}
    print(f"\nlabel maps: {classes} classes, {h}x{w} -> {size[0]}x{size[1]}; best of {rounds} turns")
    for name, logits in cases.items():
        seconds: dict[str, list[float]] = {"interpolate + argmax": [], "label_map": []}
        for _ in range(rounds):
            start = time.perf_counter()
            expected = F.interpolate(logits, size, mode="bilinear").argmax(1)
            middle = time.perf_counter()
            got = label_map(logits, size)
            seconds["interpolate + argmax"].append(middle - start)
            seconds["label_map"].append(time.perf_counter() - middle)
        winner = logits.argmax(1)
        borders = (winner[:, 1:, 1:] != winner[:, :-1, 1:]) | (winner[:, 1:, 1:] != winner[:, 1:, :-1])
        naive, ours = (min(times) * 1e3 for times in seconds.values())
        differ = int((got != expected).sum())
        numbers[name] = {"naive_ms": naive, "label_map_ms": ours, "ratio": naive / ours, "differ": differ}
        print(
            f"  {name:24s} {naive:7.1f} ms -> {ours:6.1f} ms, {naive / ours:5.1f} times as fast; borders in "
            f"{borders.float().mean():.0%} of the cells, {differ} pixels differ"
        )
    return numbers


def memory(name: str, size: tuple[int, int], frames: int) -> dict[str, Any]:
    """Run `predict` over a long video, and fit a line to the resident memory of its last four fifths."""
    model = create_model(name, LabelSpace(tuple(f"class {k}" for k in range(11))))
    every = max(frames // 20, 1)
    resident: dict[int, float] = {}

    def on_frame(video: str, count: int, length: int | None) -> None:
        if count % every == 0:
            resident[count] = resident_bytes() / MIB

    with TemporaryDirectory() as folder:
        source = ArraySource(moving(frames, size), "long", Fraction(25))
        summary = predict(model, source, folder, device="cpu", on_frame=on_frame)
    settled = {count: mib for count, mib in resident.items() if count > frames // 5}
    slope = statistics.linear_regression(list(settled), list(settled.values())).slope if len(settled) > 1 else 0.0
    numbers = {
        "model": name, "size": size, "frames": frames, "frames_per_second": summary.frames_per_second,
        "resident_mib": resident, "mib_per_1000_frames": slope * 1000,
    }  # fmt: skip
    print(f"\n{name}, 11 classes, {size[0]}x{size[1]}, {frames} frames, {summary.frames_per_second:.0f} frames/s")
    print("  frames    resident MiB")
    for count, mib in resident.items():
        print(f"  {count:6d}    {mib:9.1f}")
    print(f"  slope over the last four fifths: {slope * 1000:+.3f} MiB per 1000 frames")
    return numbers


def moving(frames: int, size: tuple[int, int]) -> Iterator[Frame]:
    """Yield coloured blobs that drift back and forth, and a little noise: as hard to decode as a street."""
    generator = torch.Generator().manual_seed(0)
    room = 64
    coarse = torch.rand(1, 3, 12, 20, generator=generator) * 255
    wide = F.interpolate(coarse, (size[0] + room, size[1] + room), mode="bicubic").clamp(0, 255)[0]
    noise = torch.randint(-6, 7, wide.shape, generator=generator)
    wide = (wide + noise).clamp(0, 255).byte()
    for i in range(frames):
        x = abs(i % (2 * room) - room)
        yield Frame(wide[:, x // 2 : x // 2 + size[0], x : x + size[1]].clone(), i, i / 25, f"{i:08d}")


def resident_bytes() -> int:
    """Return the process's resident memory."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # the peak, the best that other systems tell: it does not fall, and must not rise

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
