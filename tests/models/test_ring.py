"""The ring of latest frames against plain indexing, and the measure of scene changes."""

from __future__ import annotations

import torch

from everyframe.models.temporal.ring import Ring, advance, scene_change, scene_signature


def test_offsets_reach_back_as_far_as_the_scene_goes() -> None:
    pixels = torch.randn(1, 2, 4, 4)  # one scene, whatever is kept of its frames
    ring = None
    for now in range(12):
        ring, recent = advance(ring, torch.tensor([[float(now)]]), pixels, reach=6, threshold=0.45)
        want = [max(now + offset, 0) for offset in (-6, -3, -1)]
        assert recent.at((-6, -3, -1)).flatten().tolist() == want
        assert recent.at((2,)).item() == now  # after the present: the present
        assert recent.cut.tolist() == [now == 0]
        assert ring.frames.shape[1] == min(now + 1, 6)


def test_without_offsets_one_frame_is_kept_to_know_its_size() -> None:
    pixels = torch.randn(1, 2, 4, 4)
    ring, _ = advance(None, torch.zeros(1, 3), pixels, reach=0, threshold=0.45)
    ring, recent = advance(ring, torch.zeros(1, 3), pixels, reach=0, threshold=0.45)
    assert ring.frames.shape == (1, 1, 3)
    assert not recent.cut.any()


def test_another_size_or_number_of_streams_begins_anew() -> None:
    ring, _ = advance(None, torch.zeros(1, 3), torch.randn(1, 2, 4, 4), 3, 0.45)
    for kept in (torch.zeros(1, 4), torch.zeros(2, 3)):
        fresh, recent = advance(ring, kept, torch.randn(len(kept), 2, 4, 4), 3, 0.45)
        assert recent.cut.all()
        assert fresh.frames.shape[1] == 1


def test_scene_change_by_hand() -> None:
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[3.0, 4.0], [0.0, 1.0], [-2.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(scene_change(a, b), torch.tensor([0.0, 1.0, 2.0, 0.0]))


def test_from_zeros_a_blank_frame_begins_a_scene_too() -> None:
    """Exported models begin with zeros, and videos with a black frame, whose signature can be zeros as well."""
    kept, blank = torch.full((1, 3), 5.0), torch.ones(1, 2, 4, 4)
    zeros = Ring(torch.zeros(1, 2, 3), torch.zeros_like(scene_signature(blank)))
    _, recent = advance(zeros, kept, blank, reach=2, threshold=0.9)
    assert recent.cut.tolist() == [True]
    assert (recent.frames == 5).all()


def test_signature_knows_layout_not_brightness() -> None:
    x = torch.rand(1, 3, 8, 8)
    brighter = x + torch.rand(1, 3, 1, 1) * 5
    assert scene_change(scene_signature(x), scene_signature(brighter)).item() < 1e-6
    assert scene_change(scene_signature(x), scene_signature(x.flip(-1))).item() > 0.3
    blank = torch.ones(1, 3, 8, 8)
    assert scene_change(scene_signature(blank), scene_signature(blank)).item() == 0
