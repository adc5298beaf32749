"""A model that counts its steps, pictures to label, and jobs that are interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from inference.predictors import Remember, video
from PIL import Image

from everyframe.io.video import VideoReader
from everyframe.labels import LabelSpace

FRAMES = 23


class Counted(Remember):
    """Counts its steps, and holds raw ids that differ from train ids."""

    def __init__(self) -> None:
        super().__init__()
        self.label_space = LabelSpace(("a", "b", "c", "d"), raw_to_train={0: 255, 10: 0, 20: 1, 30: 2, 40: 3})
        self.steps = 0

    def step(self, frame: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        self.steps += 1
        return super().step(frame, state)


def pictures(folder: Path, frames: int = FRAMES, seed: int = 0, size: tuple[int, int] = (32, 48)) -> Path:
    folder.mkdir(parents=True)
    for frame in video(frames, size, seed):
        Image.fromarray(frame.image.permute(1, 2, 0).numpy()).save(folder / f"{frame.name}.png")
    return folder


def files(out: Path) -> dict[str, bytes]:
    """All files but the two that hold times: the summary, and the videos' headers."""
    found = {str(p.relative_to(out)): p for p in sorted(out.rglob("*")) if p.is_file() and p.name != "summary.json"}
    return {
        name: b"".join(frame.image.numpy().tobytes() for frame in VideoReader(path))
        if path.suffix == ".mp4"
        else path.read_bytes()
        for name, path in found.items()
    }


def interrupt_at(frame: int, error: BaseException | None = None) -> Callable[[str, int, int | None], None]:
    def on_frame(name: str, frames: int, length: int | None) -> None:
        if frames == frame:
            raise error or KeyboardInterrupt

    return on_frame
