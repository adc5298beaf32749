"""Clip sampling: cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.sampling import ClipSampling, clip_queries, clip_rng, queries
from everyframe.errors import InputError
from everyframe.frames import Role

Q, A, R = Role.QUERY, Role.ADJACENT, Role.REFERENCE


def rng() -> np.random.Generator:
    return clip_rng(0, 0)


def video(name: str, frames: int, labelled: set[int]) -> VideoRef:
    from pathlib import Path

    refs = (FrameRef(i, f"{i:04d}", label=Path("x.png") if i in labelled else None) for i in range(frames))
    return VideoRef(name, tuple(refs))


@pytest.mark.parametrize(
    ("sampling", "frames", "query", "indices"),
    [
        # reference (far end), q-3, q, q+3
        (ClipSampling(), 71, 10, (70, 7, 10, 13)),
        (ClipSampling(), 71, 60, (0, 57, 60, 63)),
        (ClipSampling(), 71, 35, (70, 32, 35, 38)),  # a tie of both ends goes to the last frame
        (ClipSampling(), 71, 0, (70, 0, 0, 3)),  # clamped at the first frame
        (ClipSampling(), 71, 70, (0, 67, 70, 70)),  # clamped at the last
        (ClipSampling(), 1, 0, (0, 0, 0, 0)),  # a still image
        (ClipSampling(), 2, 1, (0, 0, 1, 1)),
        (ClipSampling(reference="first"), 71, 35, (0, 32, 35, 38)),
        (ClipSampling(reference=None), 71, 35, (32, 35, 38)),
        (ClipSampling(adjacent=(-3, -6), reference=20), 71, 10, (30, 4, 7, 10)),
        (ClipSampling(adjacent=(), reference=20), 71, 60, (40, 60)),
        (ClipSampling(adjacent=(), reference=80), 71, 60, (0, 60)),  # farther than the video reaches
        (ClipSampling(adjacent=(), reference=80), 71, 10, (70, 10)),
        (ClipSampling(adjacent=(), reference=0), 71, 10, (10, 10)),
        (ClipSampling(adjacent=(), reference=5), 1, 0, (0, 0)),
        # all frames are queries
        (ClipSampling((), None, queries=4), 10, 7, (4, 5, 6, 7)),
        (ClipSampling((), None, queries=4, anchor="first"), 10, 2, (2, 3, 4, 5)),
        (ClipSampling((), None, queries=4), 10, 1, (0, 1, 2, 3)),  # moved into the video
        (ClipSampling((), None, queries=4, anchor="first"), 10, 8, (6, 7, 8, 9)),
        (ClipSampling((), None, queries=3, stride=3), 10, 4, (1, 4, 7)),  # moved by whole strides: 4 stays a query
        (ClipSampling((), None, queries=3, stride=3), 7, 4, (1, 4, 6)),
        (ClipSampling((), None, queries=4), 2, 1, (0, 0, 0, 1)),  # longer than the video: repeats its first frame
        (ClipSampling((), None, queries=3), 1, 0, (0, 0, 0)),
        (ClipSampling((-2, 2), "first", queries=2), 20, 9, (0, 6, 8, 9, 11)),  # around the run of queries
        # a stride below 0 turns time around: the last query is the earliest frame
        (ClipSampling((), None, queries=2, stride=-3), 20, 9, (12, 9)),
        (ClipSampling((), None, queries=3, stride=-2, anchor="first"), 20, 9, (9, 7, 5)),
        (ClipSampling((), None, queries=2, stride=-3), 20, 18, (18, 15)),  # moved into the video by whole strides
        (ClipSampling((), None, queries=2, stride=-3), 3, 1, (2, 1)),  # longer than the video: clamped
        (ClipSampling((), None, queries=2, stride=-3), 1, 0, (0, 0)),
        (ClipSampling((-2, 1), None, queries=2, stride=-3), 20, 9, (14, 12, 9, 8)),
    ],
)
def test_train_indices(sampling: ClipSampling, frames: int, query: int, indices: tuple[int, ...]) -> None:
    clip = sampling.train(frames, query, rng())
    assert clip.indices == indices
    assert len(clip.roles) == len(indices)
    assert query in [i for i, role in zip(*clip, strict=True) if role is Q]


def test_roles_are_the_same_for_every_clip_and_in_stream_order() -> None:
    assert ClipSampling().roles == (R, A, Q, A)
    assert ClipSampling((-6, -3), None).roles == (A, A, Q)
    assert ClipSampling((3, 6, 9), None, mirror=True).roles == (Q, A, A, A)
    assert ClipSampling((), "first", queries=3).roles == (R, Q, Q, Q)


@pytest.mark.parametrize(
    ("sampling", "query", "offline", "indices"),
    [
        (ClipSampling(), 40, False, (0, 37, 40, 43)),  # far end in training, first frame at test
        (ClipSampling(), 4, False, (0, 1, 4, 7)),
        (ClipSampling(), 9, True, (70, 6, 9, 12)),  # too near to the first frame
        (ClipSampling(), 10, True, (0, 7, 10, 13)),
        (ClipSampling(reference="random"), 40, False, (0, 37, 40, 43)),
        (ClipSampling(reference=20), 40, False, (20, 37, 40, 43)),
        (ClipSampling((3, 6, 9), None, mirror=True), 40, False, (40, 43, 46, 49)),
        (ClipSampling((3, 6, 9), None, mirror=True), 65, False, (65, 62, 59, 56)),  # turned around near the end
        (ClipSampling((3, 6, 9), None), 65, False, (65, 68, 70, 70)),
    ],
)
def test_test_rules(sampling: ClipSampling, query: int, offline: bool, indices: tuple[int, ...]) -> None:
    assert sampling.test(71, query, offline).indices == indices


def test_turned_time_falls_back_to_clamping_in_videos_too_short_for_either_direction() -> None:
    assert ClipSampling((3, 6, 9), None, mirror=True).test(8, 4).indices == (4, 7, 7, 7)


def test_mirror_turns_about_half_of_the_clips_and_keeps_positions() -> None:
    sampling = ClipSampling((3, 6), None, mirror=True)
    drawn = [sampling.train(100, 50, clip_rng(0, i)).indices for i in range(400)]
    assert set(drawn) == {(50, 53, 56), (50, 47, 44)}
    assert 150 < drawn.count((50, 47, 44)) < 250


def test_random_reference_reaches_every_frame_and_random_anchor_every_place() -> None:
    sampling = ClipSampling((), "random", queries=3, anchor="random")
    drawn = [sampling.train(10, 5, clip_rng(0, i)).indices for i in range(300)]
    assert {clip[0] for clip in drawn} == set(range(10))
    assert {clip[1:] for clip in drawn} == {(3, 4, 5), (4, 5, 6), (5, 6, 7)}


def test_every_query_of_every_length_stays_inside() -> None:
    sampling = ClipSampling((-7, -2, 4), "random", queries=3, stride=2, anchor="random", mirror=True)
    for frames in range(1, 14):
        for query in range(frames):
            clip = sampling.train(frames, query, clip_rng(frames, query))
            assert all(0 <= i < frames for i in clip.indices)
            assert query in [i for i, role in zip(*clip, strict=True) if role is Q]


def test_queries_of_a_video() -> None:
    v = video("v", 5, {1, 3})
    assert queries(v) == (1, 3)
    assert queries(v, "unlabelled") == (0, 2, 4)
    assert queries(v, "all") == (0, 1, 2, 3, 4)


def test_clips_of_an_epoch() -> None:
    videos = [video("a", 3, {0, 2}), video("b", 2, set()), video("c", 1, {0})]
    assert clip_queries(videos) == [(0, (0, 2)), (2, (0,))]
    assert clip_queries(videos, per="frame") == [(0, (0,)), (0, (2,)), (2, (0,))]
    assert clip_queries(videos, "unlabelled") == [(0, (1,)), (1, (0, 1))]


ETC = ClipSampling((), None, queries=2, stride=(1, 2, -1, -2, -3))
"""Companion frame, then labelled frame: companion = labelled - stride."""


@pytest.mark.parametrize(
    ("frames", "query", "pairs"),
    [
        (30, 19, {(18, 19), (17, 19), (20, 19), (21, 19), (22, 19)}),
        # At the ends the pair is moved inside by one stride: the companion lies on the other side, never outside.
        (30, 0, {(0, 1), (0, 2), (1, 0), (2, 0), (3, 0)}),
        (30, 29, {(28, 29), (27, 29), (29, 28), (29, 27), (29, 26)}),
        (2, 0, {(0, 1), (0, 0), (1, 0)}),  # a stride that the video does not have: its end comes instead
        (1, 0, {(0, 0)}),
    ],
)
def test_companion_at_a_random_offset(frames: int, query: int, pairs: set[tuple[int, int]]) -> None:
    drawn = [ETC.train(frames, query, clip_rng(0, i)).indices for i in range(200)]
    assert set(drawn) == pairs
    assert drawn == [ETC.train(frames, query, clip_rng(0, i)).indices for i in range(200)]
    assert all(query in pair for pair in drawn)


def test_offsets_are_drawn_evenly_and_a_single_one_draws_nothing() -> None:
    drawn = [ETC.train(30, 19, clip_rng(0, i)).indices[0] for i in range(1000)]
    assert all(160 < drawn.count(companion) < 240 for companion in (17, 18, 20, 21, 22))
    assert ETC.test(30, 19).indices == (18, 19)  # the first of the list
    untouched, used = rng(), rng()
    ClipSampling((), None, queries=2, stride=3).train(30, 19, used)
    assert used.bit_generator.state == untouched.bit_generator.state


@pytest.mark.parametrize(
    "wrong",
    [
        {"adjacent": (-3, 0)},
        {"queries": 0},
        {"stride": 0},
        {"stride": (1, 0)},
        {"stride": ()},
        {"reference": -1},
        {"reference": "last"},
        {"anchor": "mid"},
    ],
)
def test_wrong_arguments_are_named(wrong: dict) -> None:
    with pytest.raises(InputError, match="ClipSampling"):
        ClipSampling(**wrong)


def test_a_query_outside_the_video_is_a_defect() -> None:
    with pytest.raises(ValueError, match=r"0\.\.4, came 5"):
        ClipSampling().train(5, 5, rng())
