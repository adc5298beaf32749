"""Counted cost against arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everyframe.labels import LabelSpace
from everyframe.models.cost import count_macs, count_parameters, model_cost
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import SYSTEMS, create_model
from everyframe.training.recipe import read_recipe


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


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_counted_and_left_as_it_was(system: str) -> None:
    with torch.device("meta"):
        model = create_model(f"{system}-tiny", LabelSpace(("a", "b")))
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert count_macs(model, (64, 96)) > count_macs(model, (64, 64)) > 0
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trainable


PUBLISHED = {
    "deeplab": 59.5, "uper": 58.1, "psp": 64.1, "ocr": 55.5, "segmenter": 57.8,
    "etc-ocr": 55.5, "netwarp-ocr": 55.5, "tcb-ocr": 55.5, "tcb-ocr-memory": 55.5, "ssltm": 59.3,
}  # fmt: skip
"""Millions of parameters on Swin-S with 124 classes (SSLTM, CVPR 2023, supplement, table 1)."""


@pytest.mark.parametrize("system", PUBLISHED)
def test_published_parameters_on_swin_small(system: str) -> None:
    with torch.device("meta"):
        model = create_model(f"{system}-swin-small", LabelSpace(tuple(str(k) for k in range(124))))
    assert round(count_parameters(model) / 1e6, 1) == PUBLISHED[system]


ON_RESNET_101 = {
    "psp": 70.545, "ocr": 58.097, "uper": 83.201, "deeplab": 59.495, "segmenter": 52.562, "ssltm": 61.929,
    "etc-ocr": 58.097, "tcb-ocr": 58.097,
}  # fmt: skip
"""Millions of parameters of the VSPW code's modules on its ResNet-101, whose stem has 64, 64 and 128 channels."""


@pytest.mark.parametrize("system", ON_RESNET_101)
def test_recipes_on_resnet_101_have_the_sizes_of_the_vspw_code(system: str) -> None:
    given = read_recipe(f"{system}-resnet101")["model"]
    with torch.device("meta"):
        model = create_model(given["name"], LabelSpace(tuple(map(str, range(124)))), head=given.get("head"))
    assert round(count_parameters(model) / 1e6, 3) == ON_RESNET_101[system]


def test_published_totals_on_swin_small() -> None:
    psp, ocr, ssltm = (model_cost(f"{name}-swin-small") for name in ("psp", "ocr", "ssltm"))
    assert psp.params == 64_141_314
    assert ocr.params == 55_460_994
    # The backbone alone takes 154 GFLOP (77 GMAC) a frame.
    assert 77e9 < ocr.macs < 90e9
    assert ocr.macs < ssltm.macs < 1.1 * ocr.macs  # on a stream every frame is encoded once
    assert psp.to_dict()["params_m"] == 64.141


def test_streaming_gru_costs_little() -> None:
    plain, gru = (model_cost(name).macs for name in ("ocr-swin-small", "ocr-gru-swin-small"))
    assert plain < gru < 1.05 * plain
