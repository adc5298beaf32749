"""Clips say which classes the label maps of their data set can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_sets import write_coco, write_vspw

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.dataset import ClipDataset
from everyframe.frames import Clip
from everyframe.labels import LabelSpace


def test_joined_data_sets_support_the_classes_that_they_are_mapped_onto(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COCO-Stuff's mapping reaches 89 of VSPW's 124 classes; a ladder is none of COCO's, a person is."""
    monkeypatch.setenv("EVERYFRAME_CACHE", str(tmp_path / "cache"))
    home, coco = write_vspw(tmp_path / "vspw"), write_coco(tmp_path / "coco")
    data = ClipDataModule(f"vspw:{home}", also=[f"coco_stuff:{coco}@train"])
    space = data.label_space
    clips = ClipDataset(data.labelled_videos, space)
    of = {clip.videos[0].startswith("also"): clip for clip in (clips[n] for n in range(len(clips)))}
    assert of[False].supported.all()
    assert of[True].supported.shape == (124,)
    assert of[True].supported.sum() == 89
    assert of[True].supported[space.names.index("person")]
    assert not of[True].supported[space.names.index("ladder")]


def test_batches_carry_it_where_all_clips_do() -> None:
    def clip(supported: torch.Tensor | None) -> Clip:
        frame = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
        known = torch.tensor([True])
        return Clip(frame, frame[:, 0], known, ("query",), torch.tensor([0]), ("v",), supported=supported)

    a, b = torch.tensor([True, False]), torch.tensor([True, True])
    batch = Clip.stack([clip(a), clip(b)])
    assert torch.equal(batch.supported, torch.stack([a, b]))
    assert torch.equal(batch.to("cpu").supported, batch.supported)
    assert Clip.stack([clip(a), clip(None)]).supported is None


def test_ids_that_are_ignored_are_not_supported(tmp_path: Path) -> None:
    home = write_vspw(tmp_path / "vspw", videos=1)
    data = ClipDataModule(f"vspw:{home}")
    space = LabelSpace(data.label_space.names, raw_to_train={0: 255, 49: 255, 61: 60, 67: 66, 255: 255})
    from dataclasses import replace

    videos = [replace(video, space=space) for video in data.labelled_videos]
    supported = ClipDataset(videos, data.label_space)[0].supported
    assert supported.nonzero().squeeze(1).tolist() == [60, 66]
