"""Augmentation: pictures and label maps move together, and the numbers are those of hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from everyframe.data.sampling import clip_rng
from everyframe.data.transforms import Geometry, Window, cut_images, cut_labels
from everyframe.errors import InputError


def clip_of_ids(frames: int = 3, height: int = 45, width: int = 61) -> tuple[Tensor, Tensor]:
    """Pictures that show their own label map, in blocks: ids 0..199 as grey."""
    rows = torch.arange(height)[:, None] // 9
    columns = torch.arange(width)[None] // 9
    ids = torch.stack([(rows * 17 + columns * 5 + t * 40) % 200 for t in range(frames)]).to(torch.uint8)
    return ids[:, None].expand(frames, 3, height, width).contiguous(), ids


@pytest.mark.parametrize("seed", range(12))
def test_pictures_and_label_maps_move_together(seed: int) -> None:
    images, labels = clip_of_ids()
    out, maps = Geometry(40, cat_max_ratio=1)(images, labels, 0, clip_rng(seed))
    assert out.shape == (3, 3, 40, 40)
    assert maps.shape == (3, 40, 40)
    assert out.dtype == maps.dtype == torch.uint8
    inside = maps != 255
    assert torch.equal(inside[0], inside[1])
    assert (out[:, 0][~inside] == 0).all()
    # Away from block borders, where the bilinear picture mixes ids, both show the same id.
    flat = functional.max_pool2d(maps.float(), 5, 1, 2) == -functional.max_pool2d(-maps.float(), 5, 1, 2)
    assert flat.float().mean() > 0.15
    assert (out[:, 0][flat & inside].int() - maps[flat & inside].int()).abs().max() <= 1


def test_same_generator_same_clip() -> None:
    images, labels = clip_of_ids()
    first, second, other = (Geometry(32)(images, labels, 1, clip_rng(0, 5, i)) for i in (7, 7, 8))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_whole_frame_at_scale_one_is_left_as_it_is() -> None:
    images, labels = clip_of_ids()
    geometry = Geometry((45, 61), scale=(1, 1), flip=0)
    out, maps = geometry(images, labels, 0, clip_rng(0))
    assert torch.equal(out, images)
    assert torch.equal(maps, labels)
    out, maps = Geometry((45, 61), scale=(1, 1), flip=1)(images, labels, 0, clip_rng(0))
    assert torch.equal(out, images.flip(-1))
    assert torch.equal(maps, labels.flip(-1))


def test_cutting_first_equals_resizing_the_whole_frame() -> None:
    images = torch.randint(0, 256, (1, 3, 40, 60), dtype=torch.uint8)
    window = Window(10, 20, 20, 24, (40, 48), False)
    whole = functional.interpolate(images, size=(80, 120), mode="bilinear", antialias=True)[..., 20:60, 40:88]
    cut = cut_images(images, window, (40, 48))
    assert torch.equal(cut[..., 2:-2, 2:-2], whole[..., 2:-2, 2:-2])  # the outermost pixels see no neighbours


def test_label_maps_are_not_shifted_against_pictures() -> None:
    """At half size, a step edge in the middle of the frame stays in the middle in both."""
    labels = torch.zeros(1, 30, 30, dtype=torch.uint8)
    labels[:, :, 15:] = 200
    images = labels[:, None].expand(1, 3, 30, 30).contiguous()
    window = Window(0, 0, 30, 30, (10, 10), False)
    maps = cut_labels(labels, window, (10, 10))
    assert maps[0, 0].tolist() == [0] * 5 + [200] * 5
    assert (cut_images(images, window, (10, 10))[0, 0, 0] > 100).tolist() == [False] * 5 + [True] * 5


def test_small_frames_are_padded_right_and_below() -> None:
    images, labels = clip_of_ids(1, 20, 30)
    out, maps = Geometry(40, scale=(1, 1), flip=0)(images, labels, 0, clip_rng(0))
    assert torch.equal(out[..., :20, :30], images)
    assert torch.equal(maps[:, :20, :30], labels)
    assert (out[..., 20:, :] == 0).all()
    assert (out[..., 30:] == 0).all()
    assert (maps[:, 20:] == 255).all()
    assert (maps[..., 30:] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (37, 3)])
def test_tiny_and_odd_frames(size: tuple[int, int]) -> None:
    images = torch.full((2, 3, *size), 9, dtype=torch.uint8)
    for seed in range(20):
        out, maps = Geometry(24)(images, torch.zeros(2, *size, dtype=torch.uint8), 0, clip_rng(seed))
        assert out.shape == (2, 3, 24, 24)
        assert set(maps.unique().tolist()) <= {0, 255}
        assert set(out.unique().tolist()) <= {0, 9}


def test_scale_range_and_base() -> None:
    drawn = [Geometry(100).draw((480, 640), None, clip_rng(i)) for i in range(500)]
    factors = [w.size[0] / w.height for w in drawn]
    assert 0.5 <= min(factors) < 0.53
    assert 1.9 < max(factors) <= 2.0
    assert abs(np.mean([w.flip for w in drawn]) - 0.5) < 0.07
    window = Geometry(100, scale=(1, 1), base=240).draw((480, 640), None, clip_rng(0))
    assert (window.height, window.width, window.size) == (200, 200, (100, 100))


def test_no_class_may_fill_three_quarters_of_the_crop() -> None:
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[:, 50:] = 1  # crops of 32 that reach past column 50 by 9 or more are mixed enough
    geometry = Geometry(32, scale=(1, 1), flip=0)
    lefts = [geometry.draw((64, 64), labels, clip_rng(i)).left for i in range(300)]
    free = [Geometry(32, (1, 1), None, 1, 0).draw((64, 64), labels, clip_rng(i)).left for i in range(300)]
    # Share of class 0 in a crop from column l: (50 - l) / 32 < .75, so l > 26, which 6 of 33 places fulfil.
    assert np.mean(np.array(lefts) > 26) > 0.8  # 1 - (27/33)^10 = 0.866
    assert np.mean(np.array(free) > 26) < 0.3
    labels[:, :50] = 255  # ignored pixels do not count: what is left is one class, so the rule never holds
    window = geometry.draw((64, 64), labels, clip_rng(0))
    assert window.height == 32


def test_unlabelled_frames_stay_ignored_and_the_rule_is_off_without_query_labels() -> None:
    images, labels = clip_of_ids()
    labelled = torch.tensor([False, True, False])
    labels = torch.where(labelled[:, None, None], labels, torch.tensor(255, dtype=torch.uint8))
    _, maps = Geometry(32)(images, labels, 1, clip_rng(0), labelled)
    _, all_maps = Geometry(32)(images, labels, 1, clip_rng(0))
    assert torch.equal(maps, all_maps)
    assert (maps[[0, 2]] == 255).all()
    assert Geometry(32)(images, labels, 0, clip_rng(0), labelled)[1].shape == (3, 32, 32)


@pytest.mark.parametrize(
    "wrong", [{"crop": 0}, {"scale": (2.0, 0.5)}, {"scale": (0, 1)}, {"cat_max_ratio": 0}, {"base": 0}, {"flip": 2}]
)
def test_wrong_arguments_are_named(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Geometry(**wrong)
