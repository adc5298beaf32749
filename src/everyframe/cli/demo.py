"""`everyframe demo`: the whole way on synthetic videos, command by command, in minutes on two CPU cores."""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from everyframe.cli.parser import Parser, seed_value
from everyframe.errors import InputError
from everyframe.stopping import NUMBERS, Stopped

SIZE = (96, 128)
SPLITS = {"train": 32, "val": 4, "test": 6}
"""Videos per split."""

WRITTEN = {"data", "truth", "one-label", "all-labels", "picture.jpg"}
"""What the demo leaves in its folder."""

RECIPE = "fcn-gru-tiny"
STEPS = 320
SHOWN = (
    ("mIoU", "in-ground-truth"), ("weighted IoU", "in-ground-truth"), ("pixel accuracy", "labelled pixels"),
    ("VC8", "correct"), ("VC16", "correct"), ("TC", "strict"), ("flicker", "along flow"),
)  # fmt: skip
"""Rows of the table; the reports hold all numbers."""


def main(arguments: list[str]) -> int:
    """Run the demo; returns 0 when every command did."""
    options = _parser().parse_args(arguments)
    begin = time.monotonic()
    out: Path = options.out
    if out.exists():
        strange = sorted({path.name for path in out.iterdir()} - WRITTEN) if out.is_dir() else [out.name]
        if strange:  # the folder is removed: it must hold nothing of the user's
            raise InputError(
                f"{out}: expected a new folder or that of an earlier demo, came one with {', '.join(strange[:3])}; "
                f"give another --out"
            )
        shutil.rmtree(out)
    _say("Write videos: H.264 files, one labelled frame each; the full ground truth lies apart")
    write_videos(out / "data", out / "truth", options.frames, options.seed)
    _run("data", "check", out / "data")

    _say("Train twice: with one labelled frame per video, and with every frame labelled (the ceiling)")
    from everyframe.training.run import RunFolder

    for name, data in (("one-label", "data"), ("all-labels", "truth")):
        _run(
            "train", RECIPE, "--data", f"folder:{out / data}", "--out", out / name, "--steps", options.steps,
            "--validate_every", options.steps, "--data.crop", list(SIZE), "--data.per", "video",
            "--data.workers", 0, "--data.photometric", "false", "--data.scale", [0.75, 1.5], "--optimizer.lr", 0.003,
            "--optimizer.warmup", 40, "--data.seed", options.seed, "--seed", options.seed,
        )  # fmt: skip
        if not RunFolder(out / name).outcome.exists():  # SIGTERM ends a training in good order, with status 0
            return 0

    _say("Label every frame of new videos, and measure against the full ground truth")
    videos = sorted(str(path) for path in (out / "data" / "videos").glob("test*.mp4"))
    for name in ("one-label", "all-labels"):
        _run("predict", *videos, "--model", out / name / "model", "--out", out / name / "labels")
        _run(
            "evaluate", "--pred", out / name / "labels", "--data", f"folder:{out / 'truth'}", "--split", "test",
            "--out", out / name / "report",
        )  # fmt: skip

    show_table(out, options.steps)
    show_picture(out)
    print(f"\ndone in {time.monotonic() - begin:.0f} s; look at")
    for path in ("one-label/report/report.html", "one-label/labels/test_000.overlay.mp4", "picture.jpg"):
        print(f"  {out / path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="everyframe demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the demo (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of each model (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=24, help="frames per video (default: %(default)s)")
    parser.add_argument(
        "--seed", type=seed_value, default=0, help="of the videos and of training (default: %(default)s)"
    )
    return parser


def write_videos(root: Path, truth: Path, frames: int, seed: int) -> None:
    """Write the three splits; in `root` one frame per video is labelled, in `truth` every frame."""
    from everyframe.data.synthetic import SyntheticVideos
    from everyframe.data.synthetic_write import write

    for number, (split, count) in enumerate(SPLITS.items()):
        videos = SyntheticVideos(count, frames, SIZE, seed=3 * seed + number, prefix=f"{split}_")
        write(videos, root, "folder", split, labelled="one", truth=truth)


def show_table(out: Path, steps: int) -> None:
    """Print one-label model and ceiling side by side."""
    from rich.console import Console
    from rich.table import Table

    from everyframe.metrics.results import Results

    names = {"one-label": "1 labelled frame per video", "all-labels": "every frame labelled (ceiling)"}
    results = {name: Results.from_json((out / name / "report" / "results.json").read_text()) for name in names}
    table = Table(title=f"{RECIPE}, {steps} steps, {SPLITS['train']} training videos; {SPLITS['test']} test videos")
    table.add_column("number [definition]")
    for title in names.values():
        table.add_column(title, justify="right")
    for number, variant in SHOWN:
        row = [results[name].score(number, variant).value for name in names]
        table.add_row(rf"{number} \[{variant}]", *(f"{100 * value:.2f}" for value in row))
    Console(width=100).print(table)


def show_picture(out: Path) -> None:
    """Write picture.jpg: frames of a test video, and under them what the one-label model makes of them."""
    import cv2
    import numpy as np
    from PIL import Image

    from everyframe.io.label_png import read_label
    from everyframe.io.video import VideoReader
    from everyframe.labels import LabelSpace
    from everyframe.report.legend import Legend
    from everyframe.report.overlay import overlay, side_by_side
    from everyframe.report.planes import as_bytes

    labels = out / "one-label" / "labels"
    space = LabelSpace.load(labels / "labels.json")
    with VideoReader(out / "data" / "videos" / "test_001.mp4") as reader:
        shown = reader.read(np.linspace(1, len(reader) - 2, 4).round().astype(int).tolist())
    columns = []
    for frame in shown:
        image = frame.image.permute(1, 2, 0).numpy()
        painted = overlay(image, read_label(labels / "test_001" / f"{frame.name}.png", space), space, alpha=0.7)
        columns.append(
            as_bytes(
                np.vstack([cv2.resize(x, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) for x in (image, painted)])
            )
        )
    joined = side_by_side(columns, [f"{frame.time:.1f} s" for frame in shown])
    size = (joined.shape[0], joined.shape[1])
    joined = Legend(space.names, space.palette, size, "bottom").draw(joined, np.zeros(size, np.uint8))
    Image.fromarray(joined).save(out / "picture.jpg", quality=85, optimize=True)


def _say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def _run(verb: str, *arguments: object) -> None:
    """Run one verb as the command line would, and show it as one would type it."""
    from importlib import import_module

    words = [str(argument) for argument in arguments]
    print(f"$ everyframe {verb} {shlex.join(_shortened(words))}", flush=True)
    status = import_module(f"everyframe.cli.{verb}").main(words)
    if status in {128 + number for number in NUMBERS}:
        raise Stopped(signal.Signals(status - 128))
    if status:
        raise InputError(f"`everyframe {verb}` ended with status {status}; its lines above say why")


def _shortened(words: Sequence[str]) -> list[str]:
    """Show a long list of videos as a glob."""
    videos = [word for word in words if word.endswith(".mp4")]
    if len(videos) < 2:
        return list(words)
    first = words.index(videos[0])
    return [*words[:first], str(Path(videos[0]).parent / "test*.mp4"), *words[first + len(videos) :]]
