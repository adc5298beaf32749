"""The contrastive loss pair by pair, tiled beside dense, at its limits; and which cells take part."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.losses.contrastive import LOWEST_TEMPERATURE, contrastive_loss
from everyframe.losses.contrastive_cells import cell_labels, sample_anchors


def clip(t: int = 2, h: int = 5, w: int = 7, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features whose classes differ a little, and labels in which some cells are ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (t, h, w), generator=generator).to(torch.uint8)
    labels[torch.rand(t, h, w, generator=generator) < 0.15] = 255
    features = torch.randn(t, 6, h, w, generator=generator, dtype=torch.float64)
    features[:, 0] += labels.double() / 100
    return features, labels


def brute_force(features: Tensor, labels: Tensor, temperature: float, positives: str = "clip") -> float:
    """Eqs. 1-3 in plain Python, one pair at a time."""
    t, _, h, w = features.shape
    cells = []
    for f in range(t):
        for y in range(h):
            for x in range(w):
                vector = features[f, :, y, x].tolist()
                norm = math.sqrt(sum(v * v for v in vector))
                if labels[f, y, x] != 255:
                    cells.append((int(labels[f, y, x]), f, [v / norm for v in vector]))
    losses = []
    for i, (own, frame, z) in enumerate(cells):
        score = [sum(a * b for a, b in zip(z, other[2], strict=True)) / temperature for other in cells]
        chosen = {
            "clip": lambda f, frame=frame: True,
            "same-frame": lambda f, frame=frame: f == frame,
            "cross-frame": lambda f, frame=frame: f != frame,
        }[positives]
        drawn = [j for j, (k, f, _) in enumerate(cells) if j != i and k == own and chosen(f)]
        negative = [j for j, (k, _, _) in enumerate(cells) if k != own]
        if drawn and negative:
            below = sum(math.exp(score[j]) for j in negative)
            losses.append(-sum(math.log(math.exp(score[p]) / (math.exp(score[p]) + below)) for p in drawn) / len(drawn))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("positives", ["clip", "same-frame", "cross-frame"])
@pytest.mark.parametrize("dense", [False, True])
def test_equals_the_formula_pair_by_pair(positives: str, dense: bool) -> None:
    features, labels = clip(3, 3, 5)
    expected = brute_force(features, labels, 0.2, positives)
    got = contrastive_loss(features, labels, 0.2, positives, tile=8, dense=dense)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_hand_computed() -> None:
    # Two cells of class 0 point along x, one of class 1 along y: s_pos = 1/0.5 = 2, s_neg = 0, one valid class.
    features = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 2.0]]).view(1, 2, 1, 3)
    labels = torch.tensor([[[0, 0, 1]]], dtype=torch.uint8)
    assert contrastive_loss(features, labels, 0.5).item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("positives", ["clip", "same-frame", "cross-frame"])
@pytest.mark.parametrize("tile", [7, 64, 1000])
@pytest.mark.parametrize("frames", [2, 4])
def test_tiled_equals_dense_in_value_and_gradient(positives: str, tile: int, frames: int) -> None:
    features, labels = clip(frames, 6, 11, classes=5)
    results = {}
    for dense, dtype in product((True, False), (torch.float64, torch.float32)):
        x = features.detach().to(dtype).requires_grad_()
        value = contrastive_loss(x, labels, 0.1, positives, tile=tile, dense=dense)
        (3 * value).backward()
        assert x.grad is not None
        assert not x.grad.permute(0, 2, 3, 1)[labels == 255].any()
        results[dense, dtype] = value.item(), x.grad.double()
    expected, slope = results[True, torch.float64]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        got, own = results[False, dtype]
        assert got == pytest.approx(expected, rel=tolerance)
        assert (own - slope).norm() <= tolerance * slope.norm()
    rounding = (results[True, torch.float32][1] - slope).norm()  # the dense form's own
    assert (results[False, torch.float32][1] - slope).norm() <= 1.5 * rounding


def test_long_sums_round_no_more_than_short_ones() -> None:
    """896 cells in one tile: the gradient is within 1e-6 of float64's, nearer than the dense form's in float32."""
    features, labels = clip(4, 14, 16, classes=5)
    slopes = []
    for dtype, dense in ((torch.float64, True), (torch.float32, True), (torch.float32, False)):
        x = features.float().to(dtype).requires_grad_()
        contrastive_loss(x, labels, 0.1, tile=1000, dense=dense).backward()
        assert x.grad is not None
        slopes.append(x.grad.double())
    exact, dense_slope, tiled = slopes
    assert (tiled - exact).norm() <= 1e-6 * exact.norm()
    assert (tiled - exact).norm() <= (dense_slope - exact).norm()


# -- drawn negatives and anchors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("positives", ["clip", "cross-frame"])
@pytest.mark.parametrize("tile", [5, 1000])
def test_drawn_negatives_are_the_same_for_a_class_and_of_other_classes(positives: str, tile: int) -> None:
    features, labels = clip(2, 4, 6)
    results = []
    for dense in (True, False):
        torch.manual_seed(3)
        x = features.detach().requires_grad_()
        value = contrastive_loss(x, labels, 0.3, positives, tile=tile, dense=dense, negatives=4)
        value.backward()
        results.append((value.item(), x.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-14)
    assert results[0][0] < contrastive_loss(features, labels, 0.3, positives).item()  # fewer terms below


def test_loss_with_drawn_negatives_by_hand() -> None:
    """Two cells of class 0 along x, four of other classes at right angles: whichever two are drawn, N = log 2."""
    vectors = [[1.0, 0, 0], [2.0, 0, 0], [0, 1, 0], [0, 2, 0], [0, 0, 1], [0, 0, 3]]
    features = torch.tensor(vectors).T.reshape(1, 3, 1, 6)
    labels = torch.tensor([[[0, 0, 1, 2, 3, 4]]], dtype=torch.uint8)  # one valid class
    for _ in range(3):
        got = contrastive_loss(features, labels, 0.5, negatives=2).item()
        assert got == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-6)


def test_more_negatives_than_there_are_are_all_of_them() -> None:
    features, labels = clip(2, 4, 6)
    every = contrastive_loss(features, labels).item()
    counts = torch.bincount(labels[labels != 255].long())
    enough = int(counts.sum() - counts.min())
    assert contrastive_loss(features, labels, negatives=enough).item() == pytest.approx(every, rel=1e-12)
    assert contrastive_loss(features, labels, negatives=10_000).item() == pytest.approx(every, rel=1e-12)


def test_drawn_negatives_are_uniform() -> None:
    from everyframe.losses.contrastive import _draw

    classes = torch.tensor([0, 0, 1, 1, 1, 2])
    times = sum(_draw(torch.arange(3), classes, 2).long() for _ in range(2000))
    assert times.sum(1).tolist() == [4000, 4000, 4000]
    expected = torch.tensor([[0, 0, 0.5, 0.5, 0.5, 0.5], [2 / 3, 2 / 3, 0, 0, 0, 2 / 3], [0.4] * 5 + [0]])
    torch.testing.assert_close(times / 2000, expected, atol=0.05, rtol=0)


def test_anchors_share_the_classes_and_half_are_hard() -> None:
    labels = torch.tensor([0] * 30 + [1] * 3 + [2] * 20 + [255] * 11, dtype=torch.uint8).view(1, 8, 8)
    predicted = labels.long().clone().flatten()
    predicted[:4] = 1  # 4 wrong cells of class 0
    predicted[33:50] = 0  # 17 wrong ones of class 2, 3 right
    kept = sample_anchors(labels, predicted.view(1, 8, 8), most=30, per_class=100).flatten()
    assert torch.bincount(kept[kept != 255].long()).tolist() == [10, 3, 10]
    assert ((kept == labels.flatten()) | (kept == 255)).all()
    wrong = (predicted != labels.flatten()) & (kept != 255)
    assert [int((wrong & (kept == k)).sum()) for k in (0, 2)] == [4, 7]  # too few wrong, too few right: filled up
    few = sample_anchors(labels, predicted.view(1, 8, 8), most=1000, per_class=6).flatten()
    assert torch.bincount(few[few != 255].long()).tolist() == [6, 3, 6]
    assert int(((predicted != labels.flatten()) & (few == 0)).sum()) == 3  # half of 6


def test_anchors_without_predictions_are_any_cells_of_the_class() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.uint8)
    labels[1] = 1
    torch.manual_seed(0)
    first, second = sample_anchors(labels, None, 20, 5), sample_anchors(labels, None, 20, 5)
    assert [(first == k).sum().item() for k in (0, 1)] == [5, 5]
    assert not torch.equal(first, second)
    unknown = torch.full(labels.shape, -1)
    assert (sample_anchors(labels, unknown, 20, 5) != 255).sum() == 10
    nothing = torch.full_like(labels, 255)
    assert torch.equal(sample_anchors(nothing, None), nothing)


def test_lowest_temperature_stays_finite_and_equal() -> None:
    features, labels = clip()
    x = features.float().requires_grad_()
    value = contrastive_loss(x, labels, LOWEST_TEMPERATURE, tile=16)
    value.backward()
    assert value.item() == pytest.approx(
        contrastive_loss(features, labels, LOWEST_TEMPERATURE, dense=True).item(), rel=1e-5
    )
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_many_negatives_on_the_anchor_and_its_positive_opposite() -> None:
    """The largest ratio that there is: 8098 negatives with s = 1 / T, one positive with s = -1 / T."""
    features = torch.zeros(1, 2, 90, 90)
    features[:, 0] = 1
    features[:, 0, 0, 1] = -1
    labels = torch.ones(1, 90, 90, dtype=torch.uint8)
    labels[0, 0, :2] = 0
    value = contrastive_loss(features, labels, LOWEST_TEMPERATURE)
    assert value.item() == pytest.approx(contrastive_loss(features.double(), labels, LOWEST_TEMPERATURE).item())


def test_gradcheck() -> None:
    features, labels = clip(2, 3, 4, classes=3)
    x = features.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, labels, 0.3, tile=5), x)


@pytest.mark.parametrize("labels", [[[0, 0, 0, 0]], [[255, 255, 255, 255]], [[0, 1, 2, 3]], [[255, 255, 0, 1]]])
@pytest.mark.parametrize("dense", [False, True])
def test_without_a_valid_anchor_it_is_zero_with_a_graph(labels: list[list[int]], dense: bool) -> None:
    x = torch.randn(1, 3, 1, 4, requires_grad=True)
    value = contrastive_loss(x, torch.tensor([labels], dtype=torch.uint8), dense=dense)
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_bfloat16_products_are_near_and_ordered_frames_do_not_matter() -> None:
    features, labels = clip(2, 8, 8)
    x = features.float()
    value = contrastive_loss(x, labels)
    assert contrastive_loss(x, labels, products=torch.bfloat16).item() == pytest.approx(value.item(), rel=1e-2)
    assert contrastive_loss(x.flip(0), labels.flip(0), tile=9).item() == pytest.approx(value.item(), rel=1e-6)


def test_autocast_does_not_reach_the_products() -> None:
    features, labels = clip(2, 8, 8)
    x = features.float()
    with torch.autocast("cpu", torch.bfloat16):
        value = contrastive_loss(x, labels)
    assert value.item() == contrastive_loss(x, labels).item()


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.01}, {"positives": "near"}, {"tile": 0}, {"negatives": -1}, {"labels": torch.zeros(2, 3, 3)}],
)
def test_bad_options_are_named(options: dict) -> None:
    features, labels = clip()
    with pytest.raises(InputError, match="contrastive loss: expected"):
        contrastive_loss(features, **{"labels": labels, **options})


def test_cell_labels_at_the_centre() -> None:
    labels = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    assert cell_labels(labels, (2, 2)).tolist() == [[[18, 22], [50, 54]]]  # pixel (2, 2) of each 4 x 4 cell
    assert cell_labels(labels, (8, 8)) is labels


def test_cell_labels_by_majority() -> None:
    labels = torch.full((1, 4, 6), 255, dtype=torch.uint8)
    labels[0, :2, :2] = torch.tensor([[3, 3], [3, 1]])
    labels[0, :2, 2:4] = torch.tensor([[5, 5], [2, 2]])
    labels[0, 2:, :2] = torch.tensor([[7, 255], [255, 255]])
    labels[0, 2:, 2:4] = torch.tensor([[0, 1], [2, 3]])
    assert cell_labels(labels, (2, 3), purity=0.5).tolist() == [[[3, 2, 255], [255, 255, 255]]]


@pytest.mark.parametrize("dense", [False, True])
def test_autocast_changes_nothing(dense: bool) -> None:
    features, labels = clip()
    values, gradients = [], []
    for enabled in (False, True):
        leaf = features.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = contrastive_loss(leaf, labels, dense=dense)
        value.backward()
        assert leaf.grad is not None
        values.append(value.item())
        gradients.append(leaf.grad)
    assert values[0] == values[1]
    assert torch.equal(*gradients)
