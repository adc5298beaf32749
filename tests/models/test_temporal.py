"""The temporal contract, held for every entry of the zoo. A new module needs no new test here."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everyframe.frames import Role
from everyframe.labels import LabelSpace
from everyframe.models.heads.mask_transformer import MaskTransformerHead
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import Features, map_tensors, state_bytes
from everyframe.models.temporal.gru import ConvGRU
from everyframe.models.temporal.ssltm import SSLTM
from everyframe.models.zoo import SEVERAL_SCALES, SYSTEMS, create_model

SPACE = LabelSpace(("a", "b", "c"))
SIZE = (45, 62)

# Heads differ little under one temporal module: all of them alone, two with the rest, Mask2Former with SSLTM.
TRIED = [
    name
    for name, (head, time) in SYSTEMS.items()
    if (not time and head not in SEVERAL_SCALES)
    or name == "mask2former-ssltm"
    or (head in ("ocr", "psp") and time not in ("", "etc") and name != "psp-ssltm")
]


def build(system: str) -> Segmenter:
    model = create_model(f"{system}-tiny", SPACE, backbone={"width": 8, "stem_width": 8})
    with torch.no_grad():  # factors that start at 0 would hide what they let through
        for p in model.temporal.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # average of all batches: one is enough to bring features to scale
    with torch.no_grad():
        features = model.train()(video(2, batch=2)).features
        if isinstance(model.temporal, SSLTM):
            model.temporal.prototypes.observe(features.embedding[model.temporal.site.key], labels(4))
    # Segmenter's last norm magnifies the rounding of cells where all classes are alike.
    return model.eval().double() if isinstance(model.head, MaskTransformerHead) else model.eval()


def labels(frames: int) -> Tensor:
    return torch.randint(0, 3, (frames, *SIZE), dtype=torch.uint8)


def video(frames: int, batch: int = 1, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randint(0, 256, (batch, frames, 3, *size), dtype=torch.uint8)


def run(model: Segmenter, clip: Tensor) -> tuple[Tensor, Any]:
    """Fold `step` over a clip [B, T, 3, H, W]: logits [B, T, K, h, w] and the last state."""
    state, logits = None, []
    with torch.no_grad():
        for frame in clip.unbind(1):
            out, state = model.step(frame, state)
            logits.append(out)
    return torch.stack(logits, 1), state


@pytest.fixture(params=TRIED)
def model(request: pytest.FixtureRequest) -> Segmenter:
    return build(request.param)


def logits_of(model: Segmenter, clip: Tensor, roles: tuple[Role, ...] | None = None) -> Tensor:
    """Class logits of the query frames, [B, Q, K, h, w], whatever the head predicts."""
    outputs = model(clip, roles).outputs
    flat = model.head.semantic({name: x.flatten(0, 1) for name, x in outputs.items()})
    return flat.unflatten(0, (len(clip), -1))


def close(got: Tensor, want: Tensor) -> None:
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_clip_equals_folded_steps(model: Segmenter) -> None:
    if not model.temporal.causal:
        pytest.skip("looks at later frames")
    clip = video(4)
    with torch.no_grad():
        close(logits_of(model, clip), run(model, clip)[0])


def test_a_training_clip_equals_the_stream_at_its_query(model: Segmenter) -> None:
    """The clip holds the frames that the stream looks back at: the first one and those at the module's offsets."""
    temporal = model.temporal
    if getattr(temporal, "memory", "none") != "none":
        pytest.skip("remembers more than a training clip holds")
    now = max((-offset for offset in temporal.adjacent), default=0)
    moving = video(1)[:, :1].float()
    clip = torch.cat([(moving + 6 * t).clamp(0, 255).to(torch.uint8) for t in range(now + 1)], 1)  # one slow scene
    indices = [*([0] if temporal.reference else []), *(now + offset for offset in temporal.adjacent), now]
    roles = (Role.REFERENCE,) * temporal.reference + (Role.ADJACENT,) * len(temporal.adjacent) + (Role.QUERY,)
    with torch.no_grad():
        got = logits_of(model, clip[:, indices], roles)
    close(got[:, 0], run(model, clip)[0][:, now])


def test_two_interleaved_streams_equal_two_separate_ones(model: Segmenter) -> None:
    first, second = video(3), video(3)
    want = [run(model, clip)[0] for clip in (first, second)]
    states: list[Any] = [None, None]
    got: list[list[Tensor]] = [[], []]
    with torch.no_grad():
        for t in range(3):
            for i, clip in enumerate((first, second)):
                logits, states[i] = model.step(clip[:, t], states[i])
                got[i].append(logits)
    for i in range(2):
        assert torch.equal(torch.stack(got[i], 1), want[i])


def test_a_batch_of_streams_equals_single_streams(model: Segmenter) -> None:
    clips = video(3, batch=2)
    close(run(model, clips)[0], torch.cat([run(model, clip[None])[0] for clip in clips]))


def test_first_frame_needs_no_memory_and_one_pixel_is_a_frame(model: Segmenter) -> None:
    for size in (SIZE, (1, 1)):
        logits, _ = run(model, video(2, size=size))
        assert logits.isfinite().all()


def test_memory_has_a_bounded_size(model: Segmenter) -> None:
    state, sizes = None, []
    with torch.no_grad():
        for frame in video(13, size=(24, 32)).unbind(1):
            state = model.step(frame, state)[1]
            sizes.append(state_bytes(state))
    assert len(set(sizes[9:])) == 1


def test_memory_detaches_moves_and_pickles(model: Segmenter) -> None:
    clip = video(3)
    _, state = model.step(clip[:, 0])
    detached = map_tensors(torch.Tensor.detach, state)
    assert not any(x.requires_grad for x in torch.utils._pytree.tree_leaves(detached) if isinstance(x, Tensor))
    assert state_bytes(map_tensors(lambda x: x.to("meta"), detached)) == state_bytes(detached)
    with torch.no_grad():
        want, _ = model.step(clip[:, 1], detached)
        got, _ = model.step(clip[:, 1], pickle.loads(pickle.dumps(detached)))
    assert torch.equal(got, want)


def test_step_does_not_change_the_model_or_the_state_it_was_given(model: Segmenter) -> None:
    clip = video(3)
    _, state = run(model, clip[:, :2])
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    before = map_tensors(torch.clone, state)
    with torch.no_grad():
        first, _ = model.step(clip[:, 2], state)
        again, _ = model.step(clip[:, 2], state)
    assert torch.equal(first, again)
    leaves = torch.utils._pytree.tree_leaves
    assert all(torch.equal(a, b) for a, b in zip(leaves(before), leaves(state), strict=True) if isinstance(a, Tensor))
    assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())


def test_gradient_reaches_every_parameter(model: Segmenter) -> None:
    prediction = model.train()(video(3, batch=2))
    loss = torch.stack([(x * torch.randn_like(x)).sum() for x in prediction.outputs.values()]).sum()
    if prediction.auxiliary is not None:
        loss = loss + prediction.auxiliary.square().sum()
    if isinstance(model.temporal, SSLTM):  # prototypes move by their own loss alone
        assert model.temporal.prototypes.prototypes.grad is None
        pixels = prediction.features.embedding[model.temporal.site.key]
        loss = loss + model.temporal.prototypes.observe(pixels, labels(6))
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    lost = [name for name, p in model.temporal.named_parameters() if not p.grad.abs().sum() > 0]
    assert not lost, lost


# -- the convolutional GRU --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["fcn", "psp", "ocr"])
def test_untrained_gru_leaves_the_model_nearly_as_it_was(head: str) -> None:
    model = build(f"{head}-gru")
    with torch.no_grad():
        features = model.encode(video(1)[0])
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
    _, state = run(model, video(2, size=(40, 40)))
    frame = video(1)[:, 0]
    with torch.no_grad():
        assert torch.equal(model.step(frame, state)[0], model.step(frame)[0])


def test_gru_learns_what_a_single_frame_cannot_show() -> None:
    """Frame 0 shows the class as a sign; frame 2 is blank and must be classified by memory alone."""
    gru, classify = ConvGRU(4, hidden=8), nn.Conv2d(4, 2, 1)
    optimiser = torch.optim.Adam([*gru.parameters(), *classify.parameters()], lr=3e-2)
    head = nn.Identity()
    for _ in range(60):
        label = torch.randint(0, 2, (8, 5, 5))
        shown = torch.randn(8, 4, 5, 5) * 0.1 + (2.0 * label - 1)[:, None]
        memory = None
        for pixels in (shown, torch.randn(8, 4, 5, 5) * 0.1, torch.randn(8, 4, 5, 5) * 0.1):
            embedding, memory = gru(Features((), {"pixels": pixels}), memory, head)
        logits = classify(embedding["pixels"])
        optimiser.zero_grad()
        nn.functional.cross_entropy(logits, label).backward()
        optimiser.step()
    assert (logits.argmax(1) == label).float().mean() > 0.95
