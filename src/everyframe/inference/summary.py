"""How a prediction job went: what `predict` returns, prints and writes to summary.json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MAIN_STAGES = ("model", "label map", "wait for frames", "wait for writers")
THREAD_STAGES = ("decode", "write")


@dataclass
class VideoResult:
    """How one video went.

    Attributes:
        name: results lie under it.
        source: what was opened.
        status: "running" stands in a summary whose job was killed; "stopped" where it was interrupted by hand.
        frames: labelled frames on disk.
        labelled_now: of them, those labelled by this run and not by the one it resumed.
        seconds: wall time in this run.
        error: one line, when it failed.
        notes: what else is to be known of its labels, in sentences.
    """

    name: str
    source: str
    status: Literal["running", "done", "failed", "stopped"] = "running"
    frames: int = 0
    labelled_now: int = 0
    seconds: float = 0.0
    error: str | None = None
    notes: list[str] = field(default_factory=list)

    def fail(self, error: Exception) -> None:
        """Record why the video could not be labelled to its end."""
        self.status, self.error = "failed", str(error)


class JobStopped(KeyboardInterrupt):
    """A prediction job was stopped by hand or by a signal.

    Attributes:
        summary: of what was done.
        goes_on: whether `resume` can take up the video that was stopped; a camera or a pipe has moved on.
    """

    def __init__(self, summary: Summary, goes_on: bool = True) -> None:
        super().__init__(summary)
        self.summary = summary
        self.goes_on = goes_on

    def __str__(self) -> str:
        videos, waiting = self.summary.videos, self.summary.waiting
        done = [video for video in videos if video.status == "done"]
        parts = [f"{len(done)} of {len(videos) + len(waiting)} videos done"]
        parts += [f"{v.name} stopped after {v.frames} frames" for v in videos if v.status == "stopped"]
        parts += [f"{len(self.summary.failed)} failed"] if self.summary.failed else []
        parts += [f"{len(waiting)} not begun ({waiting[0]}{', ...' * (len(waiting) > 1)})"] if waiting else []
        return ", ".join(parts)


@dataclass
class Summary:
    """How a job went: what `predict` returns and summary.json holds.

    Attributes:
        out: the output folder.
        settings: what the labels depend on; a resumed job must have the same.
        videos: one entry per source, in order.
        stages: seconds by stage. "model", "label map", "wait for frames" and "wait for writers" follow one another in
            the main loop; "decode" and "write" run beside it in their own threads.
        seconds: wall time of this run from the first frame asked for to the last file closed.
        waiting: names of the videos that are not begun.
        notes: what else is to be known of the labels of all videos, in sentences.
    """

    out: str
    settings: dict[str, Any]
    videos: list[VideoResult] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Frames labelled by this run."""
        return sum(video.labelled_now for video in self.videos)

    @property
    def frames_per_second(self) -> float:
        """End to end: decoding, model, files and all waiting included."""
        return self.frames / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> list[VideoResult]:
        """Videos that could not be labelled to their end."""
        return [video for video in self.videos if video.status == "failed"]

    def shares(self) -> dict[str, float]:
        """Return each stage's share of the wall time; "other" is what the main loop spent on none of them."""
        if not self.seconds:
            return {}
        shares = {stage: self.stages.get(stage, 0.0) / self.seconds for stage in (*MAIN_STAGES, *THREAD_STAGES)}
        return {**shares, "other": max(0.0, 1 - sum(shares[stage] for stage in MAIN_STAGES))}

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        rates = {"frames": self.frames, "frames_per_second": self.frames_per_second, "shares": self.shares()}
        return {**asdict(self), **rates}

    def __str__(self) -> str:
        done = [video for video in self.videos if video.status == "done"]
        earlier = len([video for video in done if not video.labelled_now])
        lines = [
            f"{len(done)} of {len(self.videos)} videos done{f', {earlier} of them before' if earlier else ''}; "
            f"{self.frames} frames in {self.seconds:.1f} s: {self.frames_per_second:.2f} frames/s end to end"
        ]
        shares = self.shares()
        if shares and self.frames:
            in_loop = ", ".join(f"{stage} {shares[stage]:.1%}" for stage in (*MAIN_STAGES, "other"))
            beside = ", ".join(f"{stage} {shares[stage]:.1%}" for stage in THREAD_STAGES)
            lines += [f"wall time: {in_loop}", f"beside it, in threads: {beside}"]
        lines += [f"failed after {video.frames} frames: {video.error}" for video in self.failed]
        lines += [*self.notes, *(note for video in self.videos for note in video.notes)]
        return "\n".join([*lines, f"results in {self.out}"])
