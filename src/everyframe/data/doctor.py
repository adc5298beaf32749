"""Check a data set before any training: everything that would stop training or make it silently wrong.

All problems are collected, none stops the check. Most wrong trainings on own data come from ids: 0 or 255 taken for a
class or for void, ids shifted by one, colour masks read as ids. So every id that occurs is counted and compared with
the class table, and what is not in the table is an error, never a guess.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from everyframe.data.check_report import CheckReport, SplitCount
from everyframe.data.findings import Finding, Findings, collecting
from everyframe.data.judge import Judge, Scans
from everyframe.data.layout import VideoRef, in_space
from everyframe.data.layouts import images, parse_spec, read_split, split_names
from everyframe.data.listing import holds_out
from everyframe.data.scan import FrameScan, MaskScan, scan_mask, scan_picture, scan_video
from everyframe.data.strays import polygons_of
from everyframe.errors import InputError

Progress = Callable[[int, int], None]
NO_VAL = (
    "label a second video, or write val.txt with one name per line, or train without validation: --data.val_split null"
)


def check(
    spec: str | Path,
    splits: Sequence[str] | None = None,
    *,
    decode_all: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Look at every mask and every frame of a data set.

    Labelled frames and masks are decoded; other frames are only opened and looked at for their end. Of video files the
    first, the last and the labelled frames are decoded, and the file must be as long as its container says.

    Args:
        spec: "LAYOUT:ROOT" or a path, as `load_split` takes it.
        splits: the splits to check; all that are there when left out.
        decode_all: decode unlabelled pictures too, and all frames of video files.
        workers: threads; as many as the machine has cores when left out.
        progress: called as progress(done, total) while files are read.

    Returns:
        The report; `report.ok` is False when training would be wrong.

    Raises:
        InputError: there is no data set at all at `spec`.
    """
    layout, root = parse_spec(spec)
    report = CheckReport(layout, root)
    notes = Findings()
    videos = _list(report, notes, splits)
    scanned = _scan(videos, decode_all, workers, progress)
    if report.space is not None:
        Judge(report, notes, report.space).judge(videos, scanned)
    report.findings = sorted(notes.joined(), key=lambda finding: finding.level)
    return report


def _list(report: CheckReport, notes: Findings, splits: Sequence[str] | None) -> dict[str, list[VideoRef]]:
    """List the videos of each split; what the layout complains of goes into the notes."""
    try:
        names = list(splits or split_names(report.layout, report.root))
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
                split = read_split(report.layout, report.root, name)
                report.space = report.space or split[1]
                videos[name] = in_space(split, report.space)
            except InputError as error:
                notes.add("error", str(error), "")
        for finding in findings:
            notes.add(finding.level, finding.what, finding.fix, _new(finding, notes))
    for name, listed in videos.items():
        count = report.splits[name] = SplitCount()
        count.frames = sum(len(video.frames) for video in listed)
        count.labels_per_video = [len(video.labelled) for video in listed]
    if "val" in videos and _rule_decides(report):
        report.held_out = [video.name for video in videos["val"]]
    if not splits and "val" not in names and report.splits.get("train", SplitCount()).labelled:
        notes.add("warning", "nothing to validate on: there is no split val", NO_VAL)
    if "train" in report.splits and not report.splits["train"].labelled:
        notes.add(
            "error",
            "no labelled frame in split train",
            f"add masks, or check their folder and names{polygons_of(report.root)}",
        )
    return videos


def _rule_decides(report: CheckReport) -> bool:
    """Whether the program chose the videos of val, as no list and no folder does."""
    if report.layout == "images" and images.has_split_folders(report.root):
        return False
    return report.layout in {"folder", "images"} and holds_out(report.root)


def _new(finding: Finding, notes: Findings) -> list[str]:
    """Files not noted yet: a file of two splits is reported twice by the layout."""
    noted = set(notes.files.get((finding.level, finding.what, finding.fix), ()))
    return [file for file in finding.files if file not in noted]


def _scan(videos: dict[str, list[VideoRef]], decode_all: bool, workers: int | None, progress: Progress | None) -> Scans:
    """Look at every file once, in threads (decoding releases the interpreter lock)."""
    jobs: dict[Path, Callable[[], FrameScan | MaskScan | dict[int, FrameScan]]] = {}
    for video in (video for listed in videos.values() for video in listed):
        if video.file is not None:
            jobs[video.file] = partial(scan_video, video, decode_all)
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
