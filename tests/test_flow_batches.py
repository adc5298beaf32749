"""Flow of batches: which estimator, on which device, in which direction."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from everyframe import flow
from everyframe.errors import InputError
from everyframe.flow import DISFlow, FlowPair, RAFTFlow, batch_flow, named_flow
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model
from everyframe.training.objectives_temporal import video_objective


class Difference:
    """A "flow" that tells which frames came in which order: the first one's level minus the second one's."""

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        level = float(first.float().mean() - second.float().mean()) if first.device.type == "cpu" else 0.0
        return FlowPair(np.full((2, *first.shape[-2:]), level, np.float32))


def test_each_pair_of_a_batch_from_the_first_frame_to_the_second() -> None:
    first = torch.tensor([10, 40], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 5, 7)
    second = torch.tensor([4.4, 50.6])[:, None, None, None].expand(2, 3, 5, 7)  # rounded to bytes
    fields = batch_flow(Difference(), first, second)
    assert fields.shape == (2, 2, 5, 7)
    assert fields[:, 0, 0, 0].tolist() == [10 - 4, 40 - 51]


def test_a_named_flow_runs_where_the_frames_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(flow, "named_flow", lambda name, device: asked.append((name, device)) or Difference())
    frames = torch.zeros(1, 3, 5, 7, dtype=torch.uint8, device="meta")
    assert batch_flow("raft", frames, frames).device.type == "meta"
    assert asked == [("raft", "meta")]


def test_one_estimator_per_name_and_device() -> None:
    raft = named_flow("raft", "cuda:1")  # nothing is built before the first pair
    assert isinstance(raft, RAFTFlow)
    assert (raft.device, raft.backward) == (torch.device("cuda:1"), False)
    assert named_flow("raft", "cuda:1") is raft is not named_flow("raft")
    assert isinstance(named_flow("dis"), DISFlow)
    with pytest.raises(InputError, match=r"expected dis, raft or raft:WEIGHTS\.pth, .*, came 'farneback'"):
        named_flow("farneback")


def test_weights_of_a_file_serve_training_and_models(tmp_path: Path) -> None:
    named = named_flow(f"raft:{tmp_path / 'raft.pth'}")
    assert isinstance(named, RAFTFlow)
    assert (Path(named.weights), named.backward) == (tmp_path / "raft.pth", False)
    frames = torch.zeros(1, 3, 5, 7, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"found no file .*raft\.pth"):
        batch_flow(f"raft:{tmp_path / 'raft.pth'}", frames, frames)


def test_an_unknown_name_is_refused_before_anything_is_trained() -> None:
    space = LabelSpace(("a", "b"))
    with pytest.raises(InputError, match="expected dis, raft or"):
        video_objective(create_model("etc-ocr-tiny", space), motion=0.1, flow="farneback")
    with pytest.raises(InputError, match="expected dis, raft or"):
        create_model("netwarp-ocr-tiny", space, temporal={"flow": "farneback"})


def test_raft_stays_in_float32_under_autocast(tmp_path: Path) -> None:
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
    first, second = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    raft = RAFTFlow(tmp_path / "raft.pth", "small", updates=2, backward=False)
    alone = raft.between(first, second).forward
    with torch.autocast("cpu", torch.bfloat16):
        within = raft.between(first, second).forward
    assert within.dtype == np.float32
    assert np.array_equal(alone, within)


def test_dis_finds_the_same_flow_whatever_sizes_came_before() -> None:
    """OpenCV's engine lowers its scales on a small picture, and keeps them."""
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 256, (40, 64, 3), dtype=np.uint8), (0, 0), 2)
    first, second = (torch.from_numpy(np.roll(wide, x, 1)).permute(2, 0, 1) for x in (0, 3))
    small = torch.randint(0, 256, (2, 3, 11, 15), dtype=torch.uint8)
    used = DISFlow()
    used.between(*small)
    alone = DISFlow().between(first, second).forward
    assert np.array_equal(used.between(first, second).forward, alone)
