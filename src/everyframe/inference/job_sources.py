"""What the sources of a prediction job name: videos, what names nothing, what comes twice."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everyframe.errors import InputError
from everyframe.frames import Frame
from everyframe.inference.job import Job
from everyframe.inference.outputs import CONFIDENCE, results_of
from everyframe.io.sources import PictureSource, Source, expand_sources, open_source


@dataclass(frozen=True)
class JobSources:
    """What the sources of a job name.

    Attributes:
        sources: the videos, each with a name of its own.
        refused: what names nothing, with the reason.
        repeated: how many of the videos were named again.
        folders: that were named as sources, or whose pictures or videos are.
    """

    sources: list[Source]
    refused: dict[str, InputError]
    repeated: int
    folders: frozenset[Path]

    def check_apart(self, out: Path) -> None:
        """Refuse to write among the frames: results there would replace them, or be taken for frames by the next job.

        Raises:
            InputError: the output folder is one of the sources, or label maps would lie in one.
        """
        written = (out / f"{source.name}{ending}" for source in self.sources for ending in ("", CONFIDENCE))
        if not self.folders.isdisjoint(folder.resolve() for folder in (out, *written)):
            raise InputError(
                f"{out}: expected a folder for results alone, came one whose files are sources; choose another"
            )

    def results(self, out: Path) -> Iterator[Path]:
        """Yield the files in `out` that labelling the videos into it may replace."""
        return (file for source in self.sources for file in results_of(out, source.name))

    def record(self, job: Job) -> None:
        """Write down what is not labelled: what names nothing counts as failed."""
        for what, error in self.refused.items():
            job.refuse(what, error)
        if self.repeated:
            job.summary.notes.append(f"{self.repeated} of the sources name a video again: each is labelled once")


def open_sources(sources: Any) -> JobSources:
    """Open the sources of a job: one of what `everyframe.io.sources.open_source` takes, or a list of them.

    Raises:
        InputError: none of them can be gone through, or one is a single frame.
    """
    whats = sources if isinstance(sources, list | tuple) else [sources]
    if not whats:
        raise InputError("predict: expected at least one video, came an empty list")
    named: list[str] = []
    opened: list[Source] = []
    refused: dict[str, InputError] = {}
    count = 0
    for what in whats:
        if not isinstance(what, str | Path | int):
            _check_video(what)
            opened.append(open_source(what))
            continue
        try:
            count += len(expand_sources([what]))
            named.append(str(what))
        except InputError as error:
            refused[str(what)] = error
    if refused and not named and not opened:
        others = f"; and {len(refused) - 1} more that cannot be opened" if len(refused) > 1 else ""
        raise InputError(f"{next(iter(refused.values()))}{others}")
    files = expand_sources(named) if named else []
    found = [*files, *opened]
    folders = {Path(name).expanduser() for name in named}
    folders |= {file.parent for source in found if isinstance(source, PictureSource) for file in source.files}
    folders |= {match.parent for name in named if glob.has_magic(name) for match in map(Path, glob.glob(name))}
    apart = frozenset(folder.resolve() for folder in folders if folder.is_dir())
    return JobSources(found, refused, count - len(files), apart)


def _check_video(what: Any) -> None:
    """Refuse a single frame where a video is expected: a list stands for several videos."""
    if isinstance(what, Frame) or getattr(what, "ndim", None) == 3:
        raise InputError(
            f"predict: expected videos, came a single frame ({type(what).__name__}); nest the list of frames, "
            f"[[frame, frame, ...]], or stack the frames into one array [N, H, W, 3]"
        )
