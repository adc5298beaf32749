"""`everyframe data check PATH`, `init PATH`, `map SOURCE TARGET`, `cvat LABELS OUT` and `submission LABELS OUT`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from everyframe.cli.data_map import add_map
from everyframe.cli.parser import Parser
from everyframe.cli.progress import progress_bar
from everyframe.errors import writing
from everyframe.metrics.results_text import counted

WHERE = (
    "PATH of a data set, or LAYOUT:PATH (folder, images, vspw, vspw480, camvid, camvid32, cityscapes, coco_stuff, ...)"
)


def main(arguments: list[str]) -> int:
    """Run `everyframe data ...`: 0 fit for training, 1 training would be wrong."""
    parser = Parser(prog="everyframe data", description="Check and prepare data sets.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = actions.add_parser("check", help="look at every mask and frame before training")
    check.add_argument("data", help=WHERE)
    check.add_argument("--split", action="append", help="check this split only (may be repeated; default: all)")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the whole report, with all file names")
    check.add_argument(
        "--decode-all", action="store_true", help="decode unlabelled frames too (default: open the files)"
    )
    check.add_argument("--workers", type=int, help="threads (default: one per core)")
    check.set_defaults(run=_check)

    init = actions.add_parser("init", help="start a classes.yaml from the ids in the masks")
    init.add_argument("path", type=Path, help="folder of the data set")
    init.add_argument("--force", action="store_true", help="write the file that is there anew; names in it stay")
    init.set_defaults(run=_init)

    add_map(actions)

    cvat = actions.add_parser("cvat", help="pack predicted label maps for CVAT's import of Segmentation mask 1.1")
    cvat.add_argument("labels", type=Path, help="folder with the label maps of one video (OUT/VIDEO)")
    cvat.add_argument("out", type=Path, help="zip file to write")
    cvat.add_argument("--label-space", type=Path, metavar="FILE", help="labels.json (default: the one beside labels)")
    cvat.add_argument("--names", help="CVAT's frame names, frame_{:06d} for video tasks (default: as the files)")
    cvat.set_defaults(run=_cvat)

    submit = actions.add_parser("submission", help="pack predicted label maps for the VSPW server, and check the pack")
    submit.add_argument(
        "labels", type=Path, help="folder of label maps (OUT of predict, evaluate --save, ensemble run)"
    )
    submit.add_argument("out", type=Path, help="zip file to write, or a new folder")
    submit.add_argument(
        "--data", metavar="LAYOUT:PATH", help="all frames of this data set must be there, at their size"
    )
    submit.add_argument("--split", default="test", help="of the data (default: %(default)s)")
    submit.add_argument("--label-space", type=Path, metavar="FILE", help="labels.json (default: the one in labels)")
    submit.set_defaults(run=_submission)

    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _check(options: argparse.Namespace) -> int:
    from everyframe.data.check_report import print_report
    from everyframe.data.doctor import check

    with progress_bar("reading") as advance:
        report = check(
            options.data,
            options.split,
            decode_all=options.decode_all,
            workers=options.workers,
            progress=None if advance is None else partial(advance, ""),
        )
    print_report(report, Console())
    if options.json is not None:
        with writing(options.json):
            options.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    return 0 if report.ok else 1


def _init(options: argparse.Namespace) -> int:
    from everyframe.data.starter import write_starter

    with progress_bar("reading masks") as advance:
        progress = None if advance is None else partial(advance, "")
        path = write_starter(options.path, force=options.force, progress=progress)
    print(path.read_text(encoding="utf-8"), end="")
    print(f"\nwritten: {path}\nnext: replace the names, then `everyframe data check {options.path}`")
    return 0


def _cvat(options: argparse.Namespace) -> int:
    from everyframe.data.cvat import space_beside, write_cvat
    from everyframe.labels import LabelSpace

    named = options.label_space
    space = space_beside(options.labels) if named is None else LabelSpace.load(named)
    count = write_cvat(options.labels, options.out, space, options.names)
    print(
        f"written: {options.out} with {counted(count, 'label map')}; in CVAT: Upload annotations, Segmentation mask 1.1"
    )
    return 0


def _submission(options: argparse.Namespace) -> int:
    from everyframe.data.layouts import load_split
    from everyframe.data.submission import write_submission
    from everyframe.labels import LabelSpace

    space = None if options.label_space is None else LabelSpace.load(options.label_space)
    expected = None if options.data is None else load_split(options.data, options.split)
    videos, frames = write_submission(options.labels, options.out, space, expected)
    print(f"written and read back: {options.out}, {counted(frames, 'label map')} of {counted(videos, 'video')}")
    return 0
