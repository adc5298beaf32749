"""Labels moved along flow: against exact motion, by hand, and which frames get them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everyframe.data.layouts import load_split
from everyframe.data.pseudo_labels import with_pseudo_labels
from everyframe.data.reading import read_frames, read_labels
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.flow import FlowPair
from everyframe.frames import Frame
from everyframe.inference.stream import Stream
from everyframe.models.zoo import create_model
from everyframe.training.propagation import Neighbour, Way, filled, goals_of, look_with, moved, propagate_labels


class ExactMotion:
    """The motion of a synthetic video, whose frames it knows by their pixels."""

    def far(self, index: int, image: Tensor) -> float:
        return float((self.frames[index].float() - image.float()).abs().mean())

    def __init__(self, video: Any) -> None:
        self.video = video
        self.frames = [frame.image for frame in video]

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        # (files hold JPEG pictures)
        i, j = (min(range(len(self.frames)), key=lambda n: self.far(n, x)) for x in (first, second))
        return FlowPair(self.video.flow(i, j).flow, self.video.flow(j, i).flow)


def test_moved_labels_are_right_along_exact_motion(tmp_path: Path) -> None:
    data = SyntheticVideos(1, frames=7, size=(60, 80))
    root = write(data, tmp_path / "data", "frames", "train")
    (video,), space = load_split(f"folder:{root}", "all")
    given = video.keep_labels({3})
    truth = {video.name: video}
    results = propagate_labels([given], space, tmp_path / "out", reach=2, flow=ExactMotion(data[0]), truth=truth)
    assert results["frames"] == 4
    assert results["coverage"] > 0.7
    assert results["precision"] > 0.97
    (back,) = with_pseudo_labels([given], tmp_path / "out", space)
    assert back.labelled == (1, 2, 3, 4, 5)
    right = known = 0
    for index in (1, 2, 4, 5):
        moved, true = read_labels(back, index, space), read_labels(video, index, space)
        assert moved is not None
        right, known = right + int(((moved == true) & (moved != 255)).sum()), known + int((moved != 255).sum())
    assert results["precision"] == pytest.approx(right / known)
    assert results["coverage"] == pytest.approx(known / (4 * 60 * 80))


def test_small_steps_add_up() -> None:
    """Five steps of 0.4 pixels are two pixels; read at the nearest pixel frame by frame they would be none."""
    labels = np.arange(24, dtype=np.uint8).reshape(2, 12)
    way = Way(np.zeros((2, 2, 12), np.float32), np.ones((2, 12), np.bool_))
    step = np.zeros((2, 2, 12), np.float32)
    step[0] = 0.4
    for _ in range(5):
        way = way.further(FlowPair(step, -step))
    moved = way.carry(labels)
    assert moved[:, :10].tolist() == labels[:, 2:].tolist()
    assert (moved[:, 10:] == 255).all()


def test_what_was_hidden_on_the_way_stays_unknown() -> None:
    still = np.zeros((2, 1, 4), np.float32)
    back = still.copy()
    back[0, 0, 2] = 3.0  # forward and back do not meet: hidden
    way = Way(still, np.ones((1, 4), np.bool_)).further(FlowPair(still, back)).further(FlowPair(still, still))
    assert way.carry(np.array([[5, 6, 7, 8]], np.uint8)).tolist() == [[5, 6, 255, 8]]


def test_a_model_fills_in_what_was_hidden() -> None:
    """Known labels stay, void too; a hidden pixel is the model's class where it is sure."""
    still = np.zeros((2, 1, 4), np.float32)
    back = still.copy()
    back[0, 0, 2:] = 3.0  # forward and back do not meet: hidden
    logits = torch.zeros(1, 3, 1, 4)
    logits[0, 1, 0, :] = torch.tensor([9.0, 9.0, 9.0, 0.5])  # of class 1; hardly sure of the last pixel
    frame = Frame(torch.zeros(3, 1, 4, dtype=torch.uint8), 1, 0.0, "1")
    neighbours = [Neighbour(frame, FlowPair(still, back), logits)]
    labels = np.array([[2, 255, 0, 0]], np.uint8)
    assert [x.tolist() for x in filled(0.9)(labels, neighbours)] == [[[2, 255, 1, 255]]]
    assert [x.tolist() for x in filled(0.0)(labels, neighbours)] == [[[2, 255, 1, 1]]]
    assert [x.tolist() for x in moved(labels, neighbours)] == [[[2, 255, 255, 255]]]


def test_a_model_sees_the_frames_around_each_label_as_a_video_of_their_own(tmp_path: Path) -> None:
    root = write(SyntheticVideos(1, frames=7, size=(32, 48)), tmp_path / "data", "frames", "train")
    (video,), space = load_split(f"folder:{root}", "all")
    model = create_model("fcn-gru-tiny", space).eval()
    stream = Stream(model, "cpu")
    look = look_with(stream)
    asked: list[list[int]] = []

    def looked(frames: Sequence[Frame]) -> Sequence[Tensor]:
        asked.append([frame.index for frame in frames])
        return look(frames)

    carrier = filled(0.0)
    propagate_labels([video.keep_labels({1, 5})], space, tmp_path / "out", reach=2, carrier=carrier, look=looked)
    assert asked == [[0, 1, 2, 3], [4, 5, 6]]
    frames = read_frames(video, [4, 5])
    state = None
    with torch.no_grad():
        for frame, logits in zip(frames, look(frames), strict=True):
            want, state = model.step(frame.image[None], state)
            torch.testing.assert_close(logits, want)


def test_each_frame_takes_the_nearest_labels() -> None:
    assert goals_of((2, 6), 12, 3) == {2: [0, 1, 3, 4], 6: [5, 7, 8, 9]}
    assert goals_of((0,), 3, 5) == {0: [1, 2]}
    assert goals_of((), 3, 5) == {}
    # By definition, frame by frame: the nearest labelled frame, the earlier one of two as near.
    for labelled, length, reach in (((0, 1, 4, 9, 10, 15), 18, 3), ((3, 8), 9, 1), ((5,), 11, 20), ((0, 1, 2), 3, 2)):
        want: dict[int, list[int]] = {source: [] for source in labelled}
        for index in range(length):
            nearest = min(labelled, key=lambda source, at=index: (abs(source - at), source))
            if 0 < abs(nearest - index) <= reach:
                want[nearest].append(index)
        assert goals_of(labelled, length, reach) == want


def test_estimated_motion_serves_too(tmp_path: Path) -> None:
    root = write(SyntheticVideos(1, frames=5, size=(60, 80)), tmp_path / "data", "frames", "train")
    (video,), space = load_split(f"folder:{root}", "all")
    truth = {video.name: video}
    results = propagate_labels([video.keep_labels({0})], space, tmp_path / "out", reach=3, truth=truth)
    assert results["frames"] == 3
    assert results["precision"] > 0.9
    unlabelled = replace(video, frames=tuple(replace(frame, label=None) for frame in video.frames))
    assert propagate_labels([unlabelled], space, tmp_path / "none")["frames"] == 0
    with pytest.raises(InputError, match="reach of at least 1 frame, came 0"):
        propagate_labels([video], space, tmp_path / "out", reach=0)


def test_frames_that_nothing_can_be_followed_to_stay_unlabelled(tmp_path: Path) -> None:
    """A map of nothing would be trained on as a labelled frame."""

    class Away:
        def between(self, first: Tensor, second: Tensor) -> FlowPair:
            return FlowPair(*np.full((2, 2, *first.shape[1:]), 1000, np.float32))

    root = write(SyntheticVideos(1, frames=3, size=(60, 80)), tmp_path / "data", "frames", "train")
    (video,), space = load_split(f"folder:{root}", "all")
    results = propagate_labels([video.keep_labels({1})], space, tmp_path / "out", reach=1, flow=Away())
    assert results["frames"] == 0
    assert not list((tmp_path / "out").rglob("*.png"))
