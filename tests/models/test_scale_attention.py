"""Multi-scale attention: its formulas by hand, what one scale gives, training on two scales and running on three."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everyframe.labels import LabelSpace
from everyframe.models.cost import count_parameters
from everyframe.models.heads.base import Head
from everyframe.models.heads.scale_attention import ScaleAttention, fuse, hmsa
from everyframe.models.ops.resize import resize
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.gru import ConvGRU
from everyframe.models.zoo import HEADS, create_model

SPACE = LabelSpace(("a", "b", "c"))


def model_of(head: str = "ocr", gru: bool = False, **options: object) -> Segmenter:
    torch.manual_seed(4)
    plain = create_model(f"{head}-tiny", SPACE)
    body = plain.backbone
    top = hmsa(HEADS[head], body.channels, body.strides, len(SPACE), width=32, **options)
    return Segmenter(body, top, SPACE, ConvGRU(top.channels, hidden=8) if gru else None)


def cell(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value)


def test_scales_are_laid_over_each_other_by_hand() -> None:
    values = {0.5: cell(1.0), 1.0: cell(10.0), 2.0: cell(100.0)}
    two = fuse({s: values[s] for s in (0.5, 1.0)}, {0.5: cell(0.3)})
    assert two.item() == pytest.approx(0.3 * 1 + 0.7 * 10)
    three = fuse(values, {1.0: cell(0.2), 0.5: cell(0.3)})
    assert three.item() == pytest.approx(0.3 * 1 + 0.7 * (0.2 * 10 + 0.8 * 100))


def test_sizes_between_scales() -> None:
    """The larger one comes down to scale 1; the product of the smaller one with its attention goes up."""
    torch.manual_seed(0)
    values = {0.5: torch.randn(2, 3, 4, 5), 1.0: torch.randn(2, 3, 7, 9), 2.0: torch.randn(2, 3, 14, 18)}
    attention = {0.5: torch.rand(2, 1, 4, 5), 1.0: torch.rand(2, 1, 7, 9)}
    first = attention[1.0] * values[1.0] + (1 - attention[1.0]) * resize(values[2.0], (7, 9))
    share = resize(attention[0.5], (7, 9))
    want = resize(attention[0.5] * values[0.5], (7, 9)) + (1 - share) * first
    torch.testing.assert_close(fuse(values, attention), want)


def test_one_scale_is_the_head_itself() -> None:
    model = model_of(test_scales=(1.0,)).eval()
    head: ScaleAttention = model.head
    frame = torch.randint(0, 256, (1, 3, 45, 67), dtype=torch.uint8)
    with torch.no_grad():
        alone = Segmenter(model.backbone, head.head, SPACE).eval().step(frame)[0]
        torch.testing.assert_close(model.step(frame)[0], alone)
        both = model.head.embed(model.backbone((frame - model.mean) / model.std))
        torch.testing.assert_close(head.predict(both)["logits"], alone)


@pytest.mark.parametrize("name", ["ocr", "psp", "uper", "segmenter"])
def test_trains_on_two_scales_and_runs_on_three(name: str) -> None:
    model = model_of(name, test_scales=(0.5, 1.0, 2.0)).train()
    clip = torch.randint(0, 256, (2, 1, 3, 46, 61), dtype=torch.uint8)
    prediction = model(clip)
    own = {key: value[:, 0] for key, value in prediction.outputs.items()}
    assert set(own) == {"logits", "logits@1", "logits@0.5"}
    h, w = (-(-side // model.head.stride) for side in (46, 61))
    assert own["logits"].shape == own["logits@1"].shape == (2, 3, h, w)
    cost = own["logits"].square().sum()
    if prediction.auxiliary is not None:
        cost = cost + prediction.auxiliary.square().sum()
    cost.backward()
    assert [n for n, p in model.head.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        logits, _ = model.eval().step(clip[:, 0])
        model.head.test_scales = (1.0,)
        other, _ = model.step(clip[:, 0])
    assert logits.shape == other.shape == (2, 3, h, w)
    assert not torch.allclose(logits, other)


def test_attention_of_zero_and_one_choose_a_scale() -> None:
    model = model_of().train()
    clip = torch.randint(0, 256, (2, 1, 3, 48, 64), dtype=torch.uint8)
    head: ScaleAttention = model.head
    for value, scale in ((-100.0, "logits@1"), (100.0, "logits@0.5")):
        head.attention[3] = torch.nn.Threshold(1e9, 1.0 if value > 0 else 0.0)
        outputs = model(clip).outputs
        want = resize(outputs[scale][:, 0], outputs["logits"].shape[-2:])
        torch.testing.assert_close(outputs["logits"][:, 0], want)


def test_a_temporal_module_changes_the_pixels_of_scale_one() -> None:
    model = model_of(gru=True).eval()
    frames = torch.randint(0, 256, (1, 1, 3, 48, 64), dtype=torch.uint8).repeat(2, 1, 1, 1, 1)
    frames[1, ..., :8] = 0  # little enough for the same scene
    with torch.no_grad():
        _, state = model.step(frames[0])
        with_memory, _ = model.step(frames[1], state)
        alone, _ = model.step(frames[1])
        clip = model(frames.transpose(0, 1)).logits[:, 1]
    assert not torch.allclose(with_memory, alone)
    torch.testing.assert_close(clip, with_memory, rtol=1e-4, atol=1e-5)


def test_published_size_of_the_attention() -> None:
    with torch.device("meta"):
        inner: Head = HEADS["ocr"]((48, 96, 192, 384), (4, 8, 16, 32), 19, width=512)
        head = hmsa(HEADS["ocr"], (48, 96, 192, 384), (4, 8, 16, 32), 19, width=512)
    added = 512 * 256 * 9 + 2 * 256 + 256 * 256 * 9 + 2 * 256 + 256  # two 3x3 with norms, a 1x1 without bias
    assert count_parameters(head) == count_parameters(inner) + added


def test_scales_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 among them, came \[0\.5, 2\.0\]"):
        model_of(train_scales=(0.5, 2.0))
    with pytest.raises(ValueError, match="predicts logits, came one for masks"):
        model_of("mask2former")
