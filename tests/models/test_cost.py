"""Counted cost against arithmetic."""

from __future__ import annotations

import torch
from torch import nn

from everyframe.labels import LabelSpace
from everyframe.models.cost import count_macs, count_parameters, model_cost
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.segmenter import Segmenter


class Patches(nn.Module):
    """One 4x4 convolution of stride 4: 3 * 16 * 5 multiply-accumulates a cell."""

    channels, strides = (5,), (4,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 4, 4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(x)]


def test_count_by_hand() -> None:
    head = FCNHead((5,), (4,), 2, width=5, num_convs=0, concat_input=False)
    model = Segmenter(Patches(), head, LabelSpace(("a", "b"))).train()
    assert count_parameters(model) == (3 * 16 * 5 + 5) + (5 * 2 + 2)
    assert count_macs(model, (8, 12)) == 6 * (3 * 16 * 5 + 5 * 2)
    assert model.training


def test_published_totals_on_swin_small() -> None:
    psp, ocr = (model_cost(f"{head}-swin-small") for head in ("psp", "ocr"))
    assert psp.params == 64_141_314
    assert ocr.params == 55_460_994
    # The backbone alone takes 154 GFLOP (77 GMAC) a frame.
    assert 77e9 < ocr.macs < 90e9
    assert psp.to_dict()["params_m"] == 64.141


def test_streaming_gru_costs_little() -> None:
    plain, gru = (model_cost(name).macs for name in ("ocr-swin-small", "ocr-gru-swin-small"))
    assert plain < gru < 1.05 * plain
