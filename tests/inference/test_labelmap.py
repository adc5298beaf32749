from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everyframe.inference import labelmap
from everyframe.inference.labelmap import confidence_map, label_map


def regions(b: int, k: int, h: int, w: int) -> Tensor:
    """Logits as a network makes them: a few regions with soft borders, and noise."""
    coarse = torch.randn(b, k, max(h // 5, 1), max(w // 5, 1)) * 6
    return F.interpolate(coarse, (h, w), mode="bicubic") + 0.1 * torch.randn(b, k, h, w)


def expect_naive(logits: Tensor, size: tuple[int, int]) -> None:
    upsampled = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    got = label_map(logits, size)
    assert got.dtype == torch.uint8
    assert got.shape == (len(logits), *size)
    differs = got != upsampled.argmax(1)
    if differs.any():  # only where the two best classes tie to float32's last bits
        best = upsampled.max(1).values
        chosen = upsampled.gather(1, got.long().unsqueeze(1)).squeeze(1)
        assert (best - chosen)[differs].max() <= 4e-6 * upsampled.abs().max()
        assert differs.float().mean() < 1e-3


@pytest.mark.parametrize("k", [1, 2, 124])
@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((30, 54), (120, 214)),  # 214 is no multiple of 54
        ((17, 23), (131, 91)),  # odd, different factors
        ((40, 40), (40, 40)),  # identity
        ((64, 50), (23, 50)),  # down in one direction
        ((33, 47), (8, 9)),  # down, skipping cells
        ((1, 1), (7, 5)),
        ((1, 9), (1, 30)),
        ((9, 7), (1, 1)),
    ],
)
def test_equals_argmax_of_upsampling(k: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
    expect_naive(regions(2, k, *grid), size)
    expect_naive(torch.randn(2, k, *grid), size)  # no agreement anywhere: every pixel is interpolated
    expect_naive(torch.randn(1, k, *grid).contiguous(memory_format=torch.channels_last), size)


def test_hand_computed() -> None:
    # one row of two cells, two classes that swap: the crossing lies halfway, at x = 3.5 of 0..7
    logits = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    assert label_map(logits, (1, 8)).tolist() == [[[0, 0, 0, 0, 1, 1, 1, 1]]]
    # a third class that wins at no cell but between two: 0.7 against 0.625 beside the middle
    logits = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[0.7, 0.7]]]])
    assert label_map(logits, (1, 8)).tolist() == [[[0, 0, 0, 2, 2, 1, 1, 1]]]


def test_lower_precision_is_computed_in_float32() -> None:
    logits = regions(1, 9, 20, 20).bfloat16()
    assert torch.equal(label_map(logits, (77, 80)), label_map(logits.float(), (77, 80)))


def test_chunks_join(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(2, 5, 12, 10)
    labels, confidence = label_map(logits, (45, 41)), confidence_map(logits, (45, 41))
    monkeypatch.setattr(labelmap, "CHUNK", 97)
    assert torch.equal(label_map(logits, (45, 41)), labels)
    assert torch.equal(confidence_map(logits, (45, 41)), confidence)


@pytest.mark.parametrize("size", [(45, 41), (12, 10), (5, 6)])
def test_confidence_is_the_largest_softmax(size: tuple[int, int]) -> None:
    logits = torch.randn(2, 5, 12, 10) * 3
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1).amax(1)
    torch.testing.assert_close(confidence_map(logits, size), expected)


def test_refuses_other_shapes() -> None:
    for logits in (torch.zeros(3, 4, 4), torch.zeros(1, 256, 2, 2)):
        with pytest.raises(ValueError, match="1 to 255 classes"):
            label_map(logits, (4, 4))
