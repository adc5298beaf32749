"""`everyframe predict SOURCE... --model M --out DIR`: label every frame of videos, pictures, cameras and streams."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from everyframe.inference.run import OnFrame
from everyframe.predict import predict

EPILOG = """\
Each SOURCE is a video file, a folder or glob of pictures or videos (quote globs), a camera's number, or a URL
(rtsp://, http://). DIR receives, of each video: NAME/FRAME.png, label maps of the frame's size with raw ids and the
class colours as palette; NAME.overlay.mp4, the frames under their labels with a legend, at the original times;
NAME.areas.csv, the share of each class in each frame; and for all of them labels.json and summary.json.
A video that cannot be read does not stop the others; the exit status is 1 then. Stop with Ctrl-C, go on with --resume.

examples:
  everyframe predict street.mp4 --model runs/best --out labels
  everyframe predict 'videos/*.mp4' --model owner/name --out labels --resume
  everyframe predict rtsp://camera/1 --model runs/best --out labels --no-overlay --dtype bfloat16
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser; the defaults are those of `everyframe.predict`."""
    defaults = {name: p.default for name, p in inspect.signature(predict).parameters.items()}
    made = argparse.ArgumentParser(
        prog="everyframe predict",
        description="Label every frame of videos.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("sources", nargs="+", metavar="SOURCE", help="what to label")
    made.add_argument("--model", required=True, help="folder of a saved model, or owner/name on the hub")
    made.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    made.add_argument("--resume", action="store_true", help="go on where an earlier job in DIR was interrupted")

    outputs = made.add_argument_group("outputs")
    for name, text in {
        "labels": "label maps, PNG",
        "overlay": "overlay videos, MP4",
        "areas": "class areas per frame, CSV",
        "confidence": "the winning class's probability as grey pictures, NAME.confidence/FRAME.png",
    }.items():
        outputs.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=f"{text} (default: %(default)s)")

    views = made.add_argument_group("views: average over more than one look at each frame")
    views.add_argument("--window", type=int, nargs="+", metavar="PIXELS", help="sliding window: side, or height width")
    views.add_argument("--stride", type=int, nargs="+", metavar="PIXELS", help="of the window (default: 2/3 of it)")
    views.add_argument("--flip", action="store_true", help="add the mirrored frame")
    views.add_argument("--scales", type=float, nargs="+", metavar="FACTOR", help="resize by these, such as 0.75 1 1.25")

    run = made.add_argument_group("run")
    run.add_argument("--device", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    run.add_argument("--dtype", help="float32, bfloat16, or float16 on CUDA (default: float32)")
    run.add_argument("--checkpoint-every", type=int, metavar="FRAMES", help="for --resume (default: %(default)s)")
    run.add_argument("--quiet", action="store_true", help="print nothing but errors")
    made.set_defaults(**{name: value for name, value in defaults.items() if value is not inspect.Parameter.empty})
    return made


def main(arguments: list[str]) -> int:
    """Run the command: 0 all videos done, 1 one of them failed."""
    made = parser()
    options = vars(made.parse_args(arguments))
    for name in ("window", "stride"):
        options[name] = _side_or_pair(made, name, options[name])
    quiet = options.pop("quiet")
    try:
        with progress(quiet) as on_frame:
            summary = predict(**{**options, "on_frame": on_frame})
    except KeyboardInterrupt:
        print(
            f"stopped; what is done lies in {options['out']}, go on with the same command and --resume", file=sys.stderr
        )
        return 130
    if not quiet:
        print(summary)
    elif summary.failed:
        print("\n".join(f"{video.name}: {video.error}" for video in summary.failed), file=sys.stderr)
    return 1 if summary.failed else 0


def _side_or_pair(made: argparse.ArgumentParser, name: str, values: list[int] | None) -> tuple[int, int] | int | None:
    if values is not None and len(values) > 2:
        made.error(f"argument --{name}: expected one number, or height and width, came {len(values)} numbers")
    return values if values is None else values[0] if len(values) == 1 else (values[0], values[1])


@contextmanager
def progress(quiet: bool) -> Iterator[OnFrame | None]:
    """Show how far the job is: a bar on a terminal, else a line per video and at every hundredth frame."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as on_frame:
            yield on_frame
    else:
        yield _line


def _line(name: str, frames: int, length: int | None) -> None:
    if frames == 1 or frames % 100 == 0:
        print(f"{name}: frame {frames}{f' of {length}' if length else ''}", file=sys.stderr, flush=True)


@contextmanager
def _bar() -> Iterator[OnFrame]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[speed]}"), console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def on_frame(name: str, frames: int, length: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=length, speed="")
            speed = bar.tasks[tasks[name]].speed
            bar.update(tasks[name], completed=frames, speed=f"{speed:.1f} frames/s" if speed else "")

        yield on_frame
