"""`everyframe data init`: a first classes.yaml from the ids and colours that the masks hold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from everyframe.data.classes import IGNORE_NAMES, find_classes, read_entries, read_labelmap
from everyframe.data.listing import list_masks, require_folder, subfolders
from everyframe.data.scan import MaskScan, scan_mask
from everyframe.data.strays import MASK_HOMES, polygons_of
from everyframe.errors import InputError, writing
from everyframe.frames import IGNORE
from everyframe.labels import Color

NOT_CLASSES = "SegmentationObject"
"""Folder of CVAT and Pascal VOC with instances instead of classes."""
Entries = dict[int, tuple[str, Color | None, bool]]
"""Raw id -> name, colour, and whether it is left out, as the lines of a classes file say."""
HEADER = """\
# The classes of this data set: what each id in the masks means. Started by `everyframe data init`.
# Replace every name. `ignore` leaves the pixels of an id out of training and evaluation.
"""


def write_starter(root: str | Path, *, force: bool = False, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write ROOT/classes.yaml with a line for every id, or colour, in the masks.

    Args:
        root: folder of the data set, in the folder, images or vspw layout.
        force: replace a classes file that is there: what it says of ids, and their names, is kept, and lines are added
            for the ids and colours that it lacks. Names like `class_1`, which this function gave, are made anew.
        progress: called as progress(done, total) while masks are read.

    Returns:
        The file written.

    Raises:
        InputError: no masks, damaged masks only, or a classes file is there already, or cannot be read.
    """
    root = require_folder(Path(root), "videos and masks")
    there = find_classes(root)
    if there is not None and not force:
        raise InputError(
            f"{there}: expected no classes file yet, found one; edit it, or add the ids that it lacks with --force"
        )
    kept = _named_entries(there)
    masks = find_masks(root)
    if not masks:
        raise InputError(
            f"{root}: expected masks in {', '.join(MASK_HOMES)} or data/VIDEO/mask, found none; put them there first"
            f"{polygons_of(root)}"
        )
    labelmap = next(iter(sorted(root.rglob("labelmap.txt"))), None)
    if labelmap is not None:
        lines = _labelmap_lines(labelmap, kept)
    else:
        scans = []
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for done, scan in enumerate(pool.map(scan_mask, masks), 1):
                scans.append(scan)
                if progress is not None:
                    progress(done, len(masks))
        lines = _scan_lines(scans, kept)
    if not lines:
        raise InputError(f"{masks[0]}: expected masks with ids or few colours, found none; run `everyframe data check`")
    path = root / "classes.yaml"
    with writing(path):
        path.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def find_masks(root: Path) -> list[Path]:
    """Return all mask files below the folders in which the layouts look for them."""
    homes = [root / name for name in MASK_HOMES] + [
        root / "data" / video / "mask" for video in subfolders(root / "data")
    ]
    masks = [path for home in homes for path in list_masks(home, nested=True).values()]
    return [path for path in masks if NOT_CLASSES not in path.parts]


def _named_entries(there: Path | None) -> Entries:
    """Return what the classes file says of the ids that somebody named."""
    if there is None or not there.read_bytes().strip():
        return {}
    return {raw: entry for raw, entry in read_entries(there) if entry[0] != f"class_{raw}"}


def _kept_lines(kept: Entries) -> list[str]:
    """Return the lines of the classes file that is replaced, of ids that somebody named."""
    lines = []
    for raw, (name, color, ignored) in kept.items():
        parts = [f"name: {_quoted(name)}"]
        parts += [] if color is None else [f"color: [{', '.join(map(str, color))}]"]
        parts += ["ignore: true"] if ignored else []
        lines.append(f"{raw}: {{{', '.join(parts)}}}")
    return lines


def _labelmap_lines(path: Path, kept: Entries) -> list[str]:
    lines = _kept_lines(kept)
    names, taken = {name for name, _, _ in kept.values()}, {color for _, color, _ in kept.values()}
    free = iter(i for i in range(10**6) if i not in kept)
    for name, color in read_labelmap(path):
        if name in names:
            continue
        number = next(free)
        left_out = ", ignore: true" if name.lower() in IGNORE_NAMES else ""
        note = "  # add `ignore: true` if background means: not labelled" if name == "background" else ""
        painted = "" if color in taken else f", color: [{', '.join(map(str, color))}]"
        lines.append(f"{number}: {{name: {_quoted(name)}{painted}{left_out}}}{note}")
    return lines


def _scan_lines(scans: list[MaskScan], kept: Entries) -> list[str]:
    ids: Counter[int] = Counter()
    colors: Counter[Color] = Counter()
    masks: Counter[int | Color] = Counter()
    for scan in scans:
        ids.update(scan.ids)
        colors.update(scan.colors or {})
        masks.update([*scan.ids, *(scan.colors or {})])
    total = max(1, ids.total() + colors.total())
    binary = set(ids) == {0, IGNORE}
    taken = {color for _, color, _ in kept.values()}
    palette = {raw: color for raw, color in _palette(scans).items() if color not in taken}
    lines = _kept_lines({raw: (name, color or palette.get(raw), out) for raw, (name, color, out) in kept.items()})
    for raw in sorted(ids.keys() - kept.keys()):
        name = "ignore" if raw == IGNORE and not binary else f"class_{raw}"
        entry = _colored(name, palette[raw]) if raw in palette else name
        hint = "; write `ignore` if this means: not labelled" if raw == 0 else ""
        lines.append(f"{raw}: {entry}  # {_seen(ids[raw] / total, masks[raw], len(scans))}{hint}")
    free = iter(i for i in range(10**6) if i not in ids and i not in kept)
    unnamed = colors.keys() - set(palette.values()) - taken  # RGB masks beside palette masks, in the same colours
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
