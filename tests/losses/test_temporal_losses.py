"""Losses between frames and between student and teacher, by hand and by loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.losses.temporal import (
    MultiFrameDistillation,
    knowledge_distillation,
    motion_loss,
    pair_distillation,
    photometric_mask,
    self_similarity,
    similarity,
)


def test_mask_by_hand() -> None:
    image = torch.zeros(1, 3, 1, 2)
    warped = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.5, 0.0]]).view(1, 3, 1, 2)
    torch.testing.assert_close(photometric_mask(image, warped).flatten(), torch.tensor([math.exp(-2.5), 1.0]))
    # In the published form +1 and -1 cancel.
    torch.testing.assert_close(photometric_mask(image, warped, "vspw").flatten(), torch.tensor([math.exp(-0.5), 1.0]))


def test_motion_loss_by_hand() -> None:
    now, before = torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([[[[3.0, 1.0]]]])
    mask = torch.tensor([[[[0.5, 0.0]]]])
    torch.testing.assert_close(motion_loss(now, before, mask), torch.tensor((0.5 * 2.0) ** 2 / 2))
    assert motion_loss(now, now, mask) == 0


def test_distillation_is_the_divergence_over_all_elements() -> None:
    student, teacher = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    p, q = (student / 3).softmax(1), (teacher / 3).softmax(1)
    torch.testing.assert_close(knowledge_distillation(student, teacher, 3.0), (q * (q / p).log()).mean())
    assert knowledge_distillation(teacher, teacher).abs() < 1e-7


def test_distillation_resizes_the_student_and_trains_it_alone() -> None:
    student = torch.randn(1, 3, 2, 4, requires_grad=True)
    teacher = torch.randn(1, 3, 4, 8, requires_grad=True)
    knowledge_distillation(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def loops(first: Tensor, second: Tensor, swapped: bool) -> Tensor:
    a, b = first.flatten(1), second.flatten(1)
    out = torch.zeros(a.shape[1], b.shape[1])
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            lengths = a[:, j].norm() * b[:, i].norm() if swapped else a[:, i].norm() * b[:, j].norm()
            out[i, j] = a[:, i] @ b[:, j] / lengths
    return out


@pytest.mark.parametrize("form", ["cosine", "etc"])
def test_similarity_equals_loops(form: str) -> None:
    first, second = torch.randn(2, 3, 2, 3), torch.randn(2, 3, 2, 3)
    want = torch.stack([loops(a, b, form == "etc") for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(similarity(first, second, form), want)


def test_teacher_may_be_wider_and_any_rotation_of_its_channels_is_as_good() -> None:
    student = (torch.randn(1, 4, 2, 3), torch.randn(1, 4, 2, 3))
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    teacher = tuple(torch.einsum("dc,nchw->ndhw", rotation[:, :4], x) for x in student)
    assert pair_distillation(student, teacher) < 1e-12
    torch.testing.assert_close(self_similarity(student[0], 1), self_similarity(teacher[0], 1))
    assert pair_distillation(student, teacher[::-1]) > 1e-3


def test_self_similarity_pools_first() -> None:
    x = torch.randn(1, 4, 4, 6)
    pooled = F.avg_pool2d(x, 2)
    torch.testing.assert_close(self_similarity(x, 2), similarity(pooled, pooled))
    torch.testing.assert_close(self_similarity(x[..., :1, :1], 16), torch.ones(1, 1, 1))  # smaller than the pool


@pytest.mark.parametrize("form", ["cosine", "etc"])
def test_similarity_is_float32_under_autocast(form: str) -> None:
    first, second = torch.randn(1, 64, 3, 4), torch.randn(1, 64, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        got = similarity(first, second, form)
    assert torch.equal(got, similarity(first, second, form))


def test_multi_frame_loss_sees_order_and_trains_student_and_lstm() -> None:
    compare = MultiFrameDistillation(pool=2)
    frames = [torch.randn(2, 4, 4, 6, requires_grad=True) for _ in range(3)]
    assert compare(frames, [x.detach() for x in frames]) == 0
    loss = compare(frames, [x.detach() for x in reversed(frames)])
    loss.backward()
    assert loss > 0
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in frames)
    assert all(p.grad is not None for p in compare.parameters())


def test_multi_frame_loss_is_float32_under_autocast() -> None:
    """What it compares are small differences of cosines: in bfloat16 they are rounding."""
    student = [torch.randn(1, 6, 4, 4) for _ in range(2)]
    teacher = [x + 0.01 * torch.randn_like(x) for x in student]
    loss = MultiFrameDistillation(pool=2)
    want = loss(student, teacher).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(student, teacher).item() == want


def test_distillation_of_half_logits_resizes_them_in_float32() -> None:
    student, teacher = torch.randn(1, 3, 3, 4).bfloat16(), torch.randn(1, 3, 6, 8)
    assert knowledge_distillation(student, teacher).item() == knowledge_distillation(student.float(), teacher).item()


def test_conv_lstm_by_its_equations() -> None:
    compare = MultiFrameDistillation(hidden=1, pool=1)
    with torch.no_grad():
        compare.gates.weight.zero_()
        compare.gates.weight[:, 0, 1, 1] = torch.tensor([0.1, 0.2, 0.3, 0.4])  # keep, write, candidate, show
        compare.gates.weight[:, 1, 1, 1] = torch.tensor([0.5, 0.6, 0.7, 0.8])
        compare.gates.bias.zero_()
        h, c = compare.encode([torch.ones(1, 2, 1, 1)] * 2)  # one cell: its self-similarity is 1
    want_h = want_c = torch.zeros(())
    for _ in range(2):
        keep, write, candidate, show = (a + b * want_h for a, b in ((0.1, 0.5), (0.2, 0.6), (0.3, 0.7), (0.4, 0.8)))
        want_c = keep.sigmoid() * want_c + write.sigmoid() * candidate.tanh()
        want_h = show.sigmoid() * want_c.tanh()
    torch.testing.assert_close((h.squeeze(), c.squeeze()), (want_h, want_c))
