"""Check a data set before any training: everything that would stop training or make it silently wrong.

All problems are collected, none stops the check. Most wrong trainings on own data come from ids: 0 or 255 taken for a
class or for void, ids shifted by one, colour masks read as ids. So every id that occurs is counted and compared with
the class table, and what is not in the table is an error, never a guess.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from everyframe.data.check_report import CheckReport, SplitCount
from everyframe.data.findings import Finding, Level, collecting
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.layouts import LAYOUTS, SPLITS, parse_spec
from everyframe.data.reading import target_size
from everyframe.data.scan import FrameScan, MaskScan, scan_mask, scan_picture, scan_video
from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.labels import Color, LabelSpace

Progress = Callable[[int, int], None]


def check(
    spec: str | Path,
    splits: Sequence[str] | None = None,
    *,
    decode_all: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Look at every mask and every frame of a data set.

    Labelled frames and masks are decoded; other frames are only opened and looked at for their end, and of video files
    the first, the last and the labelled frames are decoded.

    Args:
        spec: "LAYOUT:ROOT" or a path, as `load_split` takes it.
        splits: the splits to check; all that are there when left out.
        decode_all: decode unlabelled pictures too.
        workers: threads; as many as the machine has cores when left out.
        progress: called as progress(done, total) while files are read.

    Returns:
        The report; `report.ok` is False when training would be wrong.

    Raises:
        InputError: there is no data set at all at `spec`.
    """
    layout, root = parse_spec(spec)
    report = CheckReport(layout, root)
    notes = _Notes()
    videos = _list(report, notes, splits)
    scanned = _scan(videos, decode_all, workers, progress)
    if report.space is not None:
        _Judge(report, notes, report.space).judge(videos, scanned)
    report.findings = sorted(notes.findings(), key=lambda finding: finding.level)
    return report


@dataclass(slots=True)
class _Notes:
    """Problems, joined where only the file differs."""

    files: dict[tuple[Level, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, level: Level, what: str, fix: str, files: Iterable[Path | str] = ()) -> None:
        self.files[level, what, fix] += [str(file) for file in files]

    def findings(self) -> list[Finding]:
        return [Finding(level, what, fix, tuple(files)) for (level, what, fix), files in self.files.items()]


def _list(report: CheckReport, notes: _Notes, splits: Sequence[str] | None) -> dict[str, list[VideoRef]]:
    """List the videos of each split; what the layout complains of goes into the notes."""
    try:
        names = list(splits or SPLITS[report.layout](report.root))
    except InputError as error:
        notes.add("error", str(error), "")
        return {}
    if not names:
        lists = "train.txt, val.txt and test.txt with one name per line"
        notes.add("error", "no split of this data set is there", f"write {lists}, or check the path", [report.root])
    videos: dict[str, list[VideoRef]] = {}
    for name in names:
        with collecting() as findings:
            try:
                videos[name], report.space = LAYOUTS[report.layout](report.root, name)
            except InputError as error:
                notes.add("error", str(error), "")
        for finding in findings:
            notes.add(finding.level, finding.what, finding.fix, _new(finding, notes))
    for name, listed in videos.items():
        count = report.splits[name] = SplitCount()
        count.frames = sum(len(video.frames) for video in listed)
        count.labels_per_video = [len(video.labelled) for video in listed]
    if "train" in report.splits and not report.splits["train"].labelled:
        notes.add("error", "no labelled frame in split train", "add masks, or check their folder and names")
    return videos


def _new(finding: Finding, notes: _Notes) -> list[str]:
    """Files not noted yet: a file of two splits is reported twice by the layout."""
    noted = set(notes.files.get((finding.level, finding.what, finding.fix), ()))
    return [file for file in finding.files if file not in noted]


Scans = dict[Path, FrameScan | MaskScan | dict[int, FrameScan]]


def _scan(videos: dict[str, list[VideoRef]], decode_all: bool, workers: int | None, progress: Progress | None) -> Scans:
    """Look at every file once, in threads (decoding releases the interpreter lock)."""
    jobs: dict[Path, Callable[[], FrameScan | MaskScan | dict[int, FrameScan]]] = {}
    for video in (video for listed in videos.values() for video in listed):
        if video.file is not None:
            jobs[video.file] = partial(scan_video, video)
        for ref in video.frames:
            if ref.label is not None:
                jobs[ref.label] = partial(scan_mask, ref.label)
            if ref.image is not None:
                whole = decode_all or ref.label is not None
                jobs[ref.image] = partial(scan_picture, ref.image, whole)
    scans: Scans = {}
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for done, (path, scan) in enumerate(zip(jobs, pool.map(lambda job: job(), jobs.values()), strict=True), 1):
            scans[path] = scan
            if progress is not None:
                progress(done, len(jobs))
    return scans


class _Judge:
    """Turns what was seen into counts and problems."""

    def __init__(self, report: CheckReport, notes: _Notes, space: LabelSpace) -> None:
        self.report, self.notes, self.space = report, notes, space
        self.unknown_ids: dict[int, list[Path]] = defaultdict(list)
        self.unknown_colors: dict[Color, list[Path]] = defaultdict(list)
        self.seen_ids: Counter[int] = Counter()
        self.seen_masks: set[Path] = set()
        self.seen_frames: set[tuple[Path, str]] = set()

    def judge(self, videos: dict[str, list[VideoRef]], scans: Scans) -> None:
        for split, listed in videos.items():
            for video in listed:
                self._video(self.report.splits[split], video, scans)
        self._unknown()
        self._classes()
        self._duplicates(videos, scans)

    # -- one video ---------------------------------------------------------------------------------------------------

    def _video(self, count: SplitCount, video: VideoRef, scans: Scans) -> None:
        sizes: Counter[tuple[int, int]] = Counter()
        for ref in video.frames:
            frame = self._frame(video, ref, scans)
            if frame is not None and frame.size is not None:
                sizes[frame.size] += 1
            if ref.label is not None:
                scan = scans[ref.label]
                assert isinstance(scan, MaskScan)
                self._mask(count, video, ref.label, scan, frame.size if frame else None)
        if len(sizes) > 1:
            seen = ", ".join(f"{w}x{h}" for (h, w), _ in sizes.most_common(3))
            where = video.file or (video.frames[0].image or Path(video.name)).parent
            self.notes.add("error", f"frames of different sizes in one video ({seen})", "resize them alike", [where])

    def _frame(self, video: VideoRef, ref: FrameRef, scans: Scans) -> FrameScan | None:
        if video.file is not None:
            inside = scans[video.file]
            scan = inside.get(ref.index) if isinstance(inside, dict) else None
            path = video.file
        elif ref.image is not None:
            found = scans[ref.image]
            scan = found if isinstance(found, FrameScan) else None
            path = ref.image
        else:
            return None
        if scan is not None and scan.error and (path, scan.error) not in self.seen_frames:
            self.seen_frames.add((path, scan.error))
            what = f"a frame that cannot be read: {scan.error}"
            self.notes.add("error", what, "copy the file again or remove it", [path])
        return scan

    def _mask(
        self, count: SplitCount, video: VideoRef, path: Path, scan: MaskScan, frame: tuple[int, int] | None
    ) -> None:
        new = path not in self.seen_masks
        self.seen_masks.add(path)
        if scan.error:
            if new:
                self.notes.add(
                    "error", f"a mask that cannot be read: {scan.error}", "save it again or remove it", [path]
                )
            return
        if new:
            self.report.kinds[scan.kind] += 1
            self._look(video, path, scan, frame)
        counts = self._train_ids(video.space or self.space, path, scan, new)
        count.pixels += counts
        count.masks += Counter(dict.fromkeys(counts, 1))
        if new and counts and set(counts) == {IGNORE}:
            self.notes.add("warning", "a mask with every pixel left out", "label something, or remove it", [path])

    def _look(self, video: VideoRef, path: Path, scan: MaskScan, frame: tuple[int, int] | None) -> None:
        """Problems of a mask that its ids do not tell."""
        assert scan.size is not None
        if frame is not None and _read_at(scan.size, video) != _read_at(frame, video):
            what = f"a mask of {scan.size[1]}x{scan.size[0]} pixels on a frame of {frame[1]}x{frame[0]}"
            self.notes.add("error", what, "resize the mask with nearest neighbour, or export it at full size", [path])
        if scan.lossy:
            self.notes.add("error", "a mask stored as JPEG, which changes ids", "export the masks as PNG", [path])
        table = (video.space or self.space).colors
        wrong = [i for i, color in scan.palette.items() if table and color in table and table[color] != i]
        if wrong:
            what = "a palette mask whose colours say other classes than its ids"
            self.notes.add("error", what, "export it as RGB, or as ids of the classes file", [path])

    def _train_ids(self, space: LabelSpace, path: Path, scan: MaskScan, new: bool) -> Counter[int]:
        """Count pixels by train id; what is not in the table is noted."""
        counts: Counter[int] = Counter()
        for raw, pixels in self._raw_ids(space, path, scan, new).items():
            if new:
                self.seen_ids[raw] += pixels
            if raw in space.raw_to_train:
                counts[space.raw_to_train[raw]] += pixels
            elif new:
                self.unknown_ids[raw].append(path)
                self.report.unknown[str(raw)] += pixels
        return counts

    def _raw_ids(self, space: LabelSpace, path: Path, scan: MaskScan, new: bool) -> Counter[int]:
        if scan.kind != "RGB":
            return Counter(scan.ids)
        ids: Counter[int] = Counter()
        if space.colors is None or scan.colors is None:
            if new:
                self.notes.add("error", *_no_colors(scan, space), [path])
            return ids
        for color, pixels in scan.colors.items():
            if color in space.colors:
                ids[space.colors[color]] += pixels
            elif new:
                self.unknown_colors[color].append(path)
                self.report.unknown[str(color)] += pixels
        return ids

    # -- all of them -------------------------------------------------------------------------------------------------

    def _unknown(self) -> None:
        for raw, files in sorted(self.unknown_ids.items()):
            what = f"id {raw} is not in the class table ({self.report.unknown[str(raw)]} pixels)"
            fix = f"add `{raw}: <class name>` or `{raw}: ignore` to the classes file"
            self.notes.add("error", what, fix + self._hint(raw), files)
        often = sorted(self.unknown_colors, key=lambda color: -self.report.unknown[str(color)])
        for color in often[:10]:
            what = f"colour {color} is not in the class table ({self.report.unknown[str(color)]} pixels)"
            self.notes.add("error", what, "add it to the classes file or labelmap.txt", self.unknown_colors[color])
        if len(often) > 10:
            files = sorted({path for color in often[10:] for path in self.unknown_colors[color]})
            what = f"{len(often) - 10} more colours are not in the class table"
            self.notes.add("error", what, "save the masks without anti-aliasing", files)

    def _hint(self, raw: int) -> str:
        """What this unknown id most often means; it is said, not done."""
        known = {i for i, train in self.space.raw_to_train.items() if train != IGNORE}
        seen = set(self.seen_ids)
        if raw == IGNORE and seen <= {0, IGNORE}:
            return " (the masks hold only 0 and 255: here 255 may well be the foreground)"
        if raw == IGNORE:
            return " (255 mostly means: not labelled)"
        if raw == 0:
            return " (0 mostly means background or not labelled)"
        if 0 not in seen and raw == max(known) + 1 and seen - {IGNORE} <= {i + 1 for i in known}:
            return " (the masks count from 1, the classes file from 0: shift the ids of the classes file by one)"
        return ""

    def _classes(self) -> None:
        labelled = {split: count for split, count in self.report.splits.items() if count.labelled}
        names = dict(enumerate(self.space.names))
        train = labelled.get("train")
        if train is not None:
            absent = [i for i in names if not train.pixels[i]]
            tested = [i for i in absent if any(count.pixels[i] for count in labelled.values())]
            never = [names[i] for i in absent if i not in tested]
            if tested:
                what = f"classes in other splits but not in train: {', '.join(names[i] for i in tested)}"
                self.notes.add("warning", what, "label some of them in a training video, else their IoU will be 0")
            if never:
                what = f"classes without a pixel in any mask: {', '.join(never)}"
                self.notes.add("warning", what, "label some, or take them out of the classes file")

    def _duplicates(self, videos: dict[str, list[VideoRef]], scans: Scans) -> None:
        where: dict[str, set[str]] = defaultdict(set)
        copies: dict[str, dict[tuple[str, str], Path]] = defaultdict(dict)
        for split, listed in videos.items():
            for video in listed:
                where[video.name].add(split)
                for ref in video.frames:
                    scan = scans.get(ref.image) if ref.image is not None and ref.label is not None else None
                    if isinstance(scan, FrameScan) and scan.digest and ref.image is not None:
                        copies[scan.digest].setdefault((split, video.name), ref.image)
        shared = [name for name, of in where.items() if len(of) > 1]
        if shared:
            what = f"videos in more than one split: {', '.join(shared[:5])}{' ...' if len(shared) > 5 else ''}"
            self.notes.add("warning", what, "leave each in one list, or scores will be too good")
        for places in copies.values():
            paths = sorted(set(places.values()))
            if len(paths) > 1 and len({name for _, name in places}) > 1:
                across = len({split for split, _ in places}) > 1
                what = "the same labelled picture in two splits" if across else "the same labelled picture twice"
                fix = "remove one, or scores will be too good" if across else "remove one, or it counts twice"
                self.notes.add("warning", what, fix, paths)


def _read_at(size: tuple[int, int], video: VideoRef) -> tuple[int, int]:
    return size if video.height is None else target_size(size, video.height)


def _no_colors(scan: MaskScan, space: LabelSpace) -> tuple[str, str]:
    if scan.colors is None:
        return "an RGB mask with thousands of colours", "save it as PNG without anti-aliasing, JPEG or resizing"
    if scan.grey_rgb:
        return "an RGB mask with three equal channels", "save one channel only: it holds the ids"
    number = len(space.names)
    return (
        "an RGB mask, but the classes have no colours",
        f"give the {number} classes their colours: `1: {{name: road, color: [128, 64, 128]}}`, or put CVAT's "
        f"labelmap.txt beside the masks",
    )
