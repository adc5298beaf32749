from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from predictors import Fixed, Remember
from torch import Tensor

from everyframe.errors import InputError
from everyframe.inference.window import Box, Window, window_grid


def test_published_grids() -> None:
    # 480p at a short side of 896 rounded up to 32: 896 x 1600, window 896, stride 512: 3 windows
    grid = window_grid((896, 1600), (896, 896), (512, 512))
    assert grid == [Box(0, 896, 0, 896), Box(0, 896, 512, 1408), Box(0, 896, 704, 1600)]
    # 480 x 864, window 480, stride 320: 3 windows
    assert [box[2:] for box in window_grid((480, 864), (480, 480), (320, 320))] == [(0, 480), (320, 800), (384, 864)]


@pytest.mark.parametrize(
    ("size", "window", "stride"), [((7, 10), (3, 4), (2, 3)), ((5, 5), (5, 5), (1, 1)), ((3, 9), (8, 4), (8, 4))]
)
def test_grid_covers_and_stays_inside(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> None:
    seen = torch.zeros(size)
    for box in window_grid(size, window, stride):
        assert 0 <= box.top < box.bottom <= size[0]
        assert 0 <= box.left < box.right <= size[1]
        assert (box.bottom - box.top, box.right - box.left) == (min(window[0], size[0]), min(window[1], size[1]))
        seen[box.top : box.bottom, box.left : box.right] += 1
    assert (seen > 0).all()


def naive(model: Remember, frame: Tensor, window: int, stride: int) -> Tensor:
    """The published loop: pad each window's scores to the frame, add, divide by the count."""
    height, width = frame.shape[-2:]
    total = torch.zeros(1, len(model.label_space), height, width)
    count = torch.zeros(1, 1, height, width)
    for row in range(max(height - window + stride - 1, 0) // stride + 1):
        for column in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(row * stride + window, height), min(column * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            logits, _ = model.step(frame[..., top:bottom, left:right])
            logits = F.interpolate(logits, (bottom - top, right - left), mode="bilinear")
            pad = (left, width - right, top, height - bottom)
            total += F.pad(logits, pad)
            count += F.pad(torch.ones(1, 1, bottom - top, right - left), pad)
    return total / count


@pytest.mark.parametrize("size", [(50, 70), (32, 90), (20, 70)])
def test_equals_the_published_loop(size: tuple[int, int]) -> None:
    model, frame = Remember(), torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    with torch.no_grad():
        logits, state = Window(model, 32, 20).step(frame)
        torch.testing.assert_close(logits, naive(model, frame, 32, 20))
    assert len(state) == len(window_grid(size, (32, 32), (20, 20)))


def test_each_window_remembers_its_own_place() -> None:
    model = Remember(stride=1)
    windows, whole = Window(model, (16, 16), (16, 16)), Window(model, (16, 32), (16, 32))
    state = alone = None
    with torch.no_grad():
        for _ in range(3):  # a model that looks at single pixels gives the same in parts and as a whole
            frame = torch.randint(0, 256, (2, 3, 16, 32), dtype=torch.uint8)
            logits, state = windows.step(frame, state)
            expected, alone = whole.step(frame, alone)
            torch.testing.assert_close(logits, expected)
    assert len(state) == 2


def test_constant_scores_come_back() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0]).view(3, 1, 1).expand(3, 4, 4)
    frame = torch.zeros(1, 3, 30, 41, dtype=torch.uint8)
    for norm in ("none", "softmax"):
        logits, _ = Window(Fixed(scores), 16, 10, score_norm=norm).step(frame)
        torch.testing.assert_close(logits.softmax(1), scores.softmax(0)[:, :1, :1].expand(1, 3, 30, 41))


def test_pads_a_small_frame_up_to_the_window() -> None:
    class Sizes(Fixed):
        def step(self, frame: Tensor, state: object = None) -> tuple[Tensor, object]:
            sizes.append(tuple(frame.shape[-2:]))
            corner.append(frame[0, :, -1, -1].tolist())
            return frame[:, :2].float(), None

    sizes: list[tuple[int, int]] = []
    corner: list[list[int]] = []
    frame = torch.randint(0, 256, (1, 3, 10, 20), dtype=torch.uint8)
    logits, _ = Window(Sizes(torch.zeros(2, 1, 1)), (16, 20), pad=True).step(frame)
    assert sizes == [(16, 20)]
    assert corner == [[124, 116, 104]]
    assert torch.equal(logits, frame[:, :2].float())


def test_refuses_what_leaves_gaps_and_other_states() -> None:
    with pytest.raises(InputError, match="stride between 1 and the size"):
        Window(Remember(), 16, 17)
    with pytest.raises(InputError, match="one number or"):
        Window(Remember(), (1, 2, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tuple of 3 states"):
        Window(Remember(), 16, 8).step(torch.zeros(1, 3, 16, 32, dtype=torch.uint8), (None,))
