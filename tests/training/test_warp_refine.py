"""Warp-Refine: what an untrained refiner does, cycles by hand, and a model's mistakes that cycles teach to undo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from everyframe.data.layout import VideoRef
from everyframe.data.layouts import load_split
from everyframe.data.reading import read_labels
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.flow import FlowPair
from everyframe.frames import Frame
from everyframe.labels import LabelSpace
from everyframe.models.label_refiner import LabelRefiner, load_refiner, save_refiner
from everyframe.training.propagation import Neighbour, filled, propagate_labels
from everyframe.training.warp_refine import Move, Refined, Trip, one_hot, read_trip, train_refiner

STILL = np.zeros((2, 4, 6), np.float32)
FRAME = Frame(torch.zeros(3, 4, 6, dtype=torch.uint8), 1, 0.0, "1")


def still_move(prior: Tensor) -> Move:
    frame = torch.randint(0, 256, (1, 3, 4, 6), dtype=torch.uint8)
    return Move(torch.zeros(1, 2, 4, 6), torch.ones(1, 1, 4, 6, dtype=torch.bool), prior, frame)


# -- the network ------------------------------------------------------------------------------------------------------


def test_an_untrained_refiner_keeps_labels_and_fills_in_the_prediction() -> None:
    refiner = LabelRefiner(3, width=4)
    labels = torch.tensor([[0, 1, 2, 255], [2, 255, 0, 1]], dtype=torch.uint8)
    prior = torch.randn(1, 3, 2, 4).softmax(1)
    with torch.no_grad():
        refined = refiner(one_hot(labels, 3), prior, torch.randint(0, 256, (1, 3, 2, 4))).exp()
    torch.testing.assert_close(refined.sum(1), torch.ones(1, 2, 4))
    known = labels != 255
    want = torch.where(known, one_hot(labels, 3), prior)
    torch.testing.assert_close(refined, want, atol=2e-3, rtol=0)


def test_a_refiner_comes_back_from_its_file(tmp_path: Path) -> None:
    refiner = LabelRefiner(5, width=6)
    for parameter in refiner.parameters():
        torch.nn.init.normal_(parameter)
    save_refiner(refiner, tmp_path / "folder" / "refiner.safetensors")
    back = load_refiner(tmp_path / "folder" / "refiner.safetensors")
    given = torch.rand(1, 5, 4, 6), torch.rand(1, 5, 4, 6).softmax(1), 255 * torch.rand(1, 3, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(back(*given), refiner(*given))
    save_refiner(torch.nn.Conv2d(1, 1, 1), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors: the weights do not fit"):
        load_refiner(tmp_path / "other.safetensors")


# -- one step, and a cycle --------------------------------------------------------------------------------------------


def test_a_step_moves_by_flow_and_knows_nothing_of_the_hidden() -> None:
    forward, backward = STILL.copy(), STILL.copy()
    forward[0], backward[0] = 1.0, -1.0  # one pixel to the right, and back
    backward[0, 1, 3] = 3.0  # this one does not meet: hidden from (1, 2)
    move = Move.onto(FRAME, FlowPair(forward, backward), torch.zeros(1, 2, 2, 3))
    labels = torch.zeros(4, 6, dtype=torch.uint8)
    labels[:, 3:] = 1
    carried = move.carry(one_hot(labels, 2))[0]
    want = torch.full((4, 6), 1.0)
    want[:, :2] = 0  # reads columns 1 and 2
    want[:, 5] = 0  # reads beside the picture
    want[1, 2] = 0
    assert carried[1].tolist() == want.tolist()
    assert carried.sum(0)[:, 5].tolist() == [0] * 4
    assert carried.sum(0)[1, 2] == 0
    inner = move.crop(1, 1, 2)  # rows and columns 1 and 2: column 2 reads column 3, outside the window
    assert inner.seen[0, 0].tolist() == [[True, False], [True, False]]


def test_labels_come_back_from_a_cycle_where_nothing_moves() -> None:
    labels = torch.randint(0, 3, (1, 4, 6))
    labels[0, 0, 0] = 255
    wrong = one_hot(((labels[0] + 1) % 3).to(torch.uint8), 3)
    nothing = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    trip = Trip(labels, [still_move(wrong)] * 4, [nothing] * 2)
    refiner = LabelRefiner(3, width=4)
    with torch.no_grad():
        assert trip.right(trip.cycle(refiner)) == int(trip.returning.sum()) == 23
        box = nothing.clone()
        box[..., 2:4, 1:5] = True  # hidden on the way out: what comes back there is the model's view
        hidden = Trip(labels, trip.moves, [box, nothing])
        assert hidden.right(hidden.cycle(refiner)) == 23 - 8


def test_gradient_of_a_cycle_reaches_the_whole_refiner() -> None:
    refiner = LabelRefiner(3, width=4)
    torch.nn.init.normal_(refiner.trust.weight)
    torch.nn.init.normal_(refiner.change.weight)
    labels = torch.randint(0, 3, (1, 4, 6))
    moves = [still_move(torch.randn(1, 3, 4, 6).softmax(1)) for _ in range(4)]
    box = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    box[..., :2, :] = True
    trip = Trip(labels, moves, [box, box])
    trip.loss(trip.cycle(refiner)).backward()
    assert [name for name, p in refiner.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


# -- on videos --------------------------------------------------------------------------------------------------------


class ExactMotion:
    """The motion of one synthetic video, whose frames it knows by their pixels (files hold JPEG pictures)."""

    def __init__(self, video: SyntheticVideos) -> None:
        self.video, self.frames = video[0], [frame.image.float() for frame in video[0]]

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        i, j = (
            min(range(len(self.frames)), key=lambda n, x=x: float((self.frames[n] - x).abs().mean()))
            for x in (first, second)
        )
        return FlowPair(self.video.flow(i, j).flow, self.video.flow(j, i).flow)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> tuple[VideoRef, LabelSpace, ExactMotion]:
    data = SyntheticVideos(1, frames=7, size=(60, 80))
    root = write(data, tmp_path_factory.mktemp("data"), "frames", "train")
    (video,), space = load_split(f"folder:{root}", "all")
    return video, space, ExactMotion(data)


def mistaken(video: VideoRef, space: LabelSpace, shift: int) -> object:
    """What a model sees that takes every class for another one, the same each time."""

    def look(frames: Sequence[Frame]) -> list[Tensor]:
        truths = [read_labels(video, frame.index, space) for frame in frames]
        classes = len(space)
        return [8 * one_hot(torch.from_numpy((truth.astype(np.int64) + shift) % classes), classes) for truth in truths]

    return look


def test_cycles_teach_the_refiner_the_models_mistakes(
    street: tuple[VideoRef, LabelSpace, ExactMotion], tmp_path: Path
) -> None:
    video, space, motion = street
    given, truth = video.keep_labels({3}), {video.name: video}
    look = mistaken(video, space, shift=1)
    refiner, score = train_refiner(
        look, [given], space, reach=2, steps=150, batch_size=2, lr=0.01, crop=48, width=16, flow=motion
    )
    assert score.refined > score.filled + 0.03
    options = {"reach": 3, "flow": motion, "look": look, "truth": truth}
    plain = propagate_labels([given], space, tmp_path / "filled", carrier=filled(0.0), **options)
    refined = propagate_labels([given], space, tmp_path / "refined", carrier=Refined(refiner), **options)
    assert plain["coverage"] == refined["coverage"] == 1
    assert refined["precision"] > plain["precision"] + 0.01
    perfect = mistaken(video, space, shift=0)
    whole = propagate_labels([given], space, tmp_path / "whole", carrier=filled(0.0), **{**options, "look": perfect})
    assert whole["precision"] > plain["precision"]


def test_training_is_the_same_with_the_same_seed(street: tuple[VideoRef, LabelSpace, ExactMotion]) -> None:
    video, space, motion = street
    look = mistaken(video, space, shift=1)
    options = {"reach": 1, "steps": 3, "crop": 24, "width": 4, "flow": motion}
    states = [
        train_refiner(look, [video.keep_labels({3})], space, seed=s, **options)[0].state_dict() for s in (1, 1, 2)
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_trips_stay_inside_the_video(street: tuple[VideoRef, LabelSpace, ExactMotion]) -> None:
    video, space, motion = street
    asked: list[list[int]] = []
    look = mistaken(video, space, shift=0)

    def looked(frames: Sequence[Frame]) -> list[Tensor]:
        asked.append([frame.index for frame in frames])
        return look(frames)

    generator = torch.Generator().manual_seed(0)
    for source in (0, 6, 3):
        for _ in range(6):
            trip = read_trip(looked, video, source, space, 2, motion, 200, generator)
            assert len(trip.moves) == 2 * len(trip.boxes) == 4
            assert trip.labels.shape == (1, 60, 80)
    assert asked[:6] == [[0, 1, 2]] * 6
    assert asked[6:12] == [[4, 5, 6]] * 6
    assert {tuple(indices) for indices in asked[12:]} == {(1, 2, 3), (3, 4, 5)}


def test_a_trip_keeps_the_numbers_of_its_window_alone(street: tuple[VideoRef, LabelSpace, ExactMotion]) -> None:
    """The probabilities of all classes at every pixel of every frame would be gigabytes."""
    video, space, motion = street
    trip = read_trip(mistaken(video, space, 0), video, 0, space, 3, motion, 16, torch.Generator().manual_seed(0))
    assert len(trip.moves) == 6
    for tensor in (x for move in trip.moves for x in move):
        assert tensor.untyped_storage().nbytes() == tensor.shape[1] * 16 * 16 * tensor.element_size()


def test_void_of_the_labelled_frame_stays_void() -> None:
    labels = np.full((4, 6), 1, np.uint8)
    labels[0] = 255
    neighbour = Neighbour(FRAME, FlowPair(STILL, STILL), torch.randn(1, 3, 4, 6))
    (found,) = Refined(LabelRefiner(3, width=4))(labels, [neighbour])
    assert found.tolist() == labels.tolist()
    unsure = Refined(LabelRefiner(3, width=4), threshold=1.0)
    assert (next(unsure(labels, [neighbour])) == 255).all()


def test_what_cannot_be_trained_on_is_refused(street: tuple[VideoRef, LabelSpace, ExactMotion]) -> None:
    video, space, _ = street
    look = mistaken(video, space, shift=0)
    with pytest.raises(InputError, match="labelled frames in videos of two frames or more, came none"):
        train_refiner(look, [video.keep_labels(set())], space)
    with pytest.raises(InputError, match="of at least 1"):
        train_refiner(look, [video], space, reach=0)
