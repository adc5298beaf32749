"""The convolutional GRU: its equations, where it begins anew, and that it learns."""

from __future__ import annotations

import pytest
import torch
from moving_scenes import build
from torch import nn

from everyframe.models.temporal.base import Features
from everyframe.models.temporal.gru import ConvGRU
from everyframe.testing import moving_scene
from everyframe.testing.scenes import run_stream


@pytest.mark.parametrize("head", ["fcn", "psp", "ocr"])
def test_untrained_gru_leaves_the_model_nearly_as_it_was(head: str) -> None:
    model = build(f"{head}-gru")
    with torch.no_grad():
        features = model.encode(moving_scene(1)[0])
        pixels = features.embedding["pixels"]
        changed = model.temporal(features, None, model.head)[0]["pixels"]
    assert 0 < (changed - pixels).square().mean().sqrt() < 0.1 * pixels.square().mean().sqrt()


def test_gru_update_by_its_equations() -> None:
    gru = ConvGRU(2, hidden=1, kernel_size=1)
    with torch.no_grad():
        gru.gates.weight.copy_(torch.tensor([[1.0, 2.0], [0.5, -1.0]])[..., None, None])  # rows: update, reset
        gru.gates.bias.zero_()
        gru.candidate.weight.copy_(torch.tensor([[1.0, 3.0]])[..., None, None])
        gru.candidate.bias.zero_()
        got = gru.update(torch.full((1, 1, 1, 1), 0.3), torch.full((1, 1, 1, 1), -0.2))
    x, h = torch.tensor(0.3), torch.tensor(-0.2)
    z, r = torch.sigmoid(x + 2 * h), torch.sigmoid(0.5 * x - h)
    want = (1 - z) * h + z * torch.tanh(x + 3 * r * h)
    torch.testing.assert_close(got.squeeze(), want)


def test_gru_starts_anew_when_the_frame_size_changes() -> None:
    model = build("fcn-gru")
    _, state = run_stream(model, moving_scene(2, size=(40, 40)))
    frame = moving_scene(1)[:, 0]
    with torch.no_grad():
        assert torch.equal(model.step(frame, state)[0], model.step(frame)[0])


def test_gru_learns_what_a_single_frame_cannot_show() -> None:
    """Frame 0 shows the class as a sign; frame 2 is blank and must be classified by memory alone."""
    scene = (torch.zeros(8, 1, 5, 5),)
    gru, classify = ConvGRU(4, hidden=8), nn.Conv2d(4, 2, 1)
    optimiser = torch.optim.Adam([*gru.parameters(), *classify.parameters()], lr=3e-2)
    head = nn.Identity()
    for _ in range(60):
        label = torch.randint(0, 2, (8, 5, 5))
        shown = torch.randn(8, 4, 5, 5) * 0.1 + (2.0 * label - 1)[:, None]
        memory = None
        for pixels in (shown, torch.randn(8, 4, 5, 5) * 0.1, torch.randn(8, 4, 5, 5) * 0.1):
            embedding, memory = gru(Features(scene, {"pixels": pixels}), memory, head)
        logits = classify(embedding["pixels"])
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, label).backward()
        optimiser.step()
    assert (logits.argmax(1) == label).float().mean() > 0.95
