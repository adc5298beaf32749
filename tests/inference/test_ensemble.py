from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from predictors import Fixed, Remember, video

from everyframe.errors import InputError
from everyframe.inference.ensemble import Ensemble, Vote, voted_logits
from everyframe.inference.labelmap import confidence_map
from everyframe.inference.scores import own_confidence
from everyframe.inference.stream import Stream
from everyframe.inference.tta import Flip
from everyframe.inference.window import Window
from everyframe.labels import LabelSpace


def fixed(*cells: list[float]) -> Fixed:
    """One row of cells; each list holds the probabilities of one cell's classes."""
    return Fixed(torch.tensor(cells).T.log()[:, None])


FRAME = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)


def test_weighted_sum_by_hand() -> None:
    one, two = fixed([0.9, 0.1], [0.5, 0.5]), fixed([0.2, 0.8], [0.1, 0.9])
    logits, state = Ensemble([one, two], (0.4, 0.6)).step(FRAME)
    expected = torch.tensor([[0.4 * 0.9 + 0.6 * 0.2, 0.4 * 0.5 + 0.6 * 0.1]])
    torch.testing.assert_close(logits.softmax(1)[:, 0], expected[:, None])
    assert state == (1, 1)
    mean, _ = Ensemble([one, two, two]).step(FRAME)
    torch.testing.assert_close(mean.softmax(1)[0, 0, 0], torch.tensor([1.3 / 3, 0.7 / 3]))


@pytest.mark.parametrize(("norm", "expected"), [("none", [1.5, 1.0]), ("l1", [0.5 * 0.75 + 0.5 * 0.5, 0.375])])
def test_score_norms(norm: str, expected: list[float]) -> None:
    one, two = Fixed(torch.tensor([3.0, 1.0]).view(2, 1, 1)), Fixed(torch.tensor([0.0, 1.0]).view(2, 1, 1))
    if norm == "l1":
        two = Fixed(torch.tensor([2.0, 2.0]).view(2, 1, 1))
    logits, _ = Ensemble([one, two], score_norm=norm).step(FRAME)  # type: ignore[arg-type]
    scores = logits if norm == "none" else logits.softmax(1)
    torch.testing.assert_close(scores.flatten(), torch.tensor(expected))


def test_weight_of_one_member_leaves_its_logits_untouched() -> None:
    one, two = Remember(), Fixed(torch.randn(4, 3, 3))
    frame = video(1)[0].image[None]
    assert torch.equal(Ensemble([one, two], (1, 0)).step(frame)[0], one.step(frame)[0])
    assert torch.equal(Ensemble([one]).step(frame)[0], Vote([one]).step(frame)[0])


def test_members_of_other_strides_meet_at_the_finest() -> None:
    coarse, fine = torch.randn(3, 4, 6), torch.randn(3, 8, 12)
    frame = torch.zeros(1, 3, 32, 48, dtype=torch.uint8)
    logits, _ = Ensemble([Fixed(coarse), Fixed(fine)], (0.3, 0.7)).step(frame)
    up = F.interpolate(coarse[None], (8, 12), mode="bilinear").softmax(1)
    torch.testing.assert_close(logits.softmax(1), 0.3 * up + 0.7 * fine[None].softmax(0 + 1))
    full, _ = Ensemble([Fixed(coarse), Fixed(fine)], full_resolution=True).step(frame)
    both = [F.interpolate(x[None], (32, 48), mode="bilinear").softmax(1) for x in (coarse, fine)]
    torch.testing.assert_close(full.softmax(1), (both[0] + both[1]) / 2)


def test_vote_by_hand() -> None:
    members = [
        torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0], [0.5, 0.4, 0.1], [0.6, 0.3, 0.1]]),
        torch.tensor([[0.1, 0.6, 0.3], [0.4, 0.6, 0.0], [0.4, 0.5, 0.1], [0.1, 0.6, 0.3]]),
        torch.tensor([[0.3, 0.4, 0.3], [0.0, 0.1, 0.9], [0.4, 0.1, 0.5], [0.1, 0.8, 0.1]]),
    ]
    # Cell 0: class 1 has two of three votes. Cell 1: one each, class 1 has 1.1, 0 has 1.0, 2 has 0.9.
    # Cell 2: one each, sums 1.3, 1.0, 0.7. Cell 3: two votes for 1.
    logits = [member.T[None, :, None].clamp_min(1e-9).log() for member in members]
    assert voted_logits(logits).argmax(1).flatten().tolist() == [1, 1, 0, 1]


def test_vote_ties_with_equal_sums_go_to_the_earliest_member() -> None:
    first, second = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.tensor([2.0, 1.0]).view(1, 2, 1, 1)
    assert voted_logits([first, second]).argmax(1).item() == 1
    assert voted_logits([second, first]).argmax(1).item() == 0


def test_vote_against_counting_in_python() -> None:
    generator = torch.Generator().manual_seed(1)
    members = [torch.randn(1, 5, 6, 7, generator=generator) for _ in range(4)]
    got = voted_logits(members).argmax(1)[0]
    for y in range(6):
        for x in range(7):
            ballots = [int(m[0, :, y, x].argmax()) for m in members]
            sums = sum(m[0, :, y, x].softmax(0) for m in members)
            best = max(range(5), key=lambda k, b=ballots, s=sums: (b.count(k), float(s[k])))
            assert got[y, x] == best


def test_states_nest_and_streams_do_not_mix() -> None:
    model = Ensemble([Flip(Window(Remember(stride=2), (16, 24))), Remember()], (0.5, 0.5))
    frames, others = video(4), video(4, seed=3)
    alone = [Stream(model, "cpu").logits(f) for f in frames[:1]]
    a, b = Stream(model, "cpu"), Stream(model, "cpu")
    mixed = []
    for frame, other in zip(frames, others, strict=True):
        mixed.append(a.logits(frame))
        b.logits(other)
    single = Stream(model, "cpu")
    for frame, logits in zip(frames, mixed, strict=True):
        torch.testing.assert_close(single.logits(frame), logits)
    torch.testing.assert_close(alone[0], mixed[0])
    assert isinstance(a.state, tuple)
    assert len(a.state) == 2


def test_modules_are_moved_with_the_ensemble() -> None:
    assert len(list(Ensemble([Remember(), Fixed(torch.zeros(4, 1, 1))]).parameters())) == 2


def test_bad_members_and_weights_are_named() -> None:
    other = Fixed(torch.zeros(2, 1, 1))
    other.label_space = LabelSpace(("class 0", "cat"))
    with pytest.raises(InputError, match="'class 1' and 'cat' at 1"):
        Ensemble([Fixed(torch.zeros(2, 1, 1)), other])
    with pytest.raises(InputError, match="came 2 and 3"):
        Vote([Fixed(torch.zeros(2, 1, 1)), Fixed(torch.zeros(3, 1, 1))])
    with pytest.raises(InputError, match="expected 1 weights of 0 or more"):
        Ensemble([other], (-1.0,))
    with pytest.raises(InputError, match="came none"):
        Ensemble([])


def test_sums_of_masks_and_logits_meet_under_l1_alone() -> None:
    masks, pixels = Fixed(torch.tensor([0.1, 0.9, 0.0]).view(3, 1, 1)), fixed([0.5, 0.3, 0.2])
    masks.predicts = "masks"  # type: ignore[attr-defined]
    for norm in ("softmax", "none"):
        with pytest.raises(InputError, match=r"came masks, logits; l1 \(--score-norm l1\)"):
            Ensemble([masks, pixels], score_norm=norm)  # type: ignore[arg-type]
    mean, _ = Ensemble([masks, pixels], score_norm="l1").step(FRAME)
    torch.testing.assert_close(mean.softmax(1).flatten(), torch.tensor([0.3, 0.6, 0.1]))


def test_a_vote_says_how_sure_it_is() -> None:
    """Two of three votes, and half a one more for the winner: 2.5 of 3.5. A softmax of such shares would be flat."""
    members = [Fixed(torch.eye(60)[k].view(60, 1, 1) * 9) for k in (4, 4, 7)]
    vote = Vote(members)
    shares, _ = vote.step(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    assert shares[0, [4, 7], 0, 0].tolist() == pytest.approx([2.5 / 3.5, 1 / 3.5])
    assert shares.sum().item() == pytest.approx(1)
    sure = confidence_map(shares, (2, 2), own_confidence(vote, shares))
    assert sure.flatten().tolist() == pytest.approx([2.5 / 3.5] * 4)
