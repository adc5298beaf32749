from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from predictors import Fixed, Remember, video

from everyframe.errors import InputError
from everyframe.inference.scores import as_probable
from everyframe.inference.stream import Stream
from everyframe.inference.tta import Flip, Scales
from everyframe.inference.window import Window

FRAME = torch.randint(0, 256, (2, 3, 33, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


IDENTITY = {
    "scale 1": lambda p: Scales(p, (1.0,)),
    "window larger than the frame": lambda p: Window(p, 64),
    "window of the frame's size": lambda p: Window(p, (33, 47)),
}


@pytest.mark.parametrize("wrap", IDENTITY.values(), ids=IDENTITY)
def test_one_identity_member_changes_nothing(wrap) -> None:
    model, state, wrapped_state = Remember(), None, None
    wrapper = wrap(model)
    with torch.no_grad():
        for i in range(3):
            logits, state = model.step(FRAME + i, state)
            wrapped, wrapped_state = wrapper.step(FRAME + i, wrapped_state)
            assert torch.equal(wrapped, logits)
    (inner,) = wrapped_state
    assert torch.equal(inner.mean, state.mean)


def test_flip_is_the_mean_of_two_probabilities() -> None:
    logits = torch.randn(3, 5, 8)
    merged, state = Flip(Fixed(logits)).step(FRAME)
    expected = (logits.softmax(0) + logits.flip(-1).softmax(0)) / 2
    torch.testing.assert_close(merged.softmax(1), expected.expand(2, 3, 5, 8))
    torch.testing.assert_close(merged[0], expected.log())
    assert state == (1, 1)


def test_flip_of_a_symmetric_predictor_changes_no_probability() -> None:
    model = Remember(stride=1)  # looks at single pixels: the mirrored frame gives the mirrored logits
    with torch.no_grad():
        torch.testing.assert_close(Flip(model).step(FRAME)[0].softmax(1), model.step(FRAME)[0].softmax(1))


def test_score_norms_by_hand() -> None:
    scores = torch.tensor([[[3.0, 0.0]], [[1.0, 1.0]]])  # 2 classes, 1 x 2 cells
    none, _ = Flip(Fixed(scores), "none").step(FRAME[:1])
    assert none.tolist() == [[[[1.5, 1.5]], [[1.0, 1.0]]]]
    l1, _ = Flip(Fixed(scores), "l1").step(FRAME[:1])  # (3/4 + 0) / 2 and (1/4 + 1) / 2
    torch.testing.assert_close(l1.exp(), torch.tensor([[[[0.375, 0.375]], [[0.625, 0.625]]]]))
    again, _ = Flip(Flip(Fixed(scores), "l1"), "l1").step(FRAME[:1])  # what it averages are logits already
    torch.testing.assert_close(again, l1)
    with pytest.raises(ValueError, match="score_norm"):
        Flip(Fixed(scores), "l2")  # type: ignore[arg-type]


def test_scales_resize_the_frame_and_average_at_the_finest_logits() -> None:
    model = Remember(stride=4)
    merged, state = Scales(model, (0.5, 1.0, 2.0)).step(FRAME)
    assert merged.shape[-2:] == (17, 24)  # 66 x 94 at stride 4
    assert [tuple(child.mean.shape[-2:]) for child in state] == [(16, 24), (33, 47), (66, 94)]
    total = 0.0
    for size in ((16, 24), (33, 47), (66, 94)):
        frame = F.interpolate(FRAME.float(), size, mode="bilinear").round().byte()
        total = total + F.interpolate(model.step(frame)[0], (17, 24), mode="bilinear").softmax(1)
    torch.testing.assert_close(merged.softmax(1), total / 3)
    assert Scales(model, (0.5, 1.0), full_resolution=True).step(FRAME)[0].shape[-2:] == (33, 47)


def test_scales_round_up_to_a_multiple() -> None:
    _, (state,) = Scales(Remember(stride=1), (1.1,), multiple=32).step(FRAME)
    assert tuple(state.mean.shape[-2:]) == (64, 64)


def test_average_of_averages_is_the_average() -> None:
    logits = torch.randn(3, 8, 12)
    inner, _ = Flip(Fixed(logits)).step(FRAME[:1])
    outer, _ = Scales(Flip(Fixed(logits)), (0.5, 1.0)).step(FRAME[:1])
    torch.testing.assert_close(outer.softmax(1), inner.softmax(1))


WRAPPERS = {
    "window": lambda p: Window(p, (24, 32), 16),
    "flip": Flip,
    "scales": lambda p: Scales(p, (0.5, 1.0)),
}


@pytest.mark.parametrize("order", list(itertools.permutations(WRAPPERS)), ids="-".join)
def test_any_order_nests_and_streams_do_not_mix(order: tuple[str, ...]) -> None:
    predictor = Remember()
    for name in order:
        predictor = WRAPPERS[name](predictor)
    one, two = video(4, seed=1), video(4, seed=2)
    alone = [Stream(predictor), Stream(predictor)]
    expected = [[stream.step(frame) for frame in frames] for stream, frames in zip(alone, (one, two), strict=True)]
    together = [Stream(predictor), Stream(predictor)]
    for i in range(4):
        for stream, frames, labels in zip(together, (one, two), expected, strict=True):
            assert (stream.step(frames[i]) == labels[i]).all()


def test_refuses_no_scale() -> None:
    for scales in ((), (0.0, 1.0), (-1.0,)):
        with pytest.raises(InputError, match="factors above 0"):
            Scales(Remember(), scales)


def test_sums_of_masks_become_shares_and_logits_stay() -> None:
    """Masks of 0.2, 0.6 and 0.8 in sum: probabilities of 1/8, 3/8 and 1/2, not a softmax of nearly equal numbers."""
    sums = torch.tensor([0.2, 0.6, 0.8]).view(1, 3, 1, 1)
    torch.testing.assert_close(as_probable(sums, "l1").softmax(1).flatten(), torch.tensor([0.125, 0.375, 0.5]))
    assert as_probable(sums, "softmax") is sums
