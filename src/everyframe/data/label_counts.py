"""How many pixels of each class every label map has: counted once, kept in a small file of the user's cache.

What is kept are the ids (or colours) as they stand in the mask files, so that no other class list, mapping or threshold
makes a second look necessary. A mask that changed (its time or size) is counted again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyframe.data.decoding import DecodingThreads
from everyframe.data.findings import DataWarning
from everyframe.data.layout import VideoRef
from everyframe.data.scan import scan_mask
from everyframe.errors import InputError
from everyframe.files import write_whole
from everyframe.frames import IGNORE
from everyframe.labels import LabelSpace

FORMAT = "everyframe label counts 1"
TOLD_FROM = 1000
"""Masks to count that make it worth telling what takes so long."""

Histogram = dict[str, int]
"""What a mask holds: id ("7") or colour ("#00008e") -> pixels."""


class LabelCounts(NamedTuple):
    """Counts of N label maps.

    Attributes:
        places: for each label map (position of its video, position of the frame in it).
        pixels: int32 [N, K], pixels of each class; ignored pixels are in none.
        area: int64 [N], all pixels of the label map.
    """

    places: tuple[tuple[int, int], ...]
    pixels: NDArray[np.int32]
    area: NDArray[np.int64]

    @property
    def labelled_share(self) -> NDArray[np.float64]:
        """Share of each label map's pixels that have a class: float64 [N]."""
        share: NDArray[np.float64] = self.pixels.sum(1, dtype=np.int64) / np.maximum(self.area, 1)
        return share


def count_labels(
    videos: Sequence[VideoRef],
    space: LabelSpace,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LabelCounts:
    """Count the pixels of each class in all label maps of some videos, at the masks' own size.

    Args:
        videos: whose labelled frames to look at; their own label spaces have the classes of `space`.
        space: how masks are read where a video says nothing else.
        cache: file to keep the counts in, see `cache_file`; None: keep nothing.
        progress: called as progress(done, total) while masks are read.

    Raises:
        InputError: a mask cannot be read or holds an id outside the table.
    """
    places = tuple((number, index) for number, video in enumerate(videos) for index in video.labelled)
    frames = [videos[number].frames[index] for number, index in places]
    histograms = _histograms([frame.label for frame in frames if frame.label is not None], cache, progress)
    pixels = np.zeros((len(places), len(space)), np.int32)
    area = np.zeros(len(places), np.int64)
    tables: dict[int, dict[str, int]] = {}
    for row, ((number, _), frame) in enumerate(zip(places, frames, strict=True)):
        assert frame.label is not None
        histogram = histograms[frame.label]
        own = frame.space or videos[number].space or space
        table = tables.setdefault(id(own), {})
        for entry in histogram.keys() - table.keys():
            table[entry] = _train_id(entry, own, frame.label)
        for entry, count in histogram.items():
            if table[entry] != IGNORE:
                pixels[row, table[entry]] += count
        area[row] = sum(histogram.values())
    return LabelCounts(places, pixels, area)


def count_parts(parts: Sequence[tuple[Sequence[VideoRef], Path | None]], space: LabelSpace) -> LabelCounts:
    """Count several data sets as one, each with its own cache: [(videos, cache), ...], see `count_labels`."""
    counted = [count_labels(videos, space, cache) for videos, cache in parts]
    first = np.cumsum([0, *(len(videos) for videos, _ in parts)]).tolist()
    return LabelCounts(
        tuple((start + n, i) for start, counts in zip(first, counted, strict=False) for n, i in counts.places),
        np.concatenate([counts.pixels for counts in counted]),
        np.concatenate([counts.area for counts in counted]),
    )


def cache_file(root: Path) -> Path:
    """Return where the counts of a data set are kept.

    A folder of its own in $EVERYFRAME_CACHE, or else in everyframe/ of $XDG_CACHE_HOME or ~/.cache: data sets are often
    read-only and shared.
    """
    home = os.environ.get("EVERYFRAME_CACHE")
    base = Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "everyframe"
    whole = str(root.expanduser().resolve())
    key = hashlib.md5(whole.encode(), usedforsecurity=False).hexdigest()[:12]
    return base / "label_counts" / f"{Path(whole).name}-{key}.json"


def _train_id(entry: str, space: LabelSpace, path: Path) -> int:
    """Look up what a histogram's entry means; `LabelSpace` explains what it does not know."""
    if entry.startswith("#"):
        return int(space.encode_rgb(np.array([list(bytes.fromhex(entry[1:]))], np.uint8), path)[0])
    return int(space.encode(np.array([int(entry)]), path)[0])


# -- reading and keeping ---------------------------------------------------------------------------------------------


def _histograms(
    paths: Sequence[Path], cache: Path | None, progress: Callable[[int, int], None] | None
) -> dict[Path, Histogram]:
    kept = _load(cache)
    stamps = {path: _stamp(path) for path in paths}
    folders = {folder: os.path.abspath(folder) for folder in {path.parent for path in paths}}
    known: dict[Path, Histogram] = {}
    for path, stamp in stamps.items():
        entry = kept.get(folders[path.parent], {}).get(path.name)
        if entry is not None and entry[:2] == stamp:
            known[path] = entry[2]
    new = [path for path in stamps if path not in known]
    if len(new) >= TOLD_FROM and progress is None:
        print(f"counting the classes in {len(new)} masks, once; kept in {cache or 'no file'}", file=sys.stderr)
    try:
        with DecodingThreads(os.cpu_count() or 1) as threads:
            counted = threads.ahead(_histogram, ((path,) for path in new))
            for done, (path, histogram) in enumerate(zip(new, counted, strict=True), 1):
                known[path] = histogram
                kept.setdefault(folders[path.parent], {})[path.name] = [*stamps[path], histogram]
                if progress is not None:
                    progress(done, len(new))
    finally:  # a broken mask or Ctrl-C must not cost what was counted before it
        if new and cache is not None:
            # Folders that are gone, such as earlier rounds of pseudo-labels, would make the file grow for ever.
            _save(cache, {folder: files for folder, files in kept.items() if os.path.isdir(folder)})
    return known


def _histogram(path: Path) -> Histogram:
    scan = scan_mask(path)
    if scan.error:
        raise InputError(f"{path}: expected a mask, came {scan.error}; replace or remove the file")
    if scan.kind != "RGB":
        return {str(raw): count for raw, count in scan.ids.items()}
    if scan.colors is None:
        raise InputError(f"{path}: expected one colour per class, came thousands; save the mask without smoothing")
    return {"#" + bytes(color).hex(): count for color, count in scan.colors.items()}


def _stamp(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: expected a mask, cannot read it ({error.strerror}); check the path") from None
    return [found.st_mtime_ns, found.st_size]


def _load(cache: Path | None) -> dict[str, dict[str, Any]]:
    """Read what was kept: folder -> file name -> [time, size, histogram]."""
    if cache is None or not cache.is_file():
        return {}
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
        folders: dict[str, dict[str, Any]] = data["folders"] if data["format"] == FORMAT else {}
        return folders
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # it is only a copy: count again


def _save(cache: Path, folders: Mapping[str, Any]) -> None:
    """Write in one step, so that processes that count at the same time cannot spoil each other's file."""
    text = json.dumps({"format": FORMAT, "folders": folders}, separators=(",", ":"))
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache, text)
    except OSError as error:
        warnings.warn(
            f"{cache}: the counts of {sum(map(len, folders.values()))} masks cannot be kept ({error.strerror}) and "
            f"will be worked out again; set EVERYFRAME_CACHE to a folder that can be written",
            DataWarning,
            stacklevel=4,
        )
