"""The window along flow against a loop over pixels; what it says at ends, cuts and ties; how late it answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.flows import H, K, Known, Listed, W, flows, numbered, run, uniform
from inference.predictors import Remember, video
from numpy.typing import NDArray
from prediction_jobs import files, interrupt_at, pictures

import everyframe
from everyframe.data.synthetic import SyntheticVideos
from everyframe.errors import InputError
from everyframe.flow import FlowPair
from everyframe.inference.flow_window import OWN_VOTE, FlowWindow
from everyframe.inference.state_file import snapshot


class Drift:
    """The same motion from each frame to the next: `steps` of it between frames so many apart, both ways."""

    def __init__(self, forward: NDArray[np.float32], backward: NDArray[np.float32]) -> None:
        self.ways = {1: forward, -1: backward}
        self.asked: list[tuple[int, int]] = []

    def between(self, first: torch.Tensor, second: torch.Tensor) -> FlowPair:
        here, there = int(first[0, 0, 0]), int(second[0, 0, 0])
        self.asked.append((here, there))
        sign, steps = np.sign(there - here), abs(there - here)
        still = uniform(0.0)
        return FlowPair(steps * self.ways.get(sign, still), steps * self.ways.get(-sign, still))


def found(flow: NDArray[np.float32], back: NDArray[np.float32], y: int, x: int) -> tuple[float, float] | None:
    """Where a pixel of one frame lies in another one (y, x), or None where it is not found again."""
    f = flow[:, y, x]
    column, row = round(float(x + f[0])), round(float(y + f[1]))
    if not (0 <= column < W and 0 <= row < H):
        return None
    b = back[:, row, column]
    if ((f + b) ** 2).sum() > 0.01 * ((f**2).sum() + (b**2).sum()) + 0.5:
        return None
    return float(y + f[1]), float(x + f[0])


def sampled(scores: NDArray[np.float64], y: float, x: float) -> NDArray[np.float64]:
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    out = np.zeros(len(scores))
    for cy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for cx, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            out += wy * wx * scores[:, min(max(cy, 0), H - 1), min(max(cx, 0), W - 1)]
    return out


def nearest(scores: NDArray[np.float64], y: float, x: float) -> NDArray[np.float64]:
    return scores[:, min(max(round(y), 0), H - 1), min(max(round(x), 0), W - 1)]


def brute_force(scores: NDArray[np.float64], radius: int, flow: Drift, vote: bool) -> NDArray[np.float64]:
    """Pixel by pixel from the formula; frames after the last one are the last one again."""
    own, read = (OWN_VOTE, nearest) if vote else (1.0, sampled)
    out, last = np.zeros_like(scores), len(scores) - 1
    for t in range(len(scores)):
        for y in range(H):
            for x in range(W):
                total, count = own * scores[t, :, y, x], own
                for j in [j for j in range(-radius, radius + 1) if j and t + j >= 0]:
                    other = min(t + j, last)
                    sign = np.sign(other - t)
                    forward = abs(other - t) * flow.ways.get(sign, uniform(0.0))
                    backward = abs(other - t) * flow.ways.get(-sign, uniform(0.0))
                    place = found(forward, backward, y, x)
                    if place is not None:
                        total, count = total + read(scores[other], *place), count + 1
                out[t, :, y, x] = total / count
    return out


@pytest.mark.parametrize(("late", "preview"), [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("vote", [False, True])
def test_equals_a_loop_over_pixels(radius: int, vote: bool, late: int, preview: bool) -> None:
    torch.manual_seed(radius)
    logits = torch.randn(6, K, H, W)
    backward, forward = flows()  # to the frame before, as in the recursive form, so that ways differ in both directions
    flow = Drift(forward, backward)
    frames = numbered(6)
    model = FlowWindow(Listed(logits, late, preview), radius, vote, flow, min_visible=0.0)
    assert model.lookahead == late + radius
    fed = [*([frames[-1]] if preview else []), *frames, *[frames[-1]] * model.lookahead]
    got = run(model, fed, shares=vote)[model.lookahead + preview :]
    scores = logits.double().softmax(1).numpy()
    if vote:
        scores = np.eye(K)[logits.argmax(1).numpy()].transpose(0, 3, 1, 2)
    want = brute_force(scores, radius, flow, vote)
    np.testing.assert_allclose(np.stack(got), want, atol=2e-6)
    once = sum(min(t, radius) for t in range(6 + radius))
    assert len(flow.asked) == once, "flow between two frames is worked out once, for both of them"


def test_a_vote_is_a_majority_and_a_tie_is_the_frames_own() -> None:
    """Nothing moves: of the labels 0, 1, 1 (a frame in the middle) 1 wins; of 0 and 1 a frame's own does."""
    labels = [0, 1, 1, 0, 0]
    logits = torch.zeros(5, K, H, W)
    for t, label in enumerate(labels):
        logits[t, label] = 5.0
    model = FlowWindow(Listed(logits), 1, True, Known(uniform(0), uniform(0)))
    frames = numbered(5)
    got = [int(shares[:, 2, 3].argmax()) for shares in run(model, [*frames, frames[-1]], shares=True)[1:]]
    assert got == [0, 1, 1, 0, 0]  # the first has 0 and 1 alone: its own; the second 0, 1, 1; the third 1, 1, 0


def test_occluded_pixels_and_other_scenes_have_no_say() -> None:
    logits = torch.randn(3, K, H, W)
    alone = logits.softmax(1).double().numpy()
    backward = uniform(0)
    backward[:, 1:4, 2:7] = 3.0
    model = FlowWindow(Listed(logits), 1, False, Known(uniform(0), backward))
    frames = numbered(3)
    got = np.stack(run(model, [*frames, frames[-1]])[1:])
    # The block is not found again from the later of two frames, and the later one not from the block.
    np.testing.assert_allclose(got[1][:, 1:4, 2:7], alone[1][:, 1:4, 2:7], atol=1e-6)
    assert np.abs(got[1] - alone[1])[:, 0].max() > 0.05
    far = FlowWindow(Listed(logits), 1, False, Known(uniform(0), backward), min_visible=0.9)
    np.testing.assert_allclose(np.stack(run(far, [*frames, frames[-1]])[1:]), alone, atol=1e-6)


def test_a_cut_divides_the_window() -> None:
    scenes = SyntheticVideos(5, frames=3, size=(48, 64))
    first, second = ([frame.image[None] for frame in scenes[i]] for i in (1, 0))
    logits = torch.randn(6, K, 48, 64)
    whole = run(FlowWindow(Listed(logits), 1), [*first, *second, second[-1]])[1:]
    left = run(FlowWindow(Listed(logits[:3]), 1), [*first, second[0]])[1:]  # the other scene follows, and says nothing
    right = run(FlowWindow(Listed(logits[3:]), 1), [*second, second[-1]])[1:]
    np.testing.assert_allclose(np.stack(whole), np.stack([*left, *right]), atol=1e-6)
    assert np.abs(whole[3] - logits[3].softmax(0).double().numpy()).max() > 0.05


def test_noise_on_a_static_scene_is_averaged() -> None:
    """The mean of five independent frames has a fifth of the variance."""
    torch.manual_seed(0)
    logits = torch.randn(K, H, W) * 2 + torch.randn(200, K, H, W)
    alone = logits.softmax(1).double().numpy()
    frames = numbered(200)
    got = np.stack(run(FlowWindow(Listed(logits), 2, False, Known(uniform(0), uniform(0))), frames)[4:])
    mean = alone.mean(0)
    ratio = ((got - mean) ** 2).mean() / ((alone - mean) ** 2).mean()
    assert ratio == pytest.approx(1 / 5, rel=0.15)


def test_state_is_bounded_and_can_be_stored() -> None:
    model, state, sizes = FlowWindow(Remember(stride=1), 2), None, []
    with torch.no_grad():
        for frame in video(12, (48, 64)):
            logits, state = model.step(frame.image[None], state)
            assert torch.isfinite(logits).all()
            sizes.append(sum(tensor.numel() for tensor in snapshot(state)[0].values()))
    assert len(set(sizes[5:])) == 1


def test_predict_resumes_and_says_how_far_it_looks(tmp_path: Path) -> None:
    frames = pictures(tmp_path / "shot", 9, size=(48, 64))
    options = {"overlay": False, "checkpoint_every": 2, "smooth_window": 2, "smooth_vote": True}
    with pytest.raises(KeyboardInterrupt):
        everyframe.predict(Remember(), frames, tmp_path / "out", on_frame=interrupt_at(5), **options)
    summary = everyframe.predict(Remember(), frames, tmp_path / "out", resume=True, **options)
    assert summary.frames == 5, "from the state that was kept after 4 frames"
    whole = everyframe.predict(Remember(), frames, tmp_path / "whole", **options)
    plain = everyframe.predict(Remember(), frames, tmp_path / "plain", overlay=False)
    assert files(tmp_path / "out") == files(tmp_path / "whole") != files(tmp_path / "plain")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 9
    record = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert (record["settings"]["smooth_window"], record["settings"]["smooth_vote"]) == (2, True)
    assert "each frame is answered when the 2 frames after it have come" in str(whole)
    assert not plain.notes


def test_a_flow_without_the_way_back_is_refused() -> None:
    class OneWay:
        def between(self, first: torch.Tensor, second: torch.Tensor) -> FlowPair:
            return FlowPair(uniform(0), None)

    with pytest.raises(InputError, match="expected flow both ways"):
        run(FlowWindow(Listed(torch.randn(2, K, H, W)), 1, flow=OneWay()), numbered(2))


def test_bad_options() -> None:
    for radius in (0, -1):
        with pytest.raises(InputError, match="one frame or more to either side"):
            FlowWindow(Remember(), radius)
    with pytest.raises(InputError, match="expected dis, raft"):
        FlowWindow(Remember(), 1, flow="farneback")
