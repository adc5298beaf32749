"""Smoothing along flow against a loop over pixels, and what it does where it should and should not act."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from inference.flows import H, K, Known, Listed, W, flows, numbered, run, uniform
from inference.predictors import Remember, video
from numpy.typing import NDArray

from everyframe.data.synthetic import SyntheticVideos
from everyframe.errors import InputError
from everyframe.flow import DISFlow, FlowPair
from everyframe.inference.smoothing import FlowSmoothing
from everyframe.inference.state_file import snapshot
from everyframe.metrics.flow import visible

ALPHA = 0.4


def brute_force(
    logits: NDArray[np.float64], forward: NDArray[np.float32], backward: NDArray[np.float32]
) -> list[NDArray[np.float64]]:
    """Pixel by pixel from the formula: P' = (1 - alpha m) P + alpha m warp(P')."""
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    out = [shares[0]]
    for now in shares[1:]:
        past, mixed = out[-1], now.copy()
        for y in range(H):
            for x in range(W):
                f = forward[:, y, x]
                tx, ty = x + f[0], y + f[1]
                column, row = round(float(tx)), round(float(ty))
                if not (0 <= column < W and 0 <= row < H):
                    continue
                b = backward[:, row, column]
                if ((f + b) ** 2).sum() > 0.01 * ((f**2).sum() + (b**2).sum()) + 0.5:
                    continue
                x0, y0 = int(np.floor(tx)), int(np.floor(ty))
                moved = np.zeros(K)
                for cy, wy in ((y0, 1 - (ty - y0)), (y0 + 1, ty - y0)):
                    for cx, wx in ((x0, 1 - (tx - x0)), (x0 + 1, tx - x0)):
                        moved += wy * wx * past[:, min(max(cy, 0), H - 1), min(max(cx, 0), W - 1)]
                mixed[:, y, x] = (1 - ALPHA) * now[:, y, x] + ALPHA * moved
        out.append(mixed)
    return out


@pytest.mark.parametrize(("late", "preview"), [(0, False), (2, False), (2, True)])
def test_equals_a_loop_over_pixels(late: int, preview: bool) -> None:
    logits = torch.randn(5, K, H, W)
    forward, backward = flows()
    flow = Known(forward, backward)
    frames = numbered(5)
    fed = [*([frames[-1]] if preview else []), *frames, *[frames[-1]] * late]
    got = run(FlowSmoothing(Listed(logits, late, preview), ALPHA, flow), fed)[late + preview :]
    want = brute_force(logits.double().numpy(), forward, backward)
    np.testing.assert_allclose(np.stack(got), np.stack(want), atol=1e-6)
    assert flow.asked == [(1, 0), (2, 1), (3, 2), (4, 3)], "from each frame to the one before"


def test_occluded_pixels_are_untouched() -> None:
    logits = torch.randn(4, K, H, W)
    backward = uniform(0)
    backward[:, 1:4, 2:7] = 3.0
    got = run(FlowSmoothing(Listed(logits), ALPHA, Known(uniform(0), backward)), numbered(4))
    hidden = np.zeros((H, W), bool)
    hidden[1:4, 2:7] = True
    for shares, alone in zip(got[1:], logits[1:].softmax(1).double().numpy(), strict=True):
        np.testing.assert_allclose(shares[:, hidden], alone[:, hidden], atol=1e-6)
        assert np.abs(shares - alone)[:, ~hidden].max() > 0.05


def test_noise_on_a_static_scene_goes_to_the_mean() -> None:
    torch.manual_seed(0)
    truth = torch.randn(K, H, W) * 2
    logits = truth + torch.randn(300, K, H, W)
    alone = logits.softmax(1).double().numpy()
    got = np.stack(run(FlowSmoothing(Listed(logits), 0.9, Known(uniform(0), uniform(0))), numbered(300)))
    mean = alone.mean(0)
    # An exponential mean has (1 - a) / (1 + a) of the variance: 1/19.
    ratio = ((got[50:] - mean) ** 2).mean() / ((alone[50:] - mean) ** 2).mean()
    assert ratio == pytest.approx(0.1 / 1.9, rel=0.2)
    flips = [(np.diff(shares.argmax(1), axis=0) != 0).mean() for shares in (alone, got)]
    assert flips[1] < flips[0] / 3


def test_a_new_scene_starts_anew() -> None:
    logits = torch.randn(3, K, H, W)
    backward = np.full((2, H, W), 5.0, np.float32)
    backward[:, 0] = 0.0  # one row in six is found again
    flow = Known(uniform(0), backward)
    alone = logits.softmax(1).double().numpy()
    got = run(FlowSmoothing(Listed(logits), ALPHA, flow, min_visible=0.2), numbered(3))
    np.testing.assert_allclose(np.stack(got), alone, atol=1e-6)
    got = run(FlowSmoothing(Listed(logits), ALPHA, flow, min_visible=0.1), numbered(3))
    assert np.abs(got[1] - alone[1])[:, 0].max() > 0.05


def test_a_cut_to_another_scene_starts_anew() -> None:
    """By the pictures: between soft blobs, flow finds more than a fifth of the pixels again, whatever they show."""
    scenes = SyntheticVideos(5, frames=4, size=(48, 64))
    first, second = ([frame.image[None] for frame in scenes[i]] for i in (1, 0))
    assert visible(DISFlow().between(second[0][0], first[-1][0])).mean() > 0.2
    logits = torch.randn(8, K, 48, 64)
    fresh = run(FlowSmoothing(Listed(logits[4:]), ALPHA), second)
    got = run(FlowSmoothing(Listed(logits), ALPHA), [*first, *second])[4:]
    np.testing.assert_allclose(np.stack(got), np.stack(fresh), atol=1e-6)
    crossed = run(FlowSmoothing(Listed(logits), ALPHA, cut_threshold=2), [*first, *second])[4]
    assert np.abs(crossed - fresh[0]).max() > 0.05


def test_cells_take_the_share_of_their_pixels_and_moves_in_cells() -> None:
    """Logits at stride 3: a shift by 3 pixels is one cell; a cell with a third of its pixels hidden takes 2/3 alpha."""
    logits = torch.randn(2, K, H // 3, W // 3)
    backward = uniform(-3)
    backward[:, :, 3:4] = 9.0
    got = run(FlowSmoothing(Listed(logits), ALPHA, Known(uniform(3), backward)), numbered(2))
    first, second = logits.softmax(1).double().numpy()
    weight = np.array(
        [[2 / 3, 1, 0], [2 / 3, 1, 0]]
    )  # column 3 is seen from column 0; the last cells leave the picture
    moved = np.roll(first, -1, 2)
    np.testing.assert_allclose(got[1], second + ALPHA * weight * (moved - second), atol=1e-6)


def test_real_flow_follows_motion_and_state_can_be_stored() -> None:
    clip = [frame.image[None] for frame in video(6, (48, 64))]
    plain, smooth = Remember(stride=1), FlowSmoothing(Remember(stride=1), 0.5)
    with torch.no_grad():
        state, old = None, None
        for image in clip:
            logits, state = smooth.step(image, state)
            alone, old = plain.step(image, old)
            assert torch.isfinite(logits).all()
    assert (logits.softmax(1) - alone.softmax(1)).abs().max() > 1e-3
    tensors, _ = snapshot(state)
    assert len(tensors) <= 4
    same = run(FlowSmoothing(Listed(torch.randn(3, K, H, W)), 0.0), numbered(3))
    assert len(same) == 3


def test_bad_options() -> None:
    for alpha in (-0.1, 1.0):
        with pytest.raises(InputError, match="from 0 up to but not 1"):
            FlowSmoothing(Remember(), alpha)
    with pytest.raises(InputError, match="expected dis, raft"):
        FlowSmoothing(Remember(), 0.4, "farneback")


@pytest.mark.parametrize(
    ("given", "came"),
    [
        (uniform(0), "expected a FlowPair from between, came ndarray"),
        (FlowPair(uniform(np.nan), uniform(0)), "came NaN or infinity"),
        (FlowPair(uniform(0), uniform(np.inf)), "came NaN or infinity"),
        (FlowPair(uniform(0).transpose(1, 2, 0)), rf"expected \[2, {H}, {W}\] like the frames, x then y"),
    ],
)
def test_flow_that_is_none_is_refused(given: object, came: str) -> None:
    flow = Known(uniform(0), uniform(0))
    flow.pair = given  # type: ignore[assignment]
    with pytest.raises(InputError, match=came):
        run(FlowSmoothing(Listed(torch.zeros(2, K, H, W)), ALPHA, flow), numbered(2))
    with pytest.raises(InputError, match="between"):
        FlowSmoothing(Listed(torch.zeros(2, K, H, W)), ALPHA, object())  # type: ignore[arg-type]
