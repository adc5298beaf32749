"""The backbones of the VSPW 2023 winner's table 1, as tiny presets under the heads they stand under there."""

from __future__ import annotations

import pytest
import torch

from everyframe.data.synthetic import SyntheticVideos
from everyframe.frames import Clip, Role
from everyframe.models.zoo import create_model
from everyframe.training.objectives_mask import MaskOptions
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.optim import Optimization

PAIRS = ("uper-focalnet-micro", "uper-swin-micro", "uper-internimage-micro", "mask2former-eva-adapter-micro",
         "mask2former-beit-adapter-micro")  # fmt: skip
VIDEOS = SyntheticVideos(2, frames=2, size=(48, 64))


def batch() -> Clip:
    images = torch.stack([video.image(0) for video in VIDEOS])[:, None]
    labels = torch.stack([torch.from_numpy(video.labels(0)) for video in VIDEOS])[:, None]
    return Clip(images, labels, torch.ones(2, 1, dtype=torch.bool), (Role.QUERY,), torch.zeros(2, 1).long(), ("a", "b"))


@pytest.mark.parametrize("name", PAIRS)
def test_two_steps_and_a_stream(name: str) -> None:
    torch.manual_seed(0)
    model, clip = create_model(name, VIDEOS[0].label_space), batch()
    objective = video_objective(model, MaskOptions(points=256)) if "mask2former" in name else video_objective(model)
    optimizer = Optimization(lr=1e-3, head_lr_factor=1.0, layer_decay=0.9).optimizer(model)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    costs = []
    for _ in range(2):
        torch.manual_seed(1)  # the same points of the masks
        cost = objective(model(clip.images, clip.roles), clip)["loss"]
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[1] < costs[0]
    assert [key for key, p in model.named_parameters() if p.grad is None or torch.equal(p, before[key])] == []
    model.eval()
    frames = torch.stack([VIDEOS[0].image(t) for t in range(2)])
    with torch.no_grad():
        alone, state = [model.step(frame[None])[0] for frame in frames], None
        for frame, want in zip(frames, alone, strict=True):
            scores, state = model.step(frame[None], state)
            torch.testing.assert_close(scores, want)
