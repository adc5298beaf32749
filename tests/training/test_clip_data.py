"""The real data module in distributed validation: every video once, and nobody waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write


@pytest.mark.parametrize(("count", "ranks"), [(1, 2), (3, 2), (4, 2), (2, 5)])
def test_every_rank_validates_equally_often(
    count: int, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, videos in (("train", 1), ("val", count)):
        write(SyntheticVideos(videos, frames=2, size=(32, 32)), tmp_path, "vspw", split)
    shares = []
    for rank in range(ranks):
        data = ClipDataModule(f"vspw:{tmp_path}")
        monkeypatch.setattr(data, "_world", lambda rank=rank: (rank, ranks))
        shares.append(list(data.val_dataloader()))
    assert len({len(share) for share in shares}) == 1
    names = [video.name for share in shares for video in share if video is not None]
    assert sorted(names) == sorted(video.name for video in data.val_videos)
