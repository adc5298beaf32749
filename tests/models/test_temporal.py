"""The temporal contract, held for every entry of the zoo. A new module needs no new test here."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from moving_scenes import SIZE, build, changes, close, labels, logits_of, of_training, run, video
from torch import Tensor

from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import map_tensors, state_bytes
from everyframe.models.temporal.ssltm import SSLTM
from everyframe.models.zoo import SEVERAL_SCALES, SYSTEMS

# Heads differ little under one temporal module: all of them alone, two with the rest, Mask2Former with SSLTM.
TRIED = [
    name
    for name, (head, time) in SYSTEMS.items()
    if (not time and head not in SEVERAL_SCALES)
    or name == "mask2former-ssltm"
    or (head in ("ocr", "psp") and time not in ("", "etc") and name != "psp-ssltm")
]


WITH_MEMORY = [name for name in TRIED if SYSTEMS[name][1]]


@pytest.fixture(params=TRIED)
def model(request: pytest.FixtureRequest) -> Segmenter:
    return build(request.param)


@pytest.fixture(params=WITH_MEMORY)
def remembering(request: pytest.FixtureRequest) -> Segmenter:
    return build(request.param)


def test_the_videos_of_these_tests_are_single_scenes(remembering: Segmenter) -> None:
    """Memories end at scene cuts: in noise nothing of them would be tested."""
    one, other = video(6), video(6)
    assert changes(remembering, one).max() < 0.2
    assert changes(remembering, torch.cat([one[:, -1:], other[:, :1]], 1)).min() > 0.4


def test_memory_counts(remembering: Segmenter) -> None:
    clip = video(4)
    with torch.no_grad():
        alone = remembering.step(clip[:, 3])[0]
    assert (run(remembering, clip)[0][:, 3] - alone).abs().max() > 1e-3


def test_clip_equals_folded_steps(model: Segmenter) -> None:
    if not model.temporal.causal:
        pytest.skip("looks at later frames")
    clip = video(4)
    with torch.no_grad():
        close(logits_of(model, clip), run(model, clip)[0])


def test_a_training_clip_equals_the_stream_at_its_query(model: Segmenter) -> None:
    """The clip holds the frames that the stream looks back at: the first one and those at the module's offsets."""
    if getattr(model.temporal, "memory", "none") != "none":
        pytest.skip("remembers more than a training clip holds")
    now = max((-offset for offset in model.temporal.adjacent), default=0)
    clip = video(now + 1)
    close(of_training(model, clip, now), run(model, clip)[0][:, now])


def test_after_a_scene_cut_a_stream_is_a_fresh_one(remembering: Segmenter) -> None:
    """Frame by frame, until every memory is full again; and it is the cut that does it."""
    scene = video(13)
    want = run(remembering, scene)[0]
    state = run(remembering, video(4))[1]
    close(run(remembering, scene, state)[0], want)
    remembering.temporal.cut_threshold = 2.0
    assert (run(remembering, scene, state)[0][:, 0] - want[:, 0]).abs().max() > 1e-3


def test_a_scene_cut_in_one_stream_leaves_the_other_alone(remembering: Segmenter) -> None:
    steady, scene = video(8), video(4)
    cut = torch.cat([video(4), scene], 1)
    got = run(remembering, torch.cat([cut, steady]))[0][:, 4:]
    close(got, torch.cat([run(remembering, scene)[0], run(remembering, steady)[0][:, 4:]]))


def test_a_training_clip_equals_the_stream_after_a_cut(remembering: Segmenter) -> None:
    """The reference is the new scene's first frame, and the nearest frame of the scene stands in for missing ones."""
    if getattr(remembering.temporal, "memory", "none") != "none":
        pytest.skip("remembers more than a training clip holds")
    reach = max(-offset for offset in remembering.temporal.adjacent)
    scene = video(reach + 1)
    stream = run(remembering, torch.cat([video(3), scene], 1))[0][:, 3:]
    # A recurrent module sees a frame once that a clip at the start of a scene holds twice.
    for now in (0, 2, reach) if remembering.temporal.windowed else (reach,):
        close(of_training(remembering, scene, now), stream[:, now])


def test_two_interleaved_streams_equal_two_separate_ones(model: Segmenter) -> None:
    first, second = video(3), video(3)
    want = [run(model, clip)[0] for clip in (first, second)]
    states: list[Any] = [None, None]
    got: list[list[Tensor]] = [[], []]
    with torch.no_grad():
        for t in range(3):
            for i, clip in enumerate((first, second)):
                logits, states[i] = model.step(clip[:, t], states[i])
                got[i].append(logits)
    for i in range(2):
        assert torch.equal(torch.stack(got[i], 1), want[i])


def test_a_batch_of_streams_equals_single_streams(model: Segmenter) -> None:
    clips = video(3, batch=2)
    close(run(model, clips)[0], torch.cat([run(model, clip[None])[0] for clip in clips]))


def test_first_frame_needs_no_memory_and_one_pixel_is_a_frame(model: Segmenter) -> None:
    for size in (SIZE, (1, 1)):
        logits, _ = run(model, video(2, size=size))
        assert logits.isfinite().all()


def test_memory_has_a_bounded_size(model: Segmenter) -> None:
    state, sizes = None, []
    with torch.no_grad():
        for frame in video(13, size=(24, 32)).unbind(1):
            state = model.step(frame, state)[1]
            sizes.append(state_bytes(state))
    assert len(set(sizes[9:])) == 1


def test_memory_detaches_moves_and_pickles(model: Segmenter) -> None:
    clip = video(3)
    _, state = model.step(clip[:, 0])
    detached = map_tensors(torch.Tensor.detach, state)
    assert not any(x.requires_grad for x in torch.utils._pytree.tree_leaves(detached) if isinstance(x, Tensor))
    assert state_bytes(map_tensors(lambda x: x.to("meta"), detached)) == state_bytes(detached)
    with torch.no_grad():
        want, _ = model.step(clip[:, 1], detached)
        got, _ = model.step(clip[:, 1], pickle.loads(pickle.dumps(detached)))
    assert torch.equal(got, want)


def test_step_does_not_change_the_model_or_the_state_it_was_given(model: Segmenter) -> None:
    clip = video(3)
    _, state = run(model, clip[:, :2])
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    before = map_tensors(torch.clone, state)
    with torch.no_grad():
        first, _ = model.step(clip[:, 2], state)
        again, _ = model.step(clip[:, 2], state)
    assert torch.equal(first, again)
    leaves = torch.utils._pytree.tree_leaves
    assert all(torch.equal(a, b) for a, b in zip(leaves(before), leaves(state), strict=True) if isinstance(a, Tensor))
    assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())


def test_gradient_reaches_every_parameter(model: Segmenter) -> None:
    prediction = model.train()(video(3, batch=2))
    loss = torch.stack([(x * torch.randn_like(x)).sum() for x in prediction.outputs.values()]).sum()
    if prediction.auxiliary is not None:
        loss = loss + prediction.auxiliary.square().sum()
    if isinstance(model.temporal, SSLTM):  # prototypes move by their own loss alone
        assert model.temporal.prototypes.prototypes.grad is None
        pixels = prediction.features.embedding[model.temporal.site.key]
        loss = loss + model.temporal.prototypes.observe(pixels, labels(6))
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    lost = [name for name, p in model.temporal.named_parameters() if not p.grad.abs().sum() > 0]
    assert not lost, lost
