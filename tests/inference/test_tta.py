from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from predictors import Fixed, Remember, video

from everyframe.errors import InputError
from everyframe.inference.labelmap import confidence_map, label_map
from everyframe.inference.predictor import scores_of
from everyframe.inference.prior import LogitAdjustment
from everyframe.inference.scores import own_confidence, view_norm
from everyframe.inference.stream import Stream
from everyframe.inference.tta import Flip, Scales
from everyframe.inference.window import Window
from everyframe.semi.pseudo import pseudo_labels

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


def test_refuses_a_multiple_of_no_pixels() -> None:
    with pytest.raises(InputError, match="expected a multiple of at least 1 pixel, came 0"):
        Scales(Remember(), multiple=0)


class Sums(Fixed):
    """Scores of a head that predicts masks."""

    predicts = "masks"


def test_views_of_masks_are_averaged_as_sums() -> None:
    """A view that sees nothing has no say: sums (0.9, 0) and (0.02, 0.08) give 0.46 and 0.04.

    A softmax of such sums is nearly flat, (0.711, 0.289) and (0.485, 0.515); shares would let the second view, which
    sees next to nothing, pull as much as the first: (0.6, 0.4).
    """
    scores = torch.tensor([[[0.9, 0.02]], [[0.0, 0.08]]])  # 2 classes, 1 x 2 cells; the mirrored view swaps the cells
    expected = torch.tensor([[[[0.46, 0.46]], [[0.04, 0.04]]]])
    torch.testing.assert_close(Flip(Sums(scores)).step(FRAME[:1])[0], expected)
    for nested in (Scales(Flip(Sums(scores)), (0.5, 1.0)), Flip(Window(Sums(scores), 96)), Flip(Flip(Sums(scores)))):
        torch.testing.assert_close(nested.step(FRAME[:1])[0], expected)
        assert scores_of(nested) == "masks"
    shares, _ = Flip(Sums(scores), "l1").step(FRAME[:1])
    torch.testing.assert_close(shares.exp(), torch.tensor([[[[0.6, 0.6]], [[0.4, 0.4]]]]))
    flat, _ = Flip(Sums(scores), "softmax").step(FRAME[:1])
    torch.testing.assert_close(flat.exp()[0, 0, 0, 0].item(), 0.5979, atol=1e-4, rtol=0)


def test_two_equal_views_of_masks_change_nothing_between_cells_either() -> None:
    scores = torch.rand(3, 4, 6)
    both = torch.cat([scores, scores.flip(-1)], -1)  # looks the same in the mirror
    merged, _ = Flip(Sums(both)).step(FRAME[:1])
    torch.testing.assert_close(merged[0], both)


def test_views_of_logits_are_averaged_as_probabilities() -> None:
    assert (view_norm(Fixed(torch.zeros(2, 1, 2))), Flip(Remember()).score_norm) == ("softmax", "softmax")


def test_confidence_by_hand() -> None:
    """Sums 0.2, 0.1 leave 0.7 for nothing being there; 1.2, 0.4 overlap: 0.75; their logits are a softmax's."""
    sums = torch.tensor([[[0.2, 1.2]], [[0.1, 0.4]]])[None]  # 1 K 1 2
    model = Sums(sums[0])
    assert own_confidence(model, sums) == "bounded"
    torch.testing.assert_close(confidence_map(sums, (1, 2), "bounded"), torch.tensor([[[0.2, 0.75]]]))
    logits, _ = Flip(model, "softmax").step(FRAME[:1])
    assert own_confidence(Flip(model, "softmax"), logits) == "softmax"
    assert own_confidence(Fixed(sums[0]), sums) == "softmax"
    assert own_confidence(LogitAdjustment(model, {"class 0": 1, "class 1": 1}, 2.0, "l1"), sums) == "softmax"
    # Halfway between two cells the sums are halfway: (0.7, 0.25), which is 0.7 of 1.
    between = confidence_map(sums, (1, 6), "bounded")[0, 0]
    torch.testing.assert_close(between[2], torch.tensor((0.2 * 4 + 1.2 * 2) / 6 / max(1, 0.3 * 4 / 6 + 1.6 * 2 / 6)))


def test_one_measure_for_pseudo_labels_in_training_and_on_disk() -> None:
    scores = torch.rand(1, 3, 5, 7) * torch.tensor([1.0, 0.5, 0.1])[None, :, None, None]
    size = (20, 28)
    sure = label_map(scores, size).where(confidence_map(scores, size, "bounded") >= 0.6, torch.tensor(255))
    assert torch.equal(sure.byte(), pseudo_labels(scores, size, 0.6, "bounded"))
    assert 0.05 < (sure == 255).float().mean() < 0.95
