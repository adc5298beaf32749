"""`everyframe self-train RECIPE --rounds N`: teacher -> label maps on disk -> student, again and again."""

from __future__ import annotations

import argparse
import inspect
import shlex
import signal
import sys
from typing import get_args

from everyframe.cli.parser import refuse_near_misses
from everyframe.cli.train import split_options
from everyframe.errors import InputError

USAGE = (
    "everyframe self-train RECIPE --data SPEC --out FOLDER [--unlabeled DIR...] [--rounds N] [--propagate K] "
    "[--labels predicted|filled|refined] [--first-teacher MODEL] [--option value ...]"
)
DESCRIPTION = """\
Train RECIPE on the labels; label other frames with the result; train RECIPE anew on both; repeat. FOLDER/model is
the last student, FOLDER/self_training.json says what each stage took (hours, bytes) and gave (mIoU, coverage,
precision of the pseudo-labels where labels are known that the budget hides). The same command goes on after a stop.
All options of `everyframe train` work. The alternative that trains once and writes no label maps is a teacher inside
the run: `everyframe train RECIPE --unlabeled DIR` or `--teacher.weight 1`.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options that `everyframe train` does not have; defaults are those of `self_train`."""
    from everyframe.training.round_labels import LabelSource
    from everyframe.training.self_training import self_train

    made = argparse.ArgumentParser(
        prog="everyframe self-train",
        usage=USAGE,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--rounds", type=int, metavar="N", help="rounds of labelling and training (default: %(default)s)")
    made.add_argument("--threshold", type=float, help="pixels less probable become 255 (default: %(default)s)")
    made.add_argument("--scales", type=float, nargs="+", help="averaged over when labelling (default: %(default)s)")
    made.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="average with the mirrored frame (default: %(default)s)"
    )
    made.add_argument(
        "--propagate", type=int, metavar="K",
        help="the first teacher also learns from each label map on the K frames before and after, moved along optical "
        "flow (default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--labels", choices=get_args(LabelSource),
        help="where the rounds' label maps come from: the model's predictions of every frame; the labels of the frames "
        "around, moved along optical flow, the model filling in what was hidden; these refined at every frame "
        "(default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--reach", type=int, metavar="K", help="frames before and after a label map that are filled or refined from it "
        "(default: %(default)s)",
    )  # fmt: skip
    made.add_argument(
        "--first-teacher", metavar="MODEL", help="a trained model of any architecture (folder, run, hub id) that "
        "labels in the first round; the loop then trains none for it",
    )  # fmt: skip
    made.add_argument("--refine-steps", type=int, metavar="N", help="training steps of what refines them (%(default)s)")
    named = inspect.signature(self_train).parameters
    own = ("rounds", "threshold", "scales", "flip", "propagate", "labels", "reach", "refine_steps", "first_teacher")
    made.set_defaults(**{name: named[name].default for name in own})
    return made


def main(arguments: list[str]) -> int:
    """Run the command; returns 0, also when SIGTERM stopped it in good order, and 130 after Ctrl-C."""
    if not arguments:
        parser().print_usage()
        return 2
    made = parser()
    known, rest = made.parse_known_args(arguments)
    recipe, options = split_options(rest)
    refuse_near_misses(made, options)
    from everyframe.training.recipe import read_recipe
    from everyframe.training.self_training import LoopStopped, advice, self_train

    out = options.pop("out", None)
    if out is None:
        raise InputError("expected a folder for the loop, came none; add --out FOLDER")
    try:
        stages = self_train(read_recipe(recipe), options, out, source=recipe, **vars(known))
    except LoopStopped as stopped:
        again = shlex.join(["everyframe", "self-train", *arguments])
        print(f"{stopped}; to go on: {again}", file=sys.stderr)
        return 0 if stopped.signal is signal.SIGTERM else 130
    print("\n".join([*map(str, stages), *advice(stages, known.threshold)]))
    print(f"{out}/model: the last student")
    return 0
