"""`everyframe data init`: a first classes.yaml from the ids and colours that the masks hold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from everyframe.data.classes import IGNORE_NAMES, find_classes, read_labelmap
from everyframe.data.listing import list_masks, require_folder, subfolders
from everyframe.data.scan import MaskScan, scan_mask
from everyframe.errors import InputError, writing
from everyframe.frames import IGNORE
from everyframe.labels import Color

HOMES = ("masks", "labels", "annotations", "SegmentationClass")
NOT_CLASSES = "SegmentationObject"
"""Folder of CVAT and Pascal VOC with instances instead of classes."""
HEADER = """\
# The classes of this data set: what each id in the masks means. Started by `everyframe data init`.
# Replace every name. `ignore` leaves the pixels of an id out of training and evaluation.
"""


def write_starter(root: str | Path, *, force: bool = False, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write ROOT/classes.yaml with a line for every id, or colour, in the masks.

    Args:
        root: folder of the data set, in the folder, images or vspw layout.
        force: replace a classes file that is there.
        progress: called as progress(done, total) while masks are read.

    Returns:
        The file written.

    Raises:
        InputError: no masks, damaged masks only, or a classes file is there already.
    """
    root = require_folder(Path(root), "videos and masks")
    there = find_classes(root)
    if there is not None and not force:
        raise InputError(f"{there}: expected no classes file yet, found one; edit it, or replace it with --force")
    masks = find_masks(root)
    if not masks:
        raise InputError(
            f"{root}: expected masks in {', '.join(HOMES)} or data/VIDEO/mask, found none; put them there first"
        )
    labelmap = next(iter(sorted(root.rglob("labelmap.txt"))), None)
    if labelmap is not None:
        lines = _labelmap_lines(labelmap)
    else:
        scans = []
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for done, scan in enumerate(pool.map(scan_mask, masks), 1):
                scans.append(scan)
                if progress is not None:
                    progress(done, len(masks))
        lines = _scan_lines(scans)
    if not lines:
        raise InputError(f"{masks[0]}: expected masks with ids or few colours, found none; run `everyframe data check`")
    path = root / "classes.yaml"
    with writing(path):
        path.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def find_masks(root: Path) -> list[Path]:
    """Return all mask files below the folders in which the layouts look for them."""
    homes = [root / name for name in HOMES] + [root / "data" / video / "mask" for video in subfolders(root / "data")]
    masks = [path for home in homes for path in list_masks(home, nested=True).values()]
    return [path for path in masks if NOT_CLASSES not in path.parts]


def _labelmap_lines(path: Path) -> list[str]:
    lines = []
    for number, (name, (red, green, blue)) in enumerate(read_labelmap(path)):
        left_out = ", ignore: true" if name.lower() in IGNORE_NAMES else ""
        note = "  # add `ignore: true` if background means: not labelled" if name == "background" else ""
        lines.append(f"{number}: {{name: {_quoted(name)}, color: [{red}, {green}, {blue}]{left_out}}}{note}")
    return lines


def _scan_lines(scans: list[MaskScan]) -> list[str]:
    ids: Counter[int] = Counter()
    colors: Counter[Color] = Counter()
    masks: Counter[int | Color] = Counter()
    for scan in scans:
        ids.update(scan.ids)
        colors.update(scan.colors or {})
        masks.update([*scan.ids, *(scan.colors or {})])
    total = max(1, ids.total() + colors.total())
    binary = set(ids) == {0, IGNORE}
    palette = _palette(scans)
    lines = []
    for raw in sorted(ids):
        name = "ignore" if raw == IGNORE and not binary else f"class_{raw}"
        entry = _colored(name, palette[raw]) if raw in palette else name
        hint = "; write `ignore` if this means: not labelled" if raw == 0 else ""
        lines.append(f"{raw}: {entry}  # {_seen(ids[raw] / total, masks[raw], len(scans))}{hint}")
    free = iter(i for i in range(10**6) if i not in ids)
    unnamed = colors.keys() - set(palette.values())  # RGB masks beside palette masks, in the same colours
    for color in sorted(unnamed, key=lambda c: (c != (0, 0, 0), -colors[c])):
        number = next(free)
        note = _seen(colors[color] / total, masks[color], len(scans))
        lines.append(f"{number}: {_colored(f'class_{number}', color)}  # {note}")
    return lines


def _palette(scans: list[MaskScan]) -> dict[int, Color]:
    """Return the colours of the ids in palette masks: of those ids that have one colour, and have it alone.

    A ramp of greys, which programs write where they have no colours, gives none.
    """
    pairs = {pair for scan in scans for pair in scan.palette.items()}
    if all(color == (raw, raw, raw) for raw, color in pairs):
        return {}
    of_id, of_color = Counter(raw for raw, _ in pairs), Counter(color for _, color in pairs)
    return {raw: color for raw, color in pairs if of_id[raw] == 1 == of_color[color]}


def _colored(name: str, color: Color) -> str:
    return f"{{name: {name}, color: [{', '.join(map(str, color))}]}}"


def _seen(share: float, masks: int, of: int) -> str:
    return f"{100 * share:.2f} % of the pixels, in {masks} of {of} masks"


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
