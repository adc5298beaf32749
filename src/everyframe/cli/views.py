"""The options that say how a model looks at a frame, the same for every verb that runs one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from everyframe.inference.scores import SCORE_NORMS
from everyframe.inference.views import Views

RUNS_MODEL = (*Views.__annotations__, "device", "dtype")
"""Options that only a model takes."""


def add_look(group: argparse._ActionsContainer) -> None:
    """Add --short, --window and --stride: at which size and in which parts a frame is looked at."""
    group.add_argument(
        "--short", type=int, metavar="PIXELS",
        help="look at frames resized to this short side (default: that of training, `data.base`; 0: as they are)",
    )  # fmt: skip
    group.add_argument(
        "--window", type=int, nargs="+", action=_SideOrPair, metavar="PIXELS",
        help="sliding window: side, or height width",
    )  # fmt: skip
    group.add_argument(
        "--stride", type=int, nargs="+", action=_SideOrPair, metavar="PIXELS", help="of the window (default: 2/3 of it)"
    )


def add_views(group: argparse._ArgumentGroup) -> None:
    """Add the options of `with_views`; what is not given keeps its default."""
    add_look(group)
    group.add_argument("--flip", action="store_const", const=True, help="average with the mirrored frame")
    group.add_argument(
        "--scales", type=float, nargs="+", metavar="FACTOR",
        help="average over the frame resized by these, such as 0.75 1 1.25",
    )  # fmt: skip
    group.add_argument(
        "--score-norm", choices=SCORE_NORMS,
        help="what --scales and --flip average (default: probabilities; of heads that predict masks none, their sums)",
    )  # fmt: skip
    group.add_argument(
        "--offline", action="store_const", const=True,
        help="frames may look at later ones: labels come some frames late, and some models need the end of the video",
    )  # fmt: skip
    group.add_argument(
        "--specialists", metavar="FILE", help="specialists.json of `everyframe ensemble specialists`: run those too"
    )
    group.add_argument(
        "--logit-adjustment", type=float, metavar="LAMBDA",
        help="lift rare classes: subtract LAMBDA * log of the share in --prior (0: off; 1: all classes alike)",
    )  # fmt: skip
    group.add_argument(
        "--prior", metavar="FILE", help="JSON of pixels by class, such as `everyframe data check --json FILE` writes"
    )
    group.add_argument(
        "--smooth", type=float, metavar="ALPHA",
        help="smooth over time: weight of the frame before, moved along optical flow (0: off; 0.3 to 0.5 are usual)",
    )  # fmt: skip
    group.add_argument(
        "--smooth-window", type=int, metavar="FRAMES",
        help="in its place: as many frames before and after have a say; labels come as many frames late",
    )  # fmt: skip
    group.add_argument(
        "--smooth-vote", action="store_const", const=True, help="for --smooth-window: the majority of their labels"
    )
    group.add_argument("--smooth-flow", metavar="F", help="the flow: dis, raft, raft:WEIGHTS.pth (default: dis)")


def add_device(group: argparse._ArgumentGroup) -> None:
    """Add --device and --dtype; what is not given keeps its default."""
    group.add_argument("--device", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    group.add_argument("--dtype", help="float32, bfloat16, or float16 on CUDA (default: float32)")


class _SideOrPair(argparse.Action):
    """One number, or two: height and width."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        numbers: Sequence[int] = values
        if len(numbers) > 2:
            parser.error(f"{option}: expected one number, or height and width, came {len(numbers)} numbers")
        setattr(namespace, self.dest, numbers[0] if len(numbers) == 1 else tuple(numbers))
