"""NetWarp: it starts as the per-frame model, follows a known motion, and keeps flow out of its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.flow import FlowPair, batch_flow
from everyframe.frames import Role
from everyframe.labels import LabelSpace
from everyframe.models.cost import count_parameters
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.temporal.base import Features
from everyframe.models.temporal.netwarp import FlowCNN, NetWarp, Previous
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("a", "b"))


class Shift:
    """Everything has moved by whole pixels (x, y) since the previous frame."""

    def __init__(self, x: float, y: float) -> None:
        self.motion = torch.tensor([x, y])

    def between(self, first: Tensor, second: Tensor) -> FlowPair:
        assert first.dtype == torch.uint8
        return FlowPair(-self.motion.view(2, 1, 1).expand(2, *first.shape[-2:]).contiguous().numpy())


def test_untrained_it_is_the_per_frame_model() -> None:
    torch.manual_seed(1)
    model = create_model("netwarp-ocr-tiny", SPACE).eval()
    plain = create_model("ocr-tiny", SPACE).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("temporal.")})
    clip = torch.randint(0, 256, (1, 3, 3, 40, 48), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model(clip).logits, plain(clip).logits)


def test_untrained_flow_cnn_hands_the_flow_on() -> None:
    cnn = FlowCNN().eval()
    with torch.no_grad():
        cnn.convs[2].weight.zero_()
        flow = torch.randn(1, 2, 9, 11)
        images = torch.rand(2, 1, 3, 9, 11) * 255
        torch.testing.assert_close(cnn(flow, *images), flow)
        assert (FlowCNN("vspw").eval()(flow, *images) >= 0).all()


def test_long_displacements_survive_autocast() -> None:
    """bfloat16 knows 100 and 100.5, nothing between."""
    cnn = FlowCNN().eval()
    flow, images = torch.full((1, 2, 9, 11), 100.3), torch.rand(2, 1, 3, 9, 11) * 255
    with torch.no_grad():
        want = cnn(flow, *images)
        with torch.autocast("cpu", torch.bfloat16):
            got = cnn(flow, *images)
    assert (got - want).abs().max() < 0.05


@pytest.mark.parametrize("place", ["coarse", "late"])
def test_features_of_the_previous_frame_come_along_the_flow(place: str) -> None:
    """All weight on the past at one place, exact flow of 8 pixels: the map is the previous one, two cells further."""
    head = FCNHead((5,), (4,), 2, width=5, num_convs=0, concat_input=False).eval()
    temporal = NetWarp(head, 5, flow=Shift(8, 4), cut_threshold=2).eval()
    with torch.no_grad():
        temporal.flow_cnn.convs[2].weight.zero_()
        weights = temporal.coarse_weights if place == "coarse" else temporal.late_weights
        weights.copy_(torch.tensor([[0.0], [1.0]]).expand(2, 5))
    before, now = torch.randn(1, 5, 6, 8), torch.randn(1, 5, 6, 8)
    image = torch.randint(0, 256, (1, 3, 24, 32), dtype=torch.uint8)
    with torch.no_grad():
        memory = Previous((before,), image + 1)
        embedding, kept = temporal(Features((now,), {}, image), memory, head)
    torch.testing.assert_close(embedding["pixels"][..., 1:, 2:], before[..., :-1, :-2])
    assert torch.equal(kept.maps[0], now)  # raw features are kept, nothing accumulates


def test_late_maps_need_no_auxiliary_head() -> None:
    """It runs once in training, on all frames of the clip; a late map of either frame would run it again."""
    model = create_model("netwarp-fcn-tiny", SPACE)
    runs: list[int] = []
    model.head.auxiliary.register_forward_hook(lambda module, given, logits: runs.append(len(logits)))
    model(torch.randint(0, 256, (2, 2, 3, 40, 48), dtype=torch.uint8), (Role.ADJACENT, Role.QUERY))
    assert runs == [4]


def test_published_form_neither_scales_nor_interpolates_the_flow() -> None:
    head = FCNHead((1,), (4,), 2, width=1, num_convs=0, concat_input=False)
    temporal = NetWarp(head, 1, form="vspw")
    x = torch.arange(48.0).view(1, 1, 6, 8)
    flow = torch.full((1, 2, 24, 32), 1.0)  # a quarter cell, taken for one
    weights = torch.tensor([[0.0], [1.0]])
    got = temporal.blend(weights, x, x, flow)
    torch.testing.assert_close(got[0, 0, 2, 3], torch.tensor(8 * (3 / 5 * 6 - 0.5) + (4 / 7 * 8 - 0.5)))


def test_first_frame_stands_in_for_its_predecessor() -> None:
    model = create_model("netwarp-psp-tiny", SPACE).eval()
    with torch.no_grad():
        model.temporal.late_weights.fill_(0.5)
        frame = torch.randint(0, 256, (1, 3, 40, 48), dtype=torch.uint8)
        first, state = model.step(frame)
        second, _ = model.step(frame, state)  # nothing moved
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_flow_is_no_part_of_the_weights() -> None:
    one, two = (create_model("netwarp-ocr-tiny", SPACE, temporal={"flow": flow}) for flow in ("dis", "raft"))
    assert one.state_dict().keys() == two.state_dict().keys()
    assert not any("flow" in name and "flow_cnn" not in name for name in one.state_dict())
    copy.deepcopy(one)  # a teacher is one
    with torch.device("meta"):
        space = LabelSpace(tuple(str(k) for k in range(124)))
        netwarp, ocr = (create_model(f"{name}-swin-small", space) for name in ("netwarp-ocr", "ocr"))
    extra = count_parameters(netwarp) - count_parameters(ocr)
    convolutions = 9 * (11 * 16 + 16 * 32 + 32 * 2 + 4 * 2) + 2
    assert extra == convolutions + 2 * (16 + 32) + 2 * (768 + 512)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="expected form to be one of corrected, vspw, came 'x'"):
        create_model("netwarp-ocr-tiny", SPACE, temporal={"form": "x"})
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(InputError, match=r"expected dis, raft or raft:WEIGHTS\.pth, .* came 'pwc'"):
        batch_flow("pwc", image, image)


def test_batch_flow_takes_pairs_one_by_one_at_any_size() -> None:
    for size in ((5, 9), (40, 56)):
        frames = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        flow = batch_flow("dis", frames, frames)
        assert flow.shape == (2, 2, *size)
        assert flow.abs().max() < 1e-3
