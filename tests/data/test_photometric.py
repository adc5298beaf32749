"""Colour augmentation: numbers worked out by hand."""

from __future__ import annotations

import torch

from everyframe.data.photometric import Photometric, StrongPhotometric, apply_color, color_matrix
from everyframe.data.sampling import clip_rng


def test_color_changes_by_hand() -> None:
    pixel = torch.tensor([100, 150, 200], dtype=torch.uint8).view(3, 1, 1)

    def change(**by: float) -> list[int]:
        return apply_color(pixel, color_matrix(**by)).flatten().tolist()

    assert change() == [100, 150, 200]
    assert change(brightness=32) == [132, 182, 232]
    assert change(brightness=100) == [200, 250, 255]
    assert change(brightness=-120) == [0, 30, 80]
    assert change(contrast=0.5) == [50, 75, 100]
    assert change(contrast=2) == [200, 255, 255]
    assert change(contrast=0.5, brightness=10) == [60, 85, 110]
    assert change(saturation=0) == [141] * 3  # .299 * 100 + .587 * 150 + .114 * 200 = 140.75
    assert change(gray=True) == [141] * 3
    assert change(saturation=2) == [59, 159, 255]  # 2 x - 140.75 = 59.25, 159.25, 259.25
    assert change(hue=1 / 3) == [200, 100, 150]  # red goes to green, green to blue, blue to red
    assert change(hue=-1 / 3) == [150, 200, 100]
    assert change(hue=0.5) == [200, 150, 100]  # mirrored at the mean, here 150


def test_grey_has_no_hue_and_no_saturation() -> None:
    gray = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).expand(2, 3, 4, 256).contiguous()
    assert torch.equal(apply_color(gray, color_matrix(saturation=1.4, hue=0.07)), gray)


def test_all_frames_of_a_clip_change_alike() -> None:
    frame = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8)
    clip = frame.expand(3, 3, 20, 20).contiguous()
    for change in (Photometric(probability=1), StrongPhotometric(), StrongPhotometric(blur_probability=1)):
        out = change(clip, clip_rng(3))
        assert out.shape == clip.shape
        assert out.dtype == torch.uint8
        assert torch.equal(out[0], out[1])
        assert torch.equal(out[0], out[2])
        assert not torch.equal(out, clip)
        assert torch.equal(out, change(clip, clip_rng(3)))


def test_each_change_comes_in_half_of_the_clips_within_its_range() -> None:
    drawn = [Photometric().draw(clip_rng(i)) for i in range(2000)]
    unchanged = sum(matrix is None for matrix in drawn) / 2000
    assert abs(unchanged - 1 / 16) < 0.02
    shifts = torch.stack([matrix[0, 3] for matrix in drawn if matrix is not None])
    assert shifts.abs().max() <= 32
    assert abs((shifts != 0).float().sum() / 2000 - 0.5) < 0.04
    gains = torch.stack([matrix[:, :3].sum(1)[0] for matrix in drawn if matrix is not None])  # rows sum to contrast
    assert gains.min() >= 0.4999
    assert gains.max() <= 1.5001


def test_nothing_drawn_returns_the_clip_itself() -> None:
    clip = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    assert Photometric(probability=0)(clip, clip_rng(0)) is clip


def test_strong_grey_is_grey() -> None:
    clip = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    out = StrongPhotometric(gray_probability=1, blur_probability=0)(clip, clip_rng(0))
    assert torch.equal(out[:, 0], out[:, 1])
    assert torch.equal(out[:, 0], out[:, 2])
