"""Thresholds by class: means by hand, unseen classes, two processes as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from everyframe.semi.pseudo import pseudo_labels
from everyframe.semi.thresholds import ClassThresholds


def logits_of(pixels: list[list[float]]) -> torch.Tensor:
    """Probabilities of each pixel of one row -> logits [1, K, 1, W]."""
    return torch.tensor(pixels).log().T[None, :, None]


INSIDE = torch.ones(1, 1, 3, dtype=torch.bool)


def test_thresholds_follow_the_mean_probability_of_a_classs_own_pixels() -> None:
    made = ClassThresholds(3, threshold=0.8, momentum=0.9)
    torch.testing.assert_close(made(), torch.tensor([0.8, 0.8, 0.8]))
    made.observe(logits_of([[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.3, 0.4, 0.3]]), INSIDE)
    torch.testing.assert_close(made.sureness, torch.tensor([0.8, 0.4, 0.0]))  # (0.9 + 0.7) / 2; 0.4; of no pixel
    torch.testing.assert_close(made(), torch.tensor([0.8, 0.4, 0.8]))
    made.observe(logits_of([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.1, 0.4, 0.5]]), INSIDE)
    torch.testing.assert_close(made.sureness, torch.tensor([0.9 * 0.8 + 0.1 * 0.6, 0.4, 0.5]))
    torch.testing.assert_close(made(), torch.tensor([0.8, 0.8 * 0.4 / 0.78, 0.8 * 0.5 / 0.78]))


def test_padding_has_no_say() -> None:
    made = ClassThresholds(2, threshold=0.8)
    made.observe(logits_of([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), torch.tensor([[[True, False, False]]]))
    torch.testing.assert_close(made.sureness, torch.tensor([0.9, 0.0]))


def test_sums_over_masks_are_measured_as_they_are() -> None:
    made = ClassThresholds(2, threshold=0.8)
    made.observe(torch.tensor([[[[0.5, 0.3, 1.5]], [[0.1, 0.4, 0.5]]]]), INSIDE, "bounded")
    torch.testing.assert_close(made.sureness, torch.tensor([(0.5 + 0.75) / 2, 0.4]))


def test_places_that_no_query_sees_have_no_say() -> None:
    made = ClassThresholds(2, threshold=0.8)
    made.observe(torch.tensor([[[[0.5, 0.0, 0.0]], [[0.1, 0.0, 0.0]]]]), INSIDE, "bounded")
    torch.testing.assert_close(made.sureness, torch.tensor([0.5, 0.0]))


def test_a_module_in_bfloat16_measures_in_float32() -> None:
    made = ClassThresholds(2, threshold=0.8, momentum=0.5).bfloat16()
    for _ in range(2):
        made.observe(logits_of([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]).bfloat16(), INSIDE)
    assert made().dtype == torch.float32
    torch.testing.assert_close(made.sureness.float(), torch.tensor([0.625, 0.75]), rtol=0.01, atol=0)


def test_a_pixel_is_held_against_the_threshold_of_its_own_class() -> None:
    scores = logits_of([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.5, 0.3]])
    labels = pseudo_labels(scores, (1, 3), torch.tensor([0.75, 0.55, 0.1]))
    assert labels.tolist() == [[[255, 1, 255]]]


def _observe(rank: int, store: str, pixels: list[list[float]], out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    made = ClassThresholds(3, threshold=0.8)
    made.observe(logits_of(pixels[2 * rank : 2 * rank + 2]), torch.ones(1, 1, 2, dtype=torch.bool))
    torch.save(made.sureness, f"{out}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    pixels = [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.3, 0.4, 0.3]]
    multiprocessing.spawn(_observe, (str(tmp_path / "store"), pixels, str(tmp_path)), nprocs=2)
    one = ClassThresholds(3, threshold=0.8)
    one.observe(logits_of(pixels), torch.ones(1, 1, 4, dtype=torch.bool))
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), one.sureness)
    assert one.sureness[0].item() == pytest.approx(0.7)
