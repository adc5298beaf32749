"""What prediction costs: time is accounted for, memory does not grow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from inference.predictors import Remember, video
from test_predict import FRAMES, pictures

from everyframe.frames import Frame
from everyframe.io.sources import ArraySource
from everyframe.predict import predict


def test_summary_accounts_for_the_wall_time(tmp_path: Path) -> None:
    summary = predict(Remember(), pictures(tmp_path / "street"), tmp_path / "out")
    shares = summary.shares()
    in_loop = {"model", "label map", "wait for frames", "wait for writers", "other"}
    assert set(shares) == in_loop | {"decode", "write"}
    assert sum(shares[stage] for stage in in_loop) == pytest.approx(1)
    assert all(share >= 0 for share in shares.values())
    assert summary.frames_per_second == pytest.approx(FRAMES / summary.seconds)
    assert "frames/s end to end" in str(summary)


def test_memory_does_not_grow(tmp_path: Path) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("reads /proc")
    at: dict[int, int] = {}
    clip = video(8, (64, 96))
    endless = (Frame(clip[i % 8].image.clone(), i, i / 25, f"{i:08d}") for i in range(450))
    predict(
        Remember(),
        ArraySource(endless, "clip"),
        tmp_path,
        on_frame=lambda name, frames, length: at.__setitem__(frames, resident()),
    )
    assert at[450] - at[150] < 2**20 * 4  # of 300 frames, the pixels alone are 5.5 MB, the features 50 MB
