"""What lies among the masks and belongs to nothing: labels that would else be lost without a word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from everyframe.data.findings import found
from everyframe.data.listing import list_masks, subfolders
from everyframe.io.names import IMAGE_ENDINGS, VIDEO_ENDINGS

MASK_HOMES = ("masks", "labels", "annotations", "SegmentationClass")
"""Folders of a data set in which masks are looked for."""
POLYGONS = re.compile(rb'"(shapes|annotations|categories|images)"\s*:\s*\[|<annotations?[\s>]')
"""What labelme and COCO (JSON), CVAT and Pascal VOC (XML) have near the start of a file, and `labels.json` has not."""
HEAD = 1 << 16
EXPORT = "polygons are not read; export CVAT 'Segmentation mask 1.1' or PNG label maps"


def picture_files(folder: Path) -> Iterator[Path]:
    """Yield the pictures anywhere below a folder, in no order, dot-files left out."""
    return (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith("."))


def polygon_files(home: Path) -> list[Path]:
    """Return the files of polygons or boxes in a folder of masks, one or two folders deep, sorted."""
    patterns = (f"{above}*{ending}" for above in ("", "*/", "*/annotations/") for ending in (".json", ".xml"))
    return sorted({path for pattern in patterns for path in home.glob(pattern) if _holds_polygons(path)})


def polygons_of(root: Path) -> str:
    """Say in a clause for a message which file of polygons lies in ROOT or where masks are expected; "" for none."""
    beside = sorted(path for ending in (".json", ".xml") for path in root.glob(f"*{ending}") if _holds_polygons(path))
    files = [*(path for name in MASK_HOMES for path in polygon_files(root / name)), *beside]
    more = f" (and {len(files) - 1} more)" if len(files) > 1 else ""
    return f"; {files[0]}{more}: {EXPORT}" if files else ""


def tell_polygons(home: Path) -> None:
    """Warn of files of polygons among the masks."""
    files = polygon_files(home)
    if files:
        found("warning", "a file of polygons among the masks, left out", EXPORT, files)


def tell_lost_masks(home: Path, names: Collection[str]) -> None:
    """Report the masks in ROOT/masks that are in the folder of no video.

    Args:
        home: ROOT/masks.
        names: the videos.

    Raises:
        InputError: there are some, and nobody collects findings.
    """
    if not home.is_dir():
        return
    loose = list(list_masks(home).values())
    if loose:
        fix = "move it into the folder of its video: masks/NAME/000120.png"
        found("error", "a mask that lies in the folder of no video", fix, loose)
    own = [home / name for name in names if (home / name).is_dir()]
    for name in subfolders(home):
        folder = home / name
        # Where capitals make no difference on the disk, masks/Dog is the folder of dog.
        if name in names or any(folder.samefile(other) for other in own) or not any(picture_files(folder)):
            continue
        found("error", "a folder of masks, but no video of that name", _name_it(name, names), [folder])


def _name_it(name: str, names: Collection[str]) -> str:
    if name in {"SegmentationClass", "SegmentationObject"}:
        return "unpack the export of CVAT into the folder of its video: masks/NAME/SegmentationClass"
    plain = {other.casefold(): other for other in names}
    stem = Path(name).stem if Path(name).suffix.lower() in VIDEO_ENDINGS else name
    near = difflib.get_close_matches(stem.casefold(), plain, n=1, cutoff=0.6)
    meant = f"did you mean {plain[near[0]]}? " if near else ""
    return f"{meant}a folder of masks is named like its video, without the ending; rename or remove it"


def _holds_polygons(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    with path.open("rb") as file:
        return POLYGONS.search(file.read(HEAD)) is not None
