"""The teacher against the closed form of its average."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from everyframe.semi.teacher import Teacher, teacher_momentum


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))


def test_momentum_is_a_plain_mean_until_the_limit() -> None:
    assert [teacher_momentum(t) for t in (0, 1, 2, 3)] == pytest.approx([0, 1 / 2, 2 / 3, 3 / 4])
    assert teacher_momentum(998) == pytest.approx(998 / 999)
    assert teacher_momentum(999) == teacher_momentum(10**6) == 0.999
    assert teacher_momentum(10, limit=0.5) == 0.5


def test_teacher_is_the_mean_of_all_students_then_decays() -> None:
    """With limit 3/4 and students w_0, w_1, ...: the mean of the first four, then 3/4 old + 1/4 new."""
    model = student()
    teacher = Teacher(model, momentum=0.75)
    weights = torch.randn(6, 2, 3)
    seen = []
    for step, weight in enumerate(weights):
        model[0].weight.data = weight
        teacher.update(model, step)
        seen.append(teacher.model[0].weight.clone())
    torch.testing.assert_close(seen[0], weights[0], rtol=0, atol=0)  # nothing of the initial weights is left
    torch.testing.assert_close(seen[3], weights[:4].mean(0))
    torch.testing.assert_close(seen[4], 0.75 * weights[:4].mean(0) + 0.25 * weights[4])
    torch.testing.assert_close(seen[5], 0.5625 * weights[:4].mean(0) + 0.1875 * weights[4] + 0.25 * weights[5])


def test_limit_of_a_constant_student_is_the_student() -> None:
    """After n updates at momentum a the distance is a^n of what it was."""
    model = student()
    teacher = Teacher(model, momentum=0.9)
    start = model[0].bias.detach().clone()
    model[0].bias.data += 1.0
    for _ in range(20):
        teacher.update(model, step=1000)
    torch.testing.assert_close(teacher.model[0].bias - start, torch.full((2,), 1 - 0.9**20))


def test_running_statistics_are_copied() -> None:
    model = student()
    teacher = Teacher(model)
    model(torch.randn(8, 3) + 5)
    teacher.update(model, step=500)
    torch.testing.assert_close(teacher.model[1].running_mean, model[1].running_mean, rtol=0, atol=0)
    assert teacher.model[1].num_batches_tracked == 1
    assert teacher.model[1].running_mean is not model[1].running_mean


def test_always_in_eval_mode_and_without_gradient() -> None:
    model = student().train()
    around = nn.ModuleDict({"student": model, "teacher": Teacher(model)})
    around.train()
    assert model.training
    assert not any(module.training for module in around["teacher"].modules())
    assert not any(p.requires_grad for p in around["teacher"].parameters())
    assert all(p.requires_grad for p in model.parameters())
    x = torch.randn(4, 3)
    (model(x) - around["teacher"].model(x)).square().sum().backward()
    assert all(p.grad is None for p in around["teacher"].parameters())
    before = copy.deepcopy(model.state_dict())
    around["teacher"].update(model, step=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Slots(nn.Module):
    """Fills up slot by slot, as category prototypes do."""

    copied_by_teacher = True

    def __init__(self) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.zeros(3, 2))


def test_modules_that_fill_up_are_copied_not_averaged() -> None:
    model = nn.Sequential(Slots(), nn.Linear(2, 2))
    teacher = Teacher(model)
    model[0].slots.data[1] = 4.0
    model[1].weight.data += 1.0
    teacher.update(model, step=10_000)
    assert torch.equal(teacher.model[0].slots, model[0].slots)
    assert not torch.equal(teacher.model[1].weight, model[1].weight)


def test_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    model = student()
    teacher = Teacher(model)
    model[0].weight.data += 1
    teacher.update(model, step=5)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    other = Teacher(student())
    other.load_state_dict(torch.load(tmp_path / "teacher.pt", weights_only=True))
    for a, b in zip(teacher.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)
