"""The spatial-temporal transformer against loops over cells, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.models.temporal.stt import MixFFN, SpatialTemporalBlock, WindowAttention3d


def brute_force(attention: WindowAttention3d, frames: Tensor, at: int) -> Tensor:
    """Windowed attention of frame `at` of [T, H, W, C], cell by cell and head by head."""
    count, height, width, channels = frames.shape
    t, h, w = attention.window
    rows, columns = min(h, height), min(w, width)
    d = channels // attention.heads
    key, value = F.linear(frames, attention.to_key_value.weight, attention.to_key_value.bias).chunk(2, dim=-1)
    out = torch.zeros(height, width, channels, dtype=frames.dtype)
    for y in range(height):
        for x in range(width):
            query = F.linear(frames[at, y, x], attention.to_query.weight, attention.to_query.bias)
            seen = [
                (s, i, j)
                for s in range(count)
                for i in range(height)
                for j in range(width)
                if i // rows == y // rows and j // columns == x // columns
            ]
            for head in range(attention.heads):
                part = slice(head * d, (head + 1) * d)
                logits = torch.stack(
                    [
                        query[part] @ key[s, i, j, part] / math.sqrt(d)
                        + attention.bias_table[at - s + t - 1, y - i + h - 1, x - j + w - 1, head]
                        for s, i, j in seen
                    ]
                )
                weights = logits.softmax(0)
                out[y, x, part] = sum(p * value[s, i, j, part] for p, (s, i, j) in zip(weights, seen, strict=True))
    return F.linear(out, attention.projection.weight, attention.projection.bias)


@pytest.mark.parametrize(
    ("size", "window", "frames", "at"),
    [
        pytest.param((4, 6), (3, 2, 3), 3, 2, id="windows that fit"),
        pytest.param((5, 7), (3, 2, 3), 3, 2, id="padding on both sides"),
        pytest.param((5, 4), (3, 7, 3), 3, 1, id="window cut down to the map, query in the middle"),
        pytest.param((3, 5), (3, 7, 7), 2, 1, id="map smaller than the window, fewer frames"),
        pytest.param((1, 1), (3, 7, 7), 3, 0, id="one cell"),
        pytest.param((1, 9), (2, 3, 4), 1, 0, id="one row, one frame"),
    ],
)
def test_window_attention_equals_brute_force(
    size: tuple[int, int], window: tuple[int, int, int], frames: int, at: int
) -> None:
    attention = WindowAttention3d(8, 2, window).double()
    torch.nn.init.normal_(attention.bias_table)
    clips = torch.randn(2, frames, *size, 8, dtype=torch.float64)
    with torch.no_grad():
        got = attention(clips[:, at], attention.to_key_value(clips), at)
        want = torch.stack([brute_force(attention, clip, at) for clip in clips])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_padding_is_never_seen() -> None:
    """A window that is mostly padding gives what the same cells give as a map of their own."""
    attention = WindowAttention3d(4, 2, (1, 4, 4)).double()
    x = torch.randn(1, 1, 4, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        whole = attention(x[:, 0], attention.to_key_value(x), 0)
        # The last column is a window of its own: 4 rows, 1 column and 3 columns of padding.
        part = x[:, :, :, 4:]
        alone = attention(part[:, 0], attention.to_key_value(part), 0)
    torch.testing.assert_close(whole[:, :, 4:], alone, rtol=1e-12, atol=1e-12)


def test_more_frames_than_the_window_has_are_refused() -> None:
    attention = WindowAttention3d(4, 2, (2, 3, 3))
    x = torch.randn(1, 3, 3, 3, 4)
    with pytest.raises(ValueError, match="expected at most 2 frames, came 3"):
        attention(x[:, 0], attention.to_key_value(x), 0)


def test_mix_ffn_by_hand() -> None:
    ffn = MixFFN(1, 1).double()
    with torch.no_grad():
        for layer, (weight, bias) in ((ffn.enter, (2.0, 0.5)), (ffn.leave, (3.0, -1.0))):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
        ffn.depthwise.weight.fill_(1.0)
        ffn.depthwise.bias.fill_(0.0)
        got = ffn(torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64).view(1, 1, 3, 1)).flatten()
    entered = [2.5, 4.5, 8.5]
    summed = torch.tensor([2.5 + 4.5, 2.5 + 4.5 + 8.5, 4.5 + 8.5], dtype=torch.float64)  # zeros beyond the border
    assert entered[0] == 2 * 1.0 + 0.5
    torch.testing.assert_close(got, 3 * F.gelu(summed) - 1)


def test_block_is_residual_in_both_halves() -> None:
    block = SpatialTemporalBlock(8, 2, (2, 3, 3))
    with torch.no_grad():
        for module in (block.attention.projection, block.ffn.leave):
            module.weight.zero_()
            module.bias.zero_()
        x = torch.randn(1, 5, 4, 8)
        assert torch.equal(block(x, block.key_values(x)[:, None], 0), x)
