"""Label relaxation and edges: against loops over pixels, by hand, and what ignored pixels do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.losses.boundary import (
    at_edges,
    edge_loss,
    edge_map,
    neighbour_classes,
    relaxed_cross_entropy,
    relaxed_pixels,
)
from everyframe.losses.pixel import class_counts, cross_entropy, frequency_weights


def scene(size: tuple[int, int] = (9, 11), classes: int = 4, batch: int = 2) -> Tensor:
    """Blocks of classes with an ignored corner."""
    torch.manual_seed(3)
    labels = torch.randint(0, classes, (batch, 3, 4)).repeat_interleave(3, 1).repeat_interleave(3, 2)
    labels = labels[:, : size[0], : size[1]].to(torch.uint8).contiguous()
    labels[:, :2, :3] = 255
    return labels


def square(labels: Tensor, n: int, y: int, x: int, border: int) -> set[int]:
    """Labels of the square around a pixel; 255 stands for outside too."""
    h, w = labels.shape[-2:]
    spots = [(y + dy, x + dx) for dy in range(-border, border + 1) for dx in range(-border, border + 1)]
    return {int(labels[n, i, j]) if 0 <= i < h and 0 <= j < w else 255 for i, j in spots}


@pytest.mark.parametrize("border", [0, 1, 2])
@pytest.mark.parametrize("strict", [(), (2,)])
def test_neighbour_classes_by_a_loop(border: int, strict: tuple[int, ...]) -> None:
    labels = scene()
    sets = neighbour_classes(labels, 4, border, strict)
    for n in range(2):
        for y in range(9):
            for x in range(11):
                own = int(labels[n, y, x])
                want = {own} if own in strict else square(labels, n, y, x, border)
                got = {255 if k == 4 else k for k in sets[n, :, y, x].nonzero().flatten().tolist()}
                assert got == want


def test_without_border_it_is_cross_entropy() -> None:
    labels, logits = scene(), torch.randn(2, 4, 5, 6)
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    first, second = relaxed_cross_entropy(a, labels, border=0), cross_entropy(b, labels)
    torch.testing.assert_close(first, second)
    first.backward()
    second.backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_loss_by_a_loop_with_class_weights() -> None:
    labels, logits = scene(), torch.randn(2, 4, 9, 11, dtype=torch.float64)
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    p = logits.softmax(1)
    total, count = 0.0, 0
    for n in range(2):
        for y in range(9):
            for x in range(11):
                if labels[n, y, x] == 255:
                    continue
                inside = sorted(square(labels, n, y, x, 1) - {255})
                factor = sum(float(weights[k]) for k in inside) / len(inside)
                total -= factor * math.log(sum(float(p[n, k, y, x]) for k in inside))
                count += 1
    got = relaxed_cross_entropy(logits, labels, class_weights=weights)
    assert got.item() == pytest.approx(total / count, rel=1e-5)


def test_two_neighbours_may_be_either() -> None:
    labels = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    logits = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    p = torch.tensor([1.0, 2.0, 3.0]).softmax(0)
    assert relaxed_cross_entropy(logits, labels).item() == pytest.approx(-math.log(p[0] + p[1]), rel=1e-5)
    strict = relaxed_cross_entropy(logits, labels, strict=(0,))
    assert strict.item() == pytest.approx(-(math.log(p[0]) + math.log(p[0] + p[1])) / 2, rel=1e-5)


def test_ignored_pixels_have_no_gradient_unless_asked_for() -> None:
    labels, logits = scene(), torch.randn(2, 4, 9, 11, requires_grad=True)
    (gradient,) = torch.autograd.grad(relaxed_cross_entropy(logits, labels), logits)
    assert not gradient.movedim(1, -1)[labels == 255].any()
    assert gradient.movedim(1, -1)[labels != 255].abs().sum() > 0
    (gradient,) = torch.autograd.grad(relaxed_cross_entropy(logits, labels, void_borders=True), logits)
    counted = relaxed_pixels(labels)
    assert not gradient.movedim(1, -1)[~counted].any()
    assert gradient.movedim(1, -1)[counted & (labels == 255)].abs().sum() > 0
    assert counted[:, 1, 2].all()
    assert not counted[:, 0, 0].any()


def test_nothing_labelled_costs_nothing() -> None:
    labels, logits = torch.full((1, 5, 6), 255, dtype=torch.uint8), torch.randn(1, 3, 5, 6, requires_grad=True)
    edge_logits = torch.randn(1, 1, 5, 6, requires_grad=True)
    for loss, x in (
        (relaxed_cross_entropy(logits, labels), logits),
        (relaxed_cross_entropy(logits, labels, void_borders=True), logits),
        (edge_loss(edge_logits, edge_map(labels)), edge_logits),
    ):
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, x)[0].any()


def test_frequency_weights_by_hand() -> None:
    labels = torch.tensor([[[0, 0, 0, 1, 255]]], dtype=torch.uint8)
    counts = class_counts(labels, 3)
    assert counts.tolist() == [3, 1, 0]
    assert frequency_weights(counts).tolist() == [1.25, 1.75, 1.0]
    assert frequency_weights(counts, bound=2).tolist() == [1.5, 2.5, 1.0]
    assert frequency_weights(counts, inverse=True).tolist() == pytest.approx([1 + 4 / 3, 5.0, 1.0])


# -- edges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_edges_by_a_loop(radius: int) -> None:
    labels = scene((8, 11))
    got = edge_map(labels, radius)
    h, w = labels.shape[-2:]
    for n in range(2):
        for y in range(h):
            for x in range(w):
                own = int(labels[n, y, x])
                near = [int(labels[n, i, j]) for i in range(h) for j in range(w) if math.dist((i, j), (y, x)) <= radius]
                want = 255 if own == 255 else int(any(other not in (own, 255) for other in near))
                assert got[n, y, x] == want


def test_edges_of_maps_smaller_than_the_radius() -> None:
    assert edge_map(torch.tensor([[[0]]], dtype=torch.uint8)).tolist() == [[[0]]]
    assert edge_map(torch.tensor([[[0, 1]]], dtype=torch.uint8)).tolist() == [[[1, 1]]]
    assert edge_map(torch.tensor([[[0], [0], [1], [1], [1]]], dtype=torch.uint8)).flatten().tolist() == [1, 1, 1, 1, 0]


def test_edge_loss_is_balanced() -> None:
    edges = torch.tensor([[[1, 0, 0, 0, 255]]], dtype=torch.uint8)
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0, 9.0]).view(1, 1, 1, 5)
    losses = F.softplus(torch.tensor([-0.5, -1.0, 2.0, 0.0]))  # log(1 + exp(-x)) at edges, log(1 + exp(x)) elsewhere
    want = (0.75 * losses[0] + 0.25 * losses[1:].sum()) / 4
    torch.testing.assert_close(edge_loss(logits, edges), want)


def test_labels_at_edges() -> None:
    labels = torch.tensor([[[3, 4, 255]]], dtype=torch.uint8)
    kept = at_edges(labels, torch.tensor([0.9, 0.7, 0.9]).view(1, 1, 1, 3))
    assert kept.tolist() == [[[3, 255, 255]]]
    assert kept.dtype == torch.uint8
