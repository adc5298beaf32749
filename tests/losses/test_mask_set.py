"""The set loss: matching by brute force, points by `grid_sample`, transformers' loss, what is ignored, gradients."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from host_copies import HostCopies
from torch import Tensor
from torch.nn import functional as F

from everyframe.errors import InputError
from everyframe.losses.mask_points import class_presence, point_sample, sample_masks
from everyframe.losses.mask_set import MaskSetLoss, Matches, assign, count_masks, matching_costs, point_losses

K, Q, D = 4, 6, 8


def batch(n: int = 2, a: int = 3, size: tuple[int, int] = (12, 16)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class logits, mask embeddings, pixels and labels; a third of the labels are 255."""
    torch.manual_seed(0)
    labels = torch.randint(0, K, (n, size[0] // 4, size[1] // 4)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, : size[0] // 3] = 255
    return (
        torch.randn(n, a, Q, K + 1, requires_grad=True),
        torch.randn(n, a, Q, D, requires_grad=True),
        torch.randn(n, D, size[0] // 2, size[1] // 2, requires_grad=True),
        labels.to(torch.uint8),
    )


def test_assignment_is_the_cheapest() -> None:
    torch.manual_seed(0)
    costs = torch.randn(2, 2, 5, 3).numpy()
    targets = [[0, 1, 2], [0, 2]]
    rows = assign(costs, np.array([[True, True, True], [True, False, True]]))
    for i, there in enumerate(targets):
        for j in range(2):
            found = {(q, t) for n, a, q, t in rows.tolist() if (n, a) == (i, j)}
            total = sum(costs[i, j, q, t] for q, t in found)
            orders = permutations(range(5), len(there))
            best = min(sum(costs[i, j, q, t] for t, q in zip(there, order, strict=True)) for order in orders)
            assert total == pytest.approx(best)
            assert sorted(t for _, t in found) == there


def test_costs_by_hand() -> None:
    """One query, one mask, three points."""
    logits, masks = torch.tensor([[[2.0, 0.0, 0.0]]]), torch.tensor([[[0.0, 1.0, -1.0]]])
    target = torch.tensor([[1.0, 1.0, 0.0]])
    of_class, entropy, dice = matching_costs(logits, masks, torch.tensor([0]), target)
    e = torch.e
    assert of_class.item() == pytest.approx(-(e**2) / (e**2 + 2))
    assert entropy.item() == pytest.approx((0.693147 + 0.313262 + 0.313262) / 3, abs=1e-5)
    p = [0.5, 0.731059, 0.268941]
    assert dice.item() == pytest.approx(1 - (2 * (p[0] + p[1]) + 1) / (sum(p) + 2 + 1), abs=1e-5)


def test_costs_are_the_losses_of_the_pair() -> None:
    torch.manual_seed(0)
    masks, target = torch.randn(1, Q, 20), torch.rand(3, 20)
    weights = (torch.rand(20) > 0.3).float()
    _, entropy, dice = matching_costs(torch.randn(1, Q, K + 1), masks, torch.arange(3), target, weights)
    for q in range(Q):
        for g in range(3):
            one = point_losses(masks[0, q : q + 1], target[g : g + 1], weights[None])
            assert entropy[0, q, g].item() == pytest.approx(one[0].item(), abs=1e-5)
            assert dice[0, q, g].item() == pytest.approx(one[1].item(), abs=1e-5)


def test_masks_at_points_equal_grid_sample() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 5, 7), dtype=torch.uint8)
    labels[0, 2:, 3:] = 255
    image, classes, points = torch.tensor([0, 1, 0]), torch.tensor([1, 2, 0]), torch.rand(3, 400, 2)
    got, known = sample_masks(labels, image, classes, points)
    masks = torch.stack([(labels[i] == k).float() for i, k in zip(image, classes, strict=True)])
    torch.testing.assert_close(got, point_sample(masks[:, None], points)[:, 0])
    ignored = point_sample((labels[image] == 255).float()[:, None], points)[:, 0]
    read = point_sample(torch.ones_like(masks)[:, None], points)[:, 0]
    assert torch.equal(known, 2 * ignored <= read)


def test_masks_of_one_map_at_the_same_points_are_read_at_once() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 5, 7), dtype=torch.uint8)
    labels[1, 2:, 3:] = 255
    one, classes, points = torch.tensor([1]), torch.arange(3), torch.rand(1, 50, 2)
    masks, known = sample_masks(labels, one, classes, points)
    each = [sample_masks(labels, one, classes[[k]], points) for k in range(3)]
    assert torch.equal(masks, torch.cat([own for own, _ in each]))
    assert all(torch.equal(known, own) for _, own in each)


def test_present_classes_and_how_many_can_be_matched() -> None:
    labels = torch.tensor([[[3, 3, 255, 0]], [[255, 255, 255, 255]]], dtype=torch.uint8)
    presence = class_presence(labels)
    assert presence.shape == (2, 255)
    assert [row.nonzero().flatten().tolist() for row in presence] == [[0, 3], []]
    assert count_masks(presence, queries=10).item() == 2
    assert count_masks(presence, queries=1).item() == 1


def test_labels_of_other_classes_are_refused() -> None:
    logits, embeddings, pixels, labels = batch()
    labels[1, 5, 5], labels[1, 6, 6] = K, 200
    with pytest.raises(InputError, match=r"expected label maps of train ids 0\.\.3 and 255 .*, came 4, 200; map raw"):
        MaskSetLoss(points=16)(logits, embeddings, pixels, labels)


@pytest.mark.parametrize(
    "options",
    [{}, {"spare_ignored": True, "class_weights": [1.0, 2.0, 3.0, 4.0]}, {"support": "merge"}, {"support": "weigh"}],
)
def test_the_host_waits_for_the_device_once(options: dict[str, Any]) -> None:
    """For all images and all predictions together, whatever the labels hold, backward included."""
    *given, labels = batch(n=3)
    labels[1] = 255
    with HostCopies() as copies:
        losses = MaskSetLoss(points=64, **options)(*given, labels, supported=torch.ones(3, K, dtype=torch.bool))
        torch.stack(list(losses.values())).sum().backward()
    assert copies.found == ["cpu"]


def test_equals_transformers_on_the_same_points(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    config = transformers.Mask2FormerConfig(num_labels=K, train_num_points=256, num_queries=Q)
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    theirs = Mask2FormerLoss(config, weights)
    logits, embeddings, pixels, labels = batch(a=1, size=(24, 32))
    labels = torch.where(labels == 255, 0, labels)
    # Both ask for matching points, candidates and further points, in this order: the same numbers for all.
    rand = torch.rand

    def draw(*shape: int, device: object = None) -> Tensor:
        return rand(*shape[-2:], generator=torch.Generator().manual_seed(shape[-2])).repeat(*shape[:-2], 1, 1)

    ours = MaskSetLoss(points=256, respect_ignore=False)(logits, embeddings, pixels, labels, draw=draw)
    monkeypatch.setattr(torch, "rand", draw)
    masks = torch.einsum("nqd,ndhw->nqhw", embeddings[:, 0], pixels)
    classes = [x.unique().long() for x in labels]
    targets = [torch.stack([(x == k).float() for k in found]) for x, found in zip(labels, classes, strict=True)]
    want = theirs(masks, logits[:, 0], targets, classes)
    assert ours["class"].item() == pytest.approx(want["loss_cross_entropy"].item(), rel=1e-5)
    assert ours["mask"].item() == pytest.approx(want["loss_mask"].item(), rel=1e-5)
    assert ours["dice"].item() == pytest.approx(want["loss_dice"].item(), rel=1e-5)


def test_sum_over_predictions() -> None:
    loss = MaskSetLoss(points=64)
    given = batch(a=3)

    def same(*shape: int, device: object = None) -> Tensor:
        """The same points for every mask, so that the number of masks does not matter."""
        return torch.rand(*shape[-2:], generator=torch.Generator().manual_seed(shape[-2])).expand(shape)

    together = loss(*given, draw=same)
    alone = [loss(given[0][:, [i]], given[1][:, [i]], *given[2:], draw=same) for i in range(3)]
    for name, value in together.items():
        assert value.item() == pytest.approx(sum(part[name].item() for part in alone), rel=1e-5)


def test_gradients_reach_everything_and_ignored_pixels_give_none() -> None:
    logits, embeddings, pixels, labels = batch(size=(24, 32))
    sum(MaskSetLoss(points=128)(logits, embeddings, pixels, labels).values()).backward()
    assert all(x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in (logits, embeddings, pixels))
    # The upper third of the frame is ignored: 4 of 12 rows of pixels, the last of them half read by labelled points.
    assert pixels.grad[:, :, :3].abs().max() == 0
    pixels.grad = None
    sum(MaskSetLoss(points=128, respect_ignore=False)(logits, embeddings, pixels, labels).values()).backward()
    assert pixels.grad[:, :, :3].abs().max() > 0


def test_without_labels_there_is_no_loss() -> None:
    logits, embeddings, pixels, labels = batch()
    losses = MaskSetLoss(points=16)(logits, embeddings, pixels, torch.full_like(labels, 255))
    assert [x.item() for x in losses.values()] == [0, 0, 0]
    sum(losses.values()).backward()
    assert logits.grad.abs().max() == 0


def test_an_unlabelled_image_changes_nothing_for_the_others() -> None:
    given = batch(n=2)
    labels = given[3].clone()
    labels[1] = 255

    def same(*shape: int, device: object = None) -> Tensor:
        return torch.rand(*shape[-2:], generator=torch.Generator().manual_seed(shape[-2])).expand(shape)

    both = MaskSetLoss(points=16)(*given[:3], labels, draw=same)
    alone = MaskSetLoss(points=16)(*(x[:1] for x in given[:3]), labels[:1], draw=same)
    for name in both:
        assert both[name].item() == pytest.approx(alone[name].item(), rel=1e-6)


def test_class_weights_of_another_number_of_classes_are_refused() -> None:
    for weights in ([1.0] * (K - 1), [1.0] * (K + 1)):
        with pytest.raises(InputError, match=f"expected {K} class weights, one per class, came {len(weights)}"):
            MaskSetLoss(points=16, class_weights=weights)(*batch())


def test_class_weights_and_no_object() -> None:
    logits, embeddings, pixels, labels = batch(a=1, n=1)
    loss = MaskSetLoss(points=16, no_object=0.2, class_weights=[1.0, 2.0, 3.0, 4.0])
    matches = loss.match(logits, embeddings, pixels, labels, class_presence(labels))
    target = torch.full((Q,), K)
    target[matches.query] = matches.klass
    want = F.cross_entropy(logits[0, 0], target, torch.tensor([1.0, 2.0, 3.0, 4.0, 0.2]))
    assert class_loss(loss, logits, matches, [True]).item() == pytest.approx(want.item(), rel=1e-6)


def test_class_weights_of_masks_by_hand() -> None:
    given, factors = batch(), torch.tensor([1.0, 2.0, 3.0, 4.0])
    logits, embeddings, pixels, labels = given
    loss = MaskSetLoss(points=16, class_weights=factors.tolist(), weigh_masks=True)
    torch.manual_seed(5)
    got = loss(*given)
    torch.manual_seed(5)
    presence = class_presence(labels)
    matches = loss.match(logits, embeddings, pixels, labels, presence)
    parts = loss.mask_losses(matches, embeddings, pixels, labels)
    for name, part in zip(("mask", "dice"), parts, strict=True):
        want = (part * factors[matches.klass]).sum() / count_masks(presence, Q)
        assert got[name].item() == pytest.approx(want.item(), rel=1e-6)
        assert got[name].item() != pytest.approx((part.sum() / count_masks(presence, Q)).item(), rel=1e-2)


# -- what is not known -------------------------------------------------------------------------------------------------


def no_match() -> Matches:
    return Matches(*(torch.empty(0, dtype=torch.long) for _ in range(4)), (0,))


def class_loss(loss: MaskSetLoss, logits: Tensor, matches: Matches, counted: list[bool], **options: Tensor) -> Tensor:
    losses, weights = loss.class_losses(logits, matches, torch.tensor(counted), **options)
    return (losses / weights.clamp(min=1e-30)).sum()


def test_share_of_a_mask_on_labelled_pixels_by_hand() -> None:
    """The left half of the frame is labelled; masks: left, right, everything, 3/4 left and 1/4 right."""
    labels = torch.zeros(1, 8, 16, dtype=torch.uint8)
    labels[..., 8:] = 255
    left, right = torch.zeros(2, 8, 16)
    left[:, :8], right[:, 8:] = 1, 1
    pixels = torch.stack([left, right])[None]  # D = 2
    queries = torch.tensor([[40.0, -40], [-40, 40], [40, 40], [1.0986123, -1.0986123]]).view(1, 1, 4, 2)
    torch.manual_seed(0)
    share = MaskSetLoss(points=20_000).known_share(queries, pixels, labels)
    torch.testing.assert_close(share, torch.tensor([[[1.0, 0.0, 0.5, 0.75]]]), atol=0.03, rtol=0)


def test_queries_on_ignored_pixels_are_spared() -> None:
    """Three queries without a mask; one lies on unknown ground alone and one by a half: -log of "no object"."""
    logits = torch.randn(1, 1, 3, K + 1)
    share = torch.tensor([[[1.0, 0.5, 0.0]]])
    got = class_loss(MaskSetLoss(no_object=0.1), logits, no_match(), [True], share=share)
    own = -logits.log_softmax(-1)[0, 0, :, K]
    assert got.item() == pytest.approx(((own[0] + 0.5 * own[1]) / 1.5).item(), rel=1e-6)
    assert class_loss(MaskSetLoss(), logits, no_match(), [True], share=0 * share).item() == 0


def test_matched_queries_are_never_spared() -> None:
    logits = torch.randn(1, 1, 3, K + 1)
    zero = torch.tensor([0])
    matches = Matches(zero, zero, zero, torch.tensor([2]), (1,))
    got = class_loss(MaskSetLoss(), logits, matches, [True], share=torch.zeros(1, 1, 3))
    assert got.item() == pytest.approx(-logits.log_softmax(-1)[0, 0, 0, 2].item(), rel=1e-6)


def test_sparing_reaches_the_whole_loss() -> None:
    """Where nothing is ignored it changes nothing; where much is, the class loss."""
    logits, embeddings, pixels, labels = batch(size=(24, 32))

    def loss(spare: bool, labels: Tensor) -> dict[str, float]:
        torch.manual_seed(1)
        found = MaskSetLoss(points=64, spare_ignored=spare)(logits, embeddings, pixels, labels)
        return {name: value.item() for name, value in found.items()}

    full = torch.where(labels == 255, 0, labels)
    assert loss(True, full) == pytest.approx(loss(False, full))
    plain, spared = loss(False, labels), loss(True, labels)
    assert (plain["mask"], plain["dice"]) == (spared["mask"], spared["dice"])
    assert abs(plain["class"] - spared["class"]) > 1e-3


def test_classes_that_the_labels_do_not_know_count_as_no_object() -> None:
    """Two images of the same predictions; the second one's labels know classes 0 and 1 of 4."""
    logits = torch.randn(1, 2, 3, K + 1).expand(2, -1, -1, -1)
    supported = torch.tensor([[True] * 4, [True, True, False, False]])
    p = logits[0].softmax(-1)
    plain, merged = -p[..., K].log(), -(p[..., K] + p[..., 2] + p[..., 3]).log()
    everything = class_loss(MaskSetLoss(support="merge"), logits, no_match(), [True, True], supported=supported)
    assert everything.item() == pytest.approx((plain.mean(1) + merged.mean(1)).sum().item() / 2, rel=1e-6)
    weighed = class_loss(MaskSetLoss(support="weigh"), logits, no_match(), [True, True], supported=supported)
    assert weighed.item() == pytest.approx(plain.mean(1).sum().item(), rel=1e-6)  # one divisor for equal images
    only = class_loss(MaskSetLoss(support="weigh"), logits[:1], no_match(), [True], supported=supported[1:])
    assert only.item() == pytest.approx(plain.mean(1).sum().item(), rel=1e-6)
    off = class_loss(MaskSetLoss(), logits, no_match(), [True, True], supported=supported)
    assert off.item() == pytest.approx(plain.mean(1).sum().item(), rel=1e-6)


def test_weight_of_no_object_beside_a_match_falls_with_the_known_classes() -> None:
    """One matched query of weight 1, two unmatched ones of weight 0.1 * 2 / 4."""
    logits = torch.randn(1, 1, 3, K + 1)
    zero = torch.tensor([0])
    matches = Matches(zero, zero, zero, zero, (1,))
    supported = torch.tensor([[True, True, False, False]])
    got = class_loss(MaskSetLoss(support="weigh"), logits, matches, [True], supported=supported)
    own = -logits.log_softmax(-1)[0, 0]
    want = (own[0, 0] + 0.05 * (own[1, K] + own[2, K])) / 1.1
    assert got.item() == pytest.approx(want.item(), rel=1e-6)


def test_hard_points_are_mostly_near_the_border_of_the_mask() -> None:
    torch.manual_seed(0)
    mask = (torch.arange(32.0) - 15.5).expand(1, 1, 32, 32)  # undecided at x = 0.5
    points = MaskSetLoss(points=100, importance=0.75).hard_points(mask)
    assert points.shape == (1, 100, 2)
    distance = (points[0, :, 0] - 0.5).abs()
    assert distance[:75].max() < 0.2  # 75 nearest of 300 uniform points: a quarter of the width, half to each side
    assert distance[75:].max() > 0.3


def test_more_classes_than_queries() -> None:
    logits, embeddings, pixels, labels = batch(n=1)
    few = MaskSetLoss(points=16)(logits[:, :, :1], embeddings[:, :, :1], pixels, labels)
    assert all(x.isfinite() for x in few.values())


def test_half_precision_is_computed_in_float32() -> None:
    given = [x.detach().bfloat16() if x.is_floating_point() else x for x in batch()]
    with torch.autocast("cpu", torch.bfloat16):
        losses = MaskSetLoss(points=16)(*given)
    assert {x.dtype for x in losses.values()} == {torch.float32}
