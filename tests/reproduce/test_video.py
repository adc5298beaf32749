"""`reproduce stt`: the video that shows the two rows side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_player import Player

from everyframe.data.layout import VideoRef
from everyframe.data.layouts import load_split
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.io.label_png import write_label
from everyframe.io.video import VideoReader
from everyframe.labels import LabelSpace
from everyframe.reproduce import reproduce as module
from everyframe.reproduce.video import write_side_by_side

SIZE = (32, 48)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("data") / "videos"
    for split in ("train", "val"):
        write(SyntheticVideos(2, frames=3, size=SIZE), root, "vspw", split)
    return f"vspw:{root}"


def test_it_is_written_once_both_rows_of_the_first_seed_are_there(
    data: str, player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def note(
        videos: Sequence[VideoRef], space: LabelSpace, predictions: Sequence[tuple[str, Path]], path: Path
    ) -> None:
        given.append(([v.name for v in videos], predictions))
        path.touch()

    monkeypatch.setattr(module, "write_side_by_side", note)
    out = tmp_path / "out"

    def run(**more: Any) -> None:
        module.reproduce("stt", data, out=out, program=player.program, say=lambda _: None, **more)

    run(seeds=1, rows=["without STT"])
    assert given == []
    run(seeds=1)
    names = [v.name for v in load_split(data, "val")[0]]
    folders = [(label, out / "cells" / folder / "seed0" / "labels") for label, folder in ROWS.items()]
    assert given == [(names, folders)]
    assert all((folder / "labels.json").is_file() for _, folder in folders)
    run(seeds=1)
    assert len(given) == 1  # it is there


ROWS = {"without STT": "without-stt", "with STT": "with-stt"}


def test_frames_stand_beside_themselves_under_each_set_of_labels(data: str, tmp_path: Path) -> None:
    videos, space = load_split(data, "val")
    for number, name in enumerate(("a", "b")):
        for video in videos:
            for frame in video.frames:
                path = tmp_path / name / video.name / f"{frame.name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_label(path, np.full(SIZE, number, np.uint8), space)
        space.save(tmp_path / name / "labels.json")
    file = tmp_path / "both.mp4"
    write_side_by_side(videos, space, [("first", tmp_path / "a"), ("second", tmp_path / "b")], file)
    with VideoReader(file) as reader:
        assert len(reader) == 6
        picture = reader.read([5])[0].image.float()
    third = picture.shape[2] // 3
    panels = picture[:, -SIZE[0] :].split(third, 2)[:3]
    tints = [panel[:, 8:-8, 8:-8].mean((1, 2)) - panels[0][:, 8:-8, 8:-8].mean((1, 2)) for panel in panels[1:]]
    for tint, colour in zip(tints, space.palette[:2], strict=True):
        own = panels[0][:, 8:-8, 8:-8].mean((1, 2)).numpy()
        assert np.corrcoef(tint.numpy(), np.array(colour) - own)[0, 1] > 0.9  # towards the colour of its class
