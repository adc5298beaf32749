"""What the checker says of what it saw: pixels by class, ids that nobody named, sizes that do not fit, copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from everyframe.data.check_report import CheckReport, SplitCount
from everyframe.data.findings import Findings
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.reading import target_size
from everyframe.data.scan import FrameScan, MaskScan
from everyframe.frames import IGNORE
from everyframe.labels import Color, LabelSpace

Scans = dict[Path, FrameScan | MaskScan | dict[int, FrameScan]]
"""File -> what it holds; of a video file: position of a frame -> what came."""

MANY_UNKNOWN = 24
"""A mask with as many ids outside the class table is one finding, not one for each id: it may hold no ids at all."""
SHOWN_UNKNOWN = 10
"""Ids, and colours, outside the class table that get a finding of their own: those of the most pixels."""


EXPORT_OF_CVAT = "SegmentationClass"
"""Folder of the masks in an export of CVAT."""


class Judge:
    """Turns what was seen in the files into counts and problems.

    Args:
        report: where counts go.
        notes: where problems go.
        space: the class table.
    """

    def __init__(self, report: CheckReport, notes: Findings, space: LabelSpace) -> None:
        self.report, self.notes, self.space = report, notes, space
        self.unknown_ids: dict[int, list[Path]] = defaultdict(list)
        self.unknown_colors: dict[Color, list[Path]] = defaultdict(list)
        self.many_ids: list[Path] = []
        self.seen_ids: Counter[int] = Counter()
        self.seen_masks: set[Path] = set()
        self.seen_frames: set[tuple[Path, str]] = set()

    def judge(self, videos: dict[str, list[VideoRef]], scans: Scans) -> None:
        """Look at everything once.

        Args:
            videos: split -> its videos.
            scans: what each file of them holds.
        """
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
            self.notes.add("error", what, _fit(scan.size, frame), [path])
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
        raw_ids = self._raw_ids(space, path, scan, new)
        unknown = [raw for raw in raw_ids if raw not in space.raw_to_train]
        for raw in raw_ids.keys() - set(unknown):
            counts[space.raw_to_train[raw]] += raw_ids[raw]
        if not new:
            return counts
        for raw in unknown:
            self.report.unknown[str(raw)] += raw_ids[raw]
        if len(unknown) >= MANY_UNKNOWN and not scan.lossy:
            self.many_ids.append(path)
        elif not scan.lossy:  # what JPEG made of the ids tells nothing about the class table
            self.seen_ids.update(raw_ids)
            for raw in unknown:
                self.unknown_ids[raw].append(path)
        return counts

    def _raw_ids(self, space: LabelSpace, path: Path, scan: MaskScan, new: bool) -> Counter[int]:
        if scan.kind != "RGB":
            return Counter(scan.ids)
        ids: Counter[int] = Counter()
        new = new and not scan.lossy
        if space.colors is None or scan.colors is None:
            if new:
                self.notes.add("error", *_no_colors(path, scan, space), [path])
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
        if self.many_ids:
            what = f"a mask with {MANY_UNKNOWN} or more ids that are not in the class table"
            fix = "save it as PNG, without anti-aliasing or JPEG in between, or name the ids in the classes file"
            self.notes.add("error", what, fix, self.many_ids)
        shown = sorted(sorted(self.unknown_ids, key=lambda raw: -self.report.unknown[str(raw)])[:SHOWN_UNKNOWN])
        for raw in shown:
            files = self.unknown_ids[raw]
            what = f"id {raw} is not in the class table ({self.report.unknown[str(raw)]} pixels)"
            fix = f"add `{raw}: <class name>` or `{raw}: ignore` to the classes file"
            self.notes.add("error", what, fix + self._hint(raw), files)
        more = sorted(self.unknown_ids.keys() - set(shown))
        if more:
            files = sorted({path for raw in more for path in self.unknown_ids[raw]})
            what = f"{len(more)} more ids are not in the class table: {', '.join(map(str, more))}"
            self.notes.add("error", what, "add them to the classes file, with a class name or as `ignore`", files)
        often = sorted(self.unknown_colors, key=lambda color: -self.report.unknown[str(color)])
        for color in often[:SHOWN_UNKNOWN]:
            what = f"colour {color} is not in the class table ({self.report.unknown[str(color)]} pixels)"
            self.notes.add("error", what, "add it to the classes file or labelmap.txt", self.unknown_colors[color])
        if len(often) > SHOWN_UNKNOWN:
            files = sorted({path for color in often[SHOWN_UNKNOWN:] for path in self.unknown_colors[color]})
            what = f"{len(often) - SHOWN_UNKNOWN} more colours are not in the class table"
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
        if len(names) == 1:
            what = f"a single class, {names[0]}: every pixel is right, whatever a model says"
            self.notes.add("error", what, "name a second class in the classes file, such as the background")
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
        val = labelled.get("val")
        if train is not None and val is not None:
            unseen = [name for i, name in names.items() if train.pixels[i] and not val.pixels[i]]
            if unseen:
                what = f"classes without a pixel in val: {', '.join(unseen)}"
                self.notes.add("warning", what, "label some in a video of val, else nothing measures them")
        self._placeholders()

    def _placeholders(self) -> None:
        """Warn of the names that `everyframe data init` gave and nobody replaced."""
        pairs = ((raw, self.space.names[train]) for raw, train in self.space.raw_to_train.items() if train != IGNORE)
        named = [name for raw, name in sorted(pairs) if name == f"class_{raw}"]
        if named:
            what = f"classes that nobody named: {', '.join(named)}"
            self.notes.add("warning", what, "replace the names in the classes file: models and reports carry them")

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


def _fit(mask: tuple[int, int], frame: tuple[int, int]) -> str:
    if mask == frame[::-1]:
        # Phones store upright videos lying, with a note to turn them; some tools export masks of the lying frame.
        return "the frame is shown rotated: rotate the mask by 90 degrees (look at both to see which way)"
    return "resize the mask with nearest neighbour, or export it at full size"


def _read_at(size: tuple[int, int], video: VideoRef) -> tuple[int, int]:
    return size if video.height is None else target_size(size, video.height)


def _no_colors(path: Path, scan: MaskScan, space: LabelSpace) -> tuple[str, str]:
    if scan.colors is None:
        return "an RGB mask with thousands of colours", "save it as PNG without anti-aliasing, JPEG or resizing"
    if scan.grey_rgb:
        return "an RGB mask with three equal channels", "save one channel only: it holds the ids"
    if EXPORT_OF_CVAT in path.parts:
        what = f"RGB masks in {EXPORT_OF_CVAT}, but labelmap.txt, which says what their colours mean, is missing"
        return what, f"unpack the whole export of CVAT: labelmap.txt lies beside {EXPORT_OF_CVAT}"
    number = len(space.names)
    return (
        "an RGB mask, but the classes have no colours",
        f"give the {number} classes their colours: `1: {{name: road, color: [128, 64, 128]}}`, or put CVAT's "
        f"labelmap.txt beside the masks",
    )
