"""`everyframe convert FILE --to DIR`: published checkpoints become saved models."""

from __future__ import annotations

import argparse
import inspect

from everyframe.cli.parser import Parser
from everyframe.convert.convert import convert
from everyframe.data.layouts import CLASSES
from everyframe.errors import InputError
from everyframe.models.convert.kinds import KINDS

EPILOG = """\
The kind is found from the keys, sizes from the configuration in the file, or else from the shapes. Nothing in a file
is run. A conversion that would leave out or lack a weight without a reason is refused.

kinds:
{kinds}

examples:
  everyframe convert mask2former_beitv2_adapter_large_896_80k_ade20k.zip --to models/ade20k
  everyframe convert upernet_swin_small.pth --to models/vspw --classes vspw --mapping my_mapping.csv
  everyframe convert encoder_epoch_20.pth decoder_epoch_20.pth --to models/psp
  everyframe convert beitv2_large_patch16_224_pt1k_ft21k.pth --to models/start --classes vspw \\
      --model mask2former-beitv2-adapter-large
  everyframe predict video.mp4 --model models/ade20k --out labels
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser; the defaults are those of `everyframe.convert.convert.convert`."""
    defaults = {name: p.default for name, p in inspect.signature(convert).parameters.items()}
    made = Parser(
        prog="everyframe convert",
        description="Turn a published checkpoint into a saved model.",
        epilog=EPILOG.format(kinds="\n".join(f"  {name:13s} {kind.title}" for name, kind in KINDS.items())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "files", nargs="+", metavar="FILE", help=".pth, .safetensors, .zip, a folder of transformers; encoder decoder"
    )
    made.add_argument("--to", required=True, metavar="DIR", help="folder for the model")
    made.add_argument("--kind", metavar="KIND", help="what the file is, where the keys do not tell")
    made.add_argument(
        "--entry", metavar="KEY", help="which weights of several in the file, such as state_dict_ema or teacher"
    )
    made.add_argument(
        "--config", metavar="FILE", help="the model's configuration (.py, .json); 'shapes' ignores that in the file"
    )
    made.add_argument("--model", metavar="NAME", help="model for a backbone alone (`everyframe models` lists them)")
    made.add_argument("--report", metavar="FILE", help="JSON file: what became of every key")

    names = f"classes.yaml, JSON of a label space, or one of {', '.join(CLASSES)}"
    heads = made.add_argument_group("classes")
    heads.add_argument("--classes", metavar="C", help=f"wanted classes: {names}")
    heads.add_argument(
        "--mapping", metavar="CSV", help="published class -> wanted class: columns source_name, target_name (or ids)"
    )
    heads.add_argument("--source-classes", metavar="C", help="names of the published classes, where the file has none")

    size = made.add_argument_group("frame size")
    size.add_argument(
        "--image-size", metavar="N", help="side, or HxW, of the frames that learned positions shall be for, in pixels"
    )
    partial = made.add_argument_group("partial loads")
    partial.add_argument("--allow-missing", action="store_true", help="weights that the file lacks start fresh")
    partial.add_argument("--allow-unused", action="store_true", help="leave out keys that have no place in the model")
    made.set_defaults(**{name: value for name, value in defaults.items() if value is not inspect.Parameter.empty})
    return made


def main(arguments: list[str]) -> int:
    """Run the command and print what became of the weights."""
    options = vars(parser().parse_args(arguments))
    if options["image_size"] is not None:
        options["image_size"] = _size(options["image_size"])
    done = convert(**options)
    print(done.summary())
    print(f"written to {options['to']}")
    return 0


def _size(text: str) -> int | tuple[int, int]:
    height, x, width = text.lower().partition("x")
    if not height.isdecimal() or (x and not width.isdecimal()):
        raise InputError(f"--image-size: expected pixels such as 896, or 480x864, came {text!r}")
    return (int(height), int(width)) if x else int(height)
