"""What a prediction leaves on disk, written frame by frame: an interrupted run leaves only whole files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from everyframe.errors import DiskFullError, InputError, writing
from everyframe.files import whole_file
from everyframe.frames import Frame
from everyframe.io.label_png import read_label, write_label
from everyframe.labels import LabelSpace


class OutputError(InputError):
    """The output folder cannot be written. It stops the whole job: the next video would meet the same."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A frame and what was predicted for it.

    Attributes:
        frame: the frame.
        labels: uint8 [H, W], train ids.
        confidence: float32 [H, W] in 0..1, the probability of the winning class; None where not asked for.
    """

    frame: Frame
    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None = None


class Writer(Protocol):
    """Contract of every output: a context manager that takes the frames of one video in order."""

    def write(self, item: Labelled) -> None:
        """Write one frame."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


@contextmanager
def output(path: Path) -> Iterator[None]:
    """As `everyframe.errors.writing`, but what goes wrong stops the job.

    Raises:
        OutputError: no permission, a full disk, a file where a folder should be.
    """
    try:
        with writing(path):
            yield
    except OutputError:
        raise
    except DiskFullError as error:
        raise OutputError(f"{error}, then go on with --resume") from None
    except InputError as error:
        raise OutputError(str(error)) from None


OVERLAY, AREAS, CONFIDENCE = ".overlay.mp4", ".areas.csv", ".confidence"
"""What follows a video's name in the names of its results; the folder of its label maps has the name alone."""


def results_of(out: Path, name: str) -> Iterator[Path]:
    """Yield the files that lie in `out` as results of the video of that name."""
    yield from (path for ending in (OVERLAY, AREAS) if (path := out / f"{name}{ending}").exists())
    for folder in (out / name, out / f"{name}{CONFIDENCE}"):
        yield from folder.glob("*.png")


def save_classes(out: Path, space: LabelSpace, overwrite: bool = False, written: Iterable[Path] = ()) -> bool:
    """Write OUT/labels.json, the classes of the label maps in the folder.

    Args:
        out: an output folder that exists.
        space: the classes.
        overwrite: whether other classes may be replaced.
        written: files that the job is about to write.

    Returns:
        Whether other classes stood there.

    Raises:
        InputError: label maps of other classes lie there: with this labels.json they would mean something else; or
            pictures that no job wrote, such as masks made by hand, or the frames themselves.
        OutputError: the folder cannot be written.
    """
    path = out / "labels.json"
    others = False
    if path.exists():
        earlier = LabelSpace.load(path)
        others = (earlier.names, earlier.raw_to_train) != (space.names, space.raw_to_train)
    if others and not overwrite:
        raise InputError(
            f"{path}: expected the {len(space)} classes of this job ({', '.join(space.names[:3])}, ...), came those of "
            f"an earlier one ({len(earlier)}: {', '.join(earlier.names[:3])}, ...), whose label maps lie here; choose "
            f"another folder, or --overwrite to replace that job"
        )
    there = chain((file for file in written if file.exists()), out.glob("*/*.png"), out.glob("*/*/*.png"))
    if not path.exists() and (foreign := next(there, None)) is not None:
        raise InputError(
            f"{out}: expected a new folder, or that of an earlier job, which has a labels.json; found {foreign}, which "
            f"no job wrote and this one might replace; choose another folder"
        )
    with output(path):
        space.save(path)
    return others


class _FolderWriter:
    """One file per frame in a folder of the video."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made = False
        self._last = ""

    def path(self, frame: Frame) -> Path:
        """File of a frame."""
        return self.folder / f"{frame.name}.png"

    def room(self, frame: Frame) -> Path:
        """File of a frame, in a folder that is there: made with the first frame, so that no video leaves it empty.

        Raises:
            InputError: it would replace that of the frame before.
        """
        path = self.path(frame)
        if frame.name == self._last:
            raise InputError(f"{path}: expected frames of different names, came {frame.name!r} twice; name each frame")
        self._last = frame.name
        if not self._made:
            with output(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self._made = True
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Nothing to close: each file is whole."""


class LabelWriter(_FolderWriter):
    """Label maps as palette PNGs that hold raw ids, FOLDER/<frame name>.png."""

    def __init__(self, folder: Path, space: LabelSpace) -> None:
        super().__init__(folder)
        self.space = space

    def write(self, item: Labelled) -> None:
        """Write one label map."""
        room = self.room(item.frame)
        with output(room):
            write_label(room, item.labels, self.space)

    def read(self, frame: Frame) -> NDArray[np.uint8]:
        """Read back what an earlier run wrote.

        Raises:
            InputError: missing, damaged, or of another size.
        """
        return read_label(self.path(frame), self.space, frame.size)


class ConfidenceWriter(_FolderWriter):
    """The winning class's probability as grey PNGs, 255 = certain, FOLDER/<frame name>.png."""

    def write(self, item: Labelled) -> None:
        """Write one confidence map; frames that an earlier run has done carry none and keep their file."""
        if item.confidence is None:
            return
        grey = np.rint(item.confidence * 255).astype(np.uint8)
        room = self.room(item.frame)
        with output(room), whole_file(room) as part:
            Image.fromarray(grey).save(part, format="PNG", compress_level=1)


class AreasWriter:
    """One CSV line per frame: index, name, time in seconds, and the share of the pixels that each class has."""

    def __init__(self, path: Path, space: LabelSpace) -> None:
        self.path = path
        self.space = space
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            with output(self.path):
                self._file.close()

    def write(self, item: Labelled) -> None:
        """Append one line, and hand it to the file system at once; the first one opens the file."""
        frame = item.frame
        areas = class_areas(item.labels, len(self.space))
        line = _csv_line([frame.index, frame.name, f"{frame.time:.6f}", *(f"{area:.6f}" for area in areas)])
        with output(self.path):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("w", newline="", encoding="utf-8", buffering=1)
                self._file.write(_csv_line(["frame", "name", "time", *self.space.names]))
            self._file.write(line)


def class_areas(labels: NDArray[np.uint8], classes: int) -> NDArray[np.float64]:
    """Return the share of the pixels of each class, float64 [K]; ignored pixels belong to none.

    Example:
        >>> class_areas(np.array([[0, 0], [2, 255]], np.uint8), 3).tolist()
        [0.5, 0.0, 0.25]
    """
    counts = torch.bincount(torch.from_numpy(np.ascontiguousarray(labels)).flatten(), minlength=256)
    shares: NDArray[np.float64] = counts[:classes].double().numpy() / labels.size
    return shares


def _csv_line(cells: list[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
