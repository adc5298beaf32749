"""Running statistics that a batch leaves alone, while it is normalised by its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everyframe.semi.statistics import unrecorded_statistics


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_is_normalised_by_itself_and_not_recorded(momentum: float | None) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum), nn.Dropout(0.0)).train()
    model(torch.randn(4, 3, 5, 5) + 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(4, 3, 5, 5) * 7 - 3
    with unrecorded_statistics(model):
        y = model(x)
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    torch.testing.assert_close(y, (x - mean) / (variance + 1e-5).sqrt())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    model(x)
    assert not torch.equal(model[0].running_mean, before["0.running_mean"])
    assert model[0].num_batches_tracked == 2


def test_what_is_not_finite_is_not_recorded_either() -> None:
    model = nn.BatchNorm2d(2).train()
    model(torch.randn(4, 2, 3, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with unrecorded_statistics(model):
        model(torch.full((2, 2, 3, 3), torch.inf))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_statistics_come_back_after_an_error() -> None:
    model = nn.BatchNorm2d(2, momentum=0.3)
    with pytest.raises(ZeroDivisionError), unrecorded_statistics(model):
        raise ZeroDivisionError
    assert model.momentum == 0.3
