"""The temporal contract, held for every entry of the zoo. A new module needs no new test here."""

from __future__ import annotations

import pytest
import torch
from moving_scenes import build, changes, close

from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import SEVERAL_SCALES, SYSTEMS
from everyframe.testing import check_model, moving_scene
from everyframe.testing.scenes import run_stream, run_training_clip

# Heads differ little under one temporal module: all of them alone, two with the rest, Mask2Former with SSLTM.
TRIED = [
    name
    for name, (head, time) in SYSTEMS.items()
    if (not time and head not in SEVERAL_SCALES)
    or name == "mask2former-ssltm"
    or (head in ("ocr", "psp") and time not in ("", "etc") and name != "psp-ssltm")
]


WITH_MEMORY = [name for name in TRIED if SYSTEMS[name][1]]


@pytest.mark.parametrize("name", TRIED)
def test_every_promise_of_a_model(name: str) -> None:
    """To 1e-5 of the largest logit: so much do sums in another order differ in float32."""
    found = check_model(build(name), tolerance=1e-5)
    assert [str(one) for one in found if not one.holds] == []
    not_asked = {one.promise for one in found if one.message}
    assert ("the memory has a say" in not_asked) == (SYSTEMS[name][1] in ("", "etc"))


@pytest.fixture(params=WITH_MEMORY)
def remembering(request: pytest.FixtureRequest) -> Segmenter:
    return build(request.param)


def test_the_videos_of_these_tests_are_single_scenes(remembering: Segmenter) -> None:
    """Memories end at scene cuts: in noise nothing of them would be tested."""
    one, other = moving_scene(6), moving_scene(6)
    assert changes(remembering, one).max() < 0.2
    assert changes(remembering, torch.cat([one[:, -1:], other[:, :1]], 1)).min() > 0.4


def test_after_a_scene_cut_a_stream_is_a_fresh_one(remembering: Segmenter) -> None:
    """Frame by frame, until every memory is full again; and it is the cut that does it."""
    scene = moving_scene(13)
    want = run_stream(remembering, scene)[0]
    state = run_stream(remembering, moving_scene(4))[1]
    close(run_stream(remembering, scene, state)[0], want)
    remembering.temporal.cut_threshold = 2.0
    assert (run_stream(remembering, scene, state)[0][:, 0] - want[:, 0]).abs().max() > 1e-3


def test_a_scene_cut_in_one_stream_leaves_the_other_alone(remembering: Segmenter) -> None:
    steady, scene = moving_scene(8), moving_scene(4)
    cut = torch.cat([moving_scene(4), scene], 1)
    got = run_stream(remembering, torch.cat([cut, steady]))[0][:, 4:]
    close(got, torch.cat([run_stream(remembering, scene)[0], run_stream(remembering, steady)[0][:, 4:]]))


def test_a_training_clip_equals_the_stream_after_a_cut(remembering: Segmenter) -> None:
    """The reference is the new scene's first frame, and the nearest frame of the scene stands in for missing ones."""
    if getattr(remembering.temporal, "memory", "none") != "none":
        pytest.skip("remembers more than a training clip holds")
    reach = max(-offset for offset in remembering.temporal.adjacent)
    scene = moving_scene(reach + 1)
    stream = run_stream(remembering, torch.cat([moving_scene(3), scene], 1))[0][:, 3:]
    # A recurrent module sees a frame once that a clip at the start of a scene holds twice.
    for now in (0, 2, reach) if remembering.temporal.windowed else (reach,):
        close(run_training_clip(remembering, scene, now), stream[:, now])
