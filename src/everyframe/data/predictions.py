"""Predicted label maps on disk, FOLDER/<video>/<frame>.png as `everyframe predict` writes them, read for evaluation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from everyframe.data.layout import FrameRef, VideoRef
from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.io.label_png import read_label
from everyframe.labels import LabelSpace, match_names

Ids = Literal["raw", "train"]
"""Which ids the files hold: raw ids of the masks, or train ids 0..K-1."""


def label_file(folder: Path, video: VideoRef, frame: str) -> Path:
    """Return the file in `folder` of the label map of the frame of that name."""
    return folder / video.name / f"{frame}.png"


def label_files(folder: Path, videos: Iterable[VideoRef]) -> Iterator[Path]:
    """Yield the files of all label maps of some videos."""
    return (label_file(folder, video, frame.name) for video in videos for frame in video.frames)


class SavedPredictions:
    """A folder of predicted label maps.

    The ids mean what FOLDER/labels.json says; without that file, what the data's own label space says. Classes of
    another order or another set are matched by name.

    Args:
        folder: holds <video>/<frame>.png.
        space: the label space to evaluate in.
        ids: "raw" as `everyframe predict` and annotation tools write, or "train".

    Attributes:
        notes: which classes of the data are never predicted, in words; empty when all can be.
        foreign: which predicted classes the data lack, see `foreign_classes`.

    Raises:
        InputError: no such folder, or no class in common.
    """

    def __init__(self, folder: str | Path, space: LabelSpace, ids: Ids = "raw") -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError(f"{folder}: expected a folder of predictions (<video>/<frame>.png), found none")
        table = self.folder / "labels.json"
        self._described = table.is_file()
        own = LabelSpace.load(table) if self._described else space
        self.table, self.notes = table_by_name(own, space, str(table))
        self.foreign = foreign_classes(own, space, str(table))
        self.space = own if ids == "raw" else LabelSpace(own.names, own.palette)
        self.ids = ids
        self._listing: dict[str, frozenset[str]] = {}

    def path(self, video: VideoRef, frame: FrameRef) -> Path:
        """The file that holds the prediction of a frame."""
        return label_file(self.folder, video, frame.name)

    def has(self, video: VideoRef, frame: FrameRef) -> bool:
        """Whether the file is there; each folder is listed once."""
        if video.name not in self._listing:
            folder = self.folder / video.name
            self._listing[video.name] = frozenset(os.listdir(folder) if folder.is_dir() else ())
        return f"{frame.name}.png" in self._listing[video.name]

    def missing(self, videos: Sequence[VideoRef]) -> dict[str, list[str]]:
        """Names of the labelled frames without a prediction, per video that lacks some."""
        lost = {
            video.name: [f.name for f in video.frames if f.label is not None and not self.has(video, f)]
            for video in videos
        }
        return {video: names for video, names in lost.items() if names}

    def check(self, videos: Sequence[VideoRef], allow_missing: bool = False) -> list[str]:
        """Return a note on labelled frames without a prediction: none, or one that says how many and where.

        Raises:
            InputError: some are missing and that is not allowed, or all are.
        """
        missing = self.missing(videos)
        if not missing:
            return []
        sizes = {video.name: len(video.labelled) for video in videos}
        lost, labelled = sum(map(len, missing.values())), sum(sizes.values())
        if lost == labelled:
            video, names = next(iter(missing.items()))
            raise InputError(
                f"{self.folder}: expected predictions as <video>/<frame>.png, found none of {labelled} labelled frames "
                f"(the first would be {self.folder / video / names[0]}.png); check the folder and the split"
            )
        where = some(
            [f"{v} (all {sizes[v]})" if len(n) == sizes[v] else f"{v} ({some(n, 2)})" for v, n in missing.items()]
        )
        if not allow_missing:
            raise InputError(
                f"{self.folder}: expected a prediction of each of {labelled} labelled frames, {lost} are missing: "
                f"{where}; predict them, or say --allow-missing to evaluate the others"
            )
        return [f"{lost} of {labelled} labelled frames have no prediction and are left out: {where}"]

    def read(self, video: VideoRef, frame: FrameRef) -> NDArray[np.uint8]:
        """Read one prediction as train ids of the label space to evaluate in: uint8 [H, W], 255 = no class of it.

        Raises:
            InputError: missing, truncated, or with an id that `labels.json` or the data do not know.
        """
        path = self.path(video, frame)
        try:
            # Without labels.json the ids are those of the video's own masks, which may differ from video to video.
            labels = read_label(path, self._raw_space(video))
        except InputError as error:
            if self.ids == "train" or "not in the class table" not in str(error):
                raise
            raise InputError(
                f"{error}; if the files hold train ids 0..{len(self.space) - 1}, say --pred-ids train"
            ) from None
        return self.table[labels]

    def _raw_space(self, video: VideoRef) -> LabelSpace:
        if self.ids == "raw" and not self._described:
            return video.space or self.space
        return self.space


def table_by_name(source: LabelSpace, target: LabelSpace, what: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Match classes by name, whatever their order, see `match_names`.

    Args:
        source: the classes that were predicted.
        target: the classes to evaluate in.
        what: where `source` comes from, named in the error and the notes.

    Returns:
        uint8 [256]: train id in `source` -> train id in `target` or 255; and a note on the classes of `target` that
        are never predicted.

    Raises:
        InputError: not one class in common.
    """
    table = np.full(256, IGNORE, np.uint8)
    for i, position in match_names(source.names, target.names).items():
        table[i] = position
    if (table == IGNORE).all():
        raise InputError(
            f"{what}: expected classes of the data ({some(target.names)}), came {len(source)} others "
            f"({some(source.names)}); evaluate on the data it was trained for, or train it on these classes"
        )
    never = [name for i, name in enumerate(target.names) if i not in table[: len(source)]]
    notes = []
    if never:
        notes.append(f"{what} has no class for {some(never, 12)}: never predicted, their pixels count as wrong")
    return table, notes


def foreign_classes(source: LabelSpace, target: LabelSpace, what: str) -> str:
    """Name the classes of `source` that `table_by_name` finds no partner for in `target`, and whose they are.

    Args:
        source: the classes that were predicted.
        target: the classes to evaluate in.
        what: where `source` comes from.

    Returns:
        A phrase for a note, such as "bus, which model m has and the data do not"; empty where there are none.
    """
    known = match_names(source.names, target.names)
    foreign = [name for i, name in enumerate(source.names) if i not in known]
    return f"{some(foreign, 12)}, which {what} has and the data do not" if foreign else ""


def some(names: Sequence[str], most: int = 4) -> str:
    """Join a list for a message, cut after `most` entries."""
    return ", ".join(names[:most]) + (f", ... {len(names)} in all" if len(names) > most else "")
