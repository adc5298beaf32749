"""`everyframe export MODEL OUT.onnx --size H W`: a saved model for other runtimes, its state as inputs and outputs."""

from __future__ import annotations

import argparse
import inspect
from typing import get_args

from everyframe.cli.parser import Parser
from everyframe.export.export import FORMATS, export
from everyframe.export.traced import Output

EPILOG = """\
The graph takes `frame` (uint8 [B, 3, H, W], RGB) and the stream's memory as `state_...` tensors; it gives `logits` or
`labels` and the memory for the next frame as `next_...`. A video begins with zeros. The file is compared with the model
over a made-up video before it gets its name.

examples:
  everyframe export runs/a model.onnx --size 480 853
  everyframe export runs/a labels.onnx --size 480 853 --output labels
  everyframe predict video.mp4 --model model.onnx --out labels
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser; the defaults are those of `everyframe.export.export.export`."""
    defaults = {name: p.default for name, p in inspect.signature(export).parameters.items()}
    made = Parser(
        prog="everyframe export",
        description="Write a saved model as ONNX or as a torch.export archive.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("model", metavar="MODEL", help="folder of a saved model or of a run, or a hub id")
    made.add_argument("path", metavar="OUT", help=f"file to write, {' or '.join(FORMATS)}")
    made.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), required=True, help="size of the frames in pixels"
    )
    made.add_argument(
        "--output", choices=get_args(Output), help="logits, or label maps of the frame's size (%(default)s)"
    )
    made.add_argument("--batch", type=int, metavar="B", help="streams that run side by side (%(default)s)")
    made.add_argument("--frames", type=int, metavar="N", help="frames on which the file is compared (%(default)s)")
    made.set_defaults(**{name: value for name, value in defaults.items() if value is not inspect.Parameter.empty})
    return made


def main(arguments: list[str]) -> int:
    """Run the command and print what was written and how near it is to the model."""
    options = vars(parser().parse_args(arguments))
    print(export(**{**options, "size": tuple(options["size"])}))
    return 0
