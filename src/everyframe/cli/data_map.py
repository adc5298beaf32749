"""`everyframe data map SOURCE... TARGET`: what a class mapping covers."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from everyframe.cli.progress import progress_bar
from everyframe.errors import InputError, writing

if TYPE_CHECKING:
    from everyframe.data.mapping_report import MappedPixels, MappingReport

SHOWN = 12
"""Classes listed with their share of pixels."""


def add_map(actions: Any) -> None:
    """Add the action to those of `everyframe data`."""
    parser = actions.add_parser("map", help="show what a class mapping covers, before data sets are joined")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="layout (coco_stuff, ade20k, ...), or LAYOUT:PATH[@SPLIT+SPLIT] to count pixels and images too",
    )
    parser.add_argument("target", metavar="TARGET", help="layout or LAYOUT:PATH of the classes to map onto")
    parser.add_argument(
        "--mapping",
        action="append",
        default=[],
        metavar="CSV",
        help="mapping of a SOURCE, in their order; or `names` (default: the one known for the pair, else equal names)",
    )
    parser.add_argument(
        "--data", action="append", default=[], metavar="LAYOUT:PATH", help="data of a SOURCE, in their order"
    )
    parser.add_argument(
        "--effective", type=float, help="share of pixels with a class above which an image is kept (default: 0.8)"
    )
    parser.add_argument("--write", type=Path, metavar="CSV", help="write the mapping of one SOURCE, to go on with")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report")
    parser.set_defaults(run=_map)


def _map(options: argparse.Namespace) -> int:
    from everyframe.data.mapping import unreached, write_mapping
    from everyframe.data.mapping_report import report_mapping

    if max(len(options.mapping), len(options.data)) > len(options.sources):
        raise InputError(f"expected a --mapping and --data for each of {len(options.sources)} sources, came more")
    if options.write is not None and len(options.sources) > 1:
        raise InputError(f"--write: expected one SOURCE, came {len(options.sources)}; write them one by one")
    settings = {} if options.effective is None else {"effective": options.effective}
    with progress_bar("counting") as advance:
        progress = None if advance is None else partial(advance, "")
        reports = [
            report_mapping(source, options.target, mapping, data, guess=True, progress=progress, **settings)
            for source, mapping, data in zip_longest(options.sources, options.mapping, options.data)
        ]
    console = Console(highlight=False, soft_wrap=True)
    for report in reports:
        _print(console, report, options.target)
    target = reports[0].coverage.target
    missing = unreached((report.coverage for report in reports), target)
    reached = f"{len(target) - len(missing)} of {len(target)} classes of {options.target}"
    console.print(f"{reached} have a source; not reached ({len(missing)}): {_some(missing)}")
    if options.write is not None:
        write_mapping(options.write, reports[0].coverage.source, target, reports[0].coverage.table)
        console.print(f"written: {options.write}")
    if options.json is not None:
        whole = {"target": options.target, "sources": [r.to_dict() for r in reports], "unreached": missing}
        with writing(options.json):
            options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 0


def _some(names: Sequence[str], most: int = 20) -> str:
    """Name some of the classes; --json has them all."""
    more = f", ... ({len(names) - most} more, see --json)" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def _print(console: Console, report: MappingReport, target: str) -> None:
    coverage = report.coverage
    console.print(
        f"{report.name} -> {target}: {len(coverage.table)} of {len(coverage.source)} classes mapped onto "
        f"{len(coverage.reached)} of {len(coverage.target)}"
        f"{' (no mapping is known or given: classes of equal names)' if report.guessed else ''}"
    )
    console.print(f"  not mapped ({len(coverage.unmapped)}): {', '.join(coverage.unmapped) or 'none'}")
    if report.pixels is not None:
        _print_pixels(console, report.pixels)


def _print_pixels(console: Console, pixels: MappedPixels) -> None:
    lost, kept = sum(pixels.lost.values()), pixels.kept / max(pixels.label_maps, 1)
    console.print(
        f"  pixels: {pixels.mapped:.2%} mapped, {lost:.2%} of classes not mapped, {pixels.unlabelled:.2%} unlabelled"
    )
    console.print(
        f"  images: {pixels.kept} of {pixels.label_maps} ({kept:.1%}) have a class in more than "
        f"{pixels.effective:.0%} of their pixels"
    )
    table = Table("class not mapped", "pixels", "class gained", "pixels", box=None)
    rows = zip_longest(list(pixels.lost.items())[:SHOWN], list(pixels.gained.items())[:SHOWN], fillvalue=("", None))
    for (lost_name, lost_share), (name, share) in rows:
        table.add_row(lost_name, _percent(lost_share), name, _percent(share))
    console.print(table)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
