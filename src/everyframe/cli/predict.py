"""`everyframe predict SOURCE... --model M --out DIR`: label every frame of videos, pictures, cameras and streams."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from everyframe.cli.parser import Parser
from everyframe.cli.progress import progress_bar
from everyframe.cli.stopped import tell_stopped
from everyframe.cli.views import add_device, add_views
from everyframe.inference.run import OnFrame
from everyframe.inference.summary import JobStopped
from everyframe.inference.views import with_views
from everyframe.predict import predict

EPILOG = """\
Each SOURCE is a video file, a folder or glob of pictures or videos (quote globs), a camera's number, a URL (rtsp://,
http://), a named pipe, or - for standard input. DIR receives, of each video: NAME/FRAME.png, label maps of the frame's
size with raw ids and the class colours as palette; NAME.overlay.mp4, the frames under their labels with a legend, at
the original times; NAME.areas.csv, the share of each class in each frame; and for all of them labels.json and
summary.json.
A video that cannot be read does not stop the others; the exit status is 1 then. Stop with Ctrl-C, go on with --resume.

examples:
  everyframe predict street.mp4 --model runs/a/model --out labels
  everyframe predict 'videos/*.mp4' --model owner/name --out labels --resume
  everyframe predict shots/ --model runs/a --out labels --offline --smooth 0.4
  ffmpeg -i FILE -f matroska -c copy - | everyframe predict - --model runs/a --out labels
  everyframe predict rtsp://camera/1 --model runs/a/model --out labels --no-overlay --dtype bfloat16
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser; the defaults are those of `everyframe.predict` and `with_views`."""
    functions = (with_views, predict)
    defaults = {name: p.default for f in functions for name, p in inspect.signature(f).parameters.items()}
    made = Parser(
        prog="everyframe predict",
        description="Label every frame of videos.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("sources", nargs="+", metavar="SOURCE", help="what to label")
    made.add_argument("--model", required=True, help="folder of a saved model or of a run, or owner/name on the hub")
    made.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    made.add_argument("--resume", action="store_true", help="go on where an earlier job in DIR was interrupted")
    made.add_argument("--overwrite", action="store_true", help="replace an earlier job of other classes in DIR")

    outputs = made.add_argument_group("outputs")
    for name, text in {
        "labels": "label maps, PNG",
        "overlay": "overlay videos, MP4",
        "areas": "class areas per frame, CSV",
        "confidence": "the winning class's probability as grey pictures, NAME.confidence/FRAME.png",
    }.items():
        outputs.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=f"{text} (default: %(default)s)")

    views = made.add_argument_group("views: how the model looks at each frame, see docs/predict.md")
    add_views(views)

    run = made.add_argument_group("run")
    add_device(run)
    run.add_argument("--checkpoint-every", type=int, metavar="FRAMES", help="for --resume (default: %(default)s)")
    run.add_argument("--quiet", action="store_true", help="print nothing but errors")
    made.set_defaults(**{name: value for name, value in defaults.items() if value is not inspect.Parameter.empty})
    return made


def main(arguments: list[str]) -> int:
    """Run the command: 0 all videos done, 1 one of them failed, 130 and 143 stopped by Ctrl-C and SIGTERM."""
    options = vars(parser().parse_args(arguments))
    quiet = options.pop("quiet")
    try:
        with progress(quiet) as on_frame:
            summary = predict(**{**options, "on_frame": on_frame})
    except JobStopped as stopped:
        go_on = "go on with the same command and --resume" if stopped.goes_on else "a live source cannot be resumed"
        return tell_stopped("predict", stopped, f"{stopped}; what is done lies in {options['out']}, {go_on}")
    if not quiet:
        print(summary)
    elif summary.failed:
        print("\n".join(f"{video.name}: {video.error}" for video in summary.failed), file=sys.stderr)
    return 1 if summary.failed else 0


@contextmanager
def progress(quiet: bool) -> Iterator[OnFrame | None]:
    """Show how far the job is: a bar per video on a terminal, else a line per video and at every hundredth frame."""
    if quiet:
        yield None
        return
    with progress_bar("frames", bar_each=True) as advance:
        yield advance or _line


def _line(name: str, frames: int, length: int | None) -> None:
    if frames == 1 or frames % 100 == 0:
        print(f"{name}: frame {frames}{f' of {length}' if length else ''}", file=sys.stderr, flush=True)
