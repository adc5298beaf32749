"""SSLTM: where contexts come from, what a stream keeps, where gradients go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everyframe.data.synthetic import SyntheticVideos
from everyframe.errors import InputError
from everyframe.frames import Role
from everyframe.labels import LabelSpace
from everyframe.models.cost import count_parameters
from everyframe.models.heads.ocr import OCRHead
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import Features
from everyframe.models.temporal.ssltm import SSLTM, ClipContext
from everyframe.models.zoo import create_model

D, K, SIZE = 16, 3, (6, 9)


def make(**options: Any) -> tuple[SSLTM, OCRHead]:
    head = OCRHead((8, 12), (4, 8), K, width=D, key_width=8)
    module = SSLTM(head, **{"heads": 2, "window": (4, 4), **options})
    if module.prototypes is not None:
        module.prototypes.observe(torch.randn(2, D, *SIZE), torch.randint(0, K, (2, 24, 36)).to(torch.uint8))
    return module.eval(), head.eval()


def frame(head: OCRHead, batch: int = 2) -> Features:
    maps = (torch.randn(batch, 8, 12, 18), torch.randn(batch, 12, *SIZE))
    return Features(maps, head.embed(maps))


def logits(module: SSLTM, head: OCRHead, query: Features, memory: ClipContext) -> Tensor:
    return head.predict(module(query, memory, head)[0])["logits"]


# -- contexts ---------------------------------------------------------------------------------------------------------


def test_reference_context_of_the_query_itself_is_query_context() -> None:
    """RFCE with reference = query is QFCE."""
    module, head = make(context="reference")
    query = frame(head)
    own = module.gather([query], [Role.REFERENCE], head)
    with torch.no_grad():
        from_reference = logits(module, head, query, own)
        module.context = "query"
        from_query = logits(module, head, query, ClipContext(None, None))
    assert torch.equal(from_reference, from_query)


@pytest.mark.parametrize(("context", "tokens"), [("none", 0), ("query", K), ("reference", K), ("both", 2 * K)])
def test_contexts_by_name(context: str, tokens: int) -> None:
    module, head = make(context=context, prototypes=0)
    query, other = frame(head), frame(head)
    memory = module.gather([other], [Role.REFERENCE], head)
    embedding, _ = module(query, memory, head)
    assert tokens == (embedding["regions"].shape[1] if "regions" in embedding else 0)
    if context == "reference":
        assert torch.equal(embedding["regions"], other.embedding["regions"])
    if context == "both":
        assert torch.equal(embedding["regions"][:, :K], query.embedding["regions"])
    assert module.reference == (context in ("reference", "both"))


def test_unfilled_prototypes_are_never_attended_to() -> None:
    module, head = make(context="none")
    query = frame(head)
    module.prototypes.filled[:] = False
    module.prototypes.filled[1, 0] = True
    with torch.no_grad():
        want = logits(module, head, query, ClipContext(None, None))
        hidden = module.prototypes.filled.logical_not()
        module.prototypes.prototypes[hidden] = 1e3
        assert torch.equal(logits(module, head, query, ClipContext(None, None)), want)
        module.prototypes.filled[:] = False
        none = logits(module, head, query, ClipContext(None, None))
        module.global_attention = module.prototypes = None
        assert torch.equal(logits(module, head, query, ClipContext(None, None)), none)


# -- short term -------------------------------------------------------------------------------------------------------


def test_empty_slots_leave_batch_statistics_alone() -> None:
    """What an empty slot holds changes neither the running statistics nor the output of a training step."""
    module, head = make(prototypes=2)
    module.prototypes.filled[:] = torch.tensor([[True, False], [True, True], [False, False]])
    query = frame(head)
    start = {name: value.clone() for name, value in module.state_dict().items()}

    def step(empty: float) -> tuple[Tensor, Tensor]:
        module.load_state_dict(start)
        with torch.no_grad():
            module.prototypes.prototypes[~module.prototypes.filled] = empty
            out = module.train().attend_prototypes(module.site.query(query.embedding["pixels"], head))
        means = [norm.running_mean for norm in module.global_attention.modules() if isinstance(norm, nn.BatchNorm2d)]
        return out, torch.cat(means)

    (zeros, mean), (noise, mean_of_noise) = step(0.0), step(1e3)
    assert torch.equal(zeros, noise)
    assert torch.equal(mean, mean_of_noise)


def test_group_norm_sees_the_same_tokens_in_training_and_after() -> None:
    head = OCRHead((8, 12), (4, 8), K, width=D, key_width=8, norm="group")
    module = SSLTM(head, heads=2, window=(4, 4), prototypes=2)
    module.prototypes.observe(torch.randn(1, D, *SIZE), torch.randint(0, K, (1, 24, 36)).to(torch.uint8))
    assert not module.prototypes.filled.all()
    query = module.site.query(frame(head).embedding["pixels"], head)
    with torch.no_grad():
        torch.testing.assert_close(module.train().attend_prototypes(query), module.eval().attend_prototypes(query))


def test_offsets_around_the_query_stand_in_time_order() -> None:
    """With (-3, 3) the query is the middle frame: turning time around turns the bias table around."""
    module, head = make(adjacent=(3, -3), context="none", prototypes=0)
    assert module.adjacent == (-3, 3)
    assert not module.causal
    query, before, after = frame(head), frame(head), frame(head)
    roles = [Role.ADJACENT, Role.ADJACENT]
    with torch.no_grad():
        module.blocks[0].attention.bias_table.normal_()
        want = logits(module, head, query, module.gather([before, after], roles, head))
        swapped = logits(module, head, query, module.gather([after, before], roles, head))
        module.blocks[0].attention.bias_table.copy_(module.blocks[0].attention.bias_table.flip(0))
        turned = logits(module, head, query, module.gather([after, before], roles, head))
    assert not torch.allclose(want, swapped, atol=1e-3)
    torch.testing.assert_close(turned, want)


def test_kept_keys_and_values_equal_attention_from_pixels() -> None:
    """With one block frames are kept as keys and values: the same as computing them from the frames each time."""
    module, head = make(context="none", prototypes=0)
    query, *others = (frame(head) for _ in range(3))
    pixels, block = query.embedding["pixels"], module.blocks[0]
    memory = module.gather(others, [Role.ADJACENT] * 2, head)
    with torch.no_grad():
        got = module.attend_adjacent(pixels, module.remember(pixels), memory.adjacent)
        x = torch.stack([f.embedding["pixels"].movedim(1, -1) for f in (*others, query)], dim=1)
        want = block(x[:, -1], block.key_values(x), 2).movedim(-1, 1)
    torch.testing.assert_close(got, want)


def test_two_blocks_let_adjacent_frames_change_too() -> None:
    module, head = make(depth=2, context="none", prototypes=0)
    assert count_parameters(module.blocks[0]) == count_parameters(module.blocks[1])
    query, *others = (frame(head) for _ in range(3))
    pixels, memory = query.embedding["pixels"], module.gather(others, [Role.ADJACENT] * 2, head)
    x = [f.embedding["pixels"].movedim(1, -1) for f in (*others, query)]
    with torch.no_grad():
        got = module.attend_adjacent(pixels, module.remember(pixels), memory.adjacent)
        for block in module.blocks:
            kv = torch.stack([block.key_values(f) for f in x], dim=1)
            x = [block(f, kv, t) for t, f in enumerate(x)]
    torch.testing.assert_close(got, x[-1].movedim(-1, 1))


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flows", [False, True])
def test_prototypes_are_detached_from_the_segmentation_loss_unless_asked(flows: bool) -> None:
    module, head = make(prototype_gradient=flows)
    query, other = frame(head), frame(head)
    logits(module, head, query, module.gather([other], [Role.REFERENCE], head)).square().sum().backward()
    gradient = module.prototypes.prototypes.grad
    assert (gradient is not None and bool(gradient.abs().sum() > 0)) == flows


def test_gradient_reaches_adjacent_and_reference_frames() -> None:
    module, head = make()
    query, adjacent, reference = frame(head), frame(head), frame(head)
    for features in (adjacent, reference):
        for x in features.maps:
            x.requires_grad_()
    adjacent, reference = (Features(f.maps, head.embed(f.maps)) for f in (adjacent, reference))
    memory = module.gather([reference, adjacent], [Role.REFERENCE, Role.ADJACENT], head)
    logits(module, head, query, memory).square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in reference.maps)
    assert adjacent.maps[1].grad.abs().sum() > 0
    assert adjacent.maps[0].grad is None  # adjacent frames give pixels, no contexts


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> tuple[Segmenter, list[Tensor]]:
    """A model whose normalisation has seen the videos, and two synthetic videos [1, T, 3, H, W]."""
    torch.manual_seed(0)
    videos = [torch.stack([f.image for f in v])[None] for v in SyntheticVideos(2, frames=14, size=(64, 96))]
    model = create_model("ssltm-tiny", LabelSpace(("a", "b", "c")), backbone={"width": 8, "stem_width": 8})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.cat(videos)[:, ::4])
    return model.eval(), videos


def fold(model: Segmenter, clip: Tensor) -> list[Any]:
    state, states = None, []
    with torch.no_grad():
        for image in clip.unbind(1):
            state = model.step(image, state)[1]
            states.append(state)
    return states


def test_continuous_video_keeps_its_first_frame_as_reference(scenes: tuple[Segmenter, list[Tensor]]) -> None:
    model, videos = scenes
    for clip in videos:
        states = fold(model, clip)
        assert all(torch.equal(state.reference, states[0].reference) for state in states)


def test_scene_cut_takes_reference_and_ring_anew(scenes: tuple[Segmenter, list[Tensor]]) -> None:
    model, (first, second) = scenes
    states = fold(model, torch.cat([first[:, :8], second[:, :6].flip(-1)], dim=1))
    fresh = fold(model, second[:, :6].flip(-1))
    assert all(torch.equal(state.reference, states[0].reference) for state in states[:8])
    for after, alone in zip(states[8:], fresh, strict=True):
        torch.testing.assert_close(after.reference, fresh[0].reference)
        # The first frame of the scene stands in for those before it; then the ring fills as in a new video.
        known = alone.ring.frames.shape[1]
        torch.testing.assert_close(after.ring.frames[:, -known:], alone.ring.frames)
        torch.testing.assert_close(after.ring.frames[:, 0], alone.ring.frames[:, 0])


def test_predictions_after_a_cut_are_those_of_a_new_video(scenes: tuple[Segmenter, list[Tensor]]) -> None:
    model, (first, second) = scenes
    both = torch.cat([first[:, :7], second.flip(-1)], dim=1)
    state, got = None, []
    with torch.no_grad():
        for image in both.unbind(1):
            out, state = model.step(image, state)
            got.append(out)
        want = model(second.flip(-1)).logits
    torch.testing.assert_close(torch.stack(got[7:], 1), want, rtol=1e-4, atol=1e-5)


def test_threshold_two_never_cuts(scenes: tuple[Segmenter, list[Tensor]]) -> None:
    model, (first, second) = scenes
    before, model.temporal.cut_threshold = model.temporal.cut_threshold, 2.0
    try:
        states = fold(model, torch.cat([first[:, :3], 255 - second[:, :3]], dim=1))
    finally:
        model.temporal.cut_threshold = before
    assert all(torch.equal(state.reference, states[0].reference) for state in states)


def test_a_cut_in_one_stream_leaves_the_other_alone(scenes: tuple[Segmenter, list[Tensor]]) -> None:
    model, (first, second) = scenes
    cut = torch.cat([first[:, :4], second[:, :3].flip(-1)], dim=1)
    states = fold(model, torch.cat([cut, second[:, :7]]))
    assert not torch.equal(states[-1].reference[0], states[0].reference[0])
    assert torch.equal(states[-1].reference[1], states[0].reference[1])


# -- size -------------------------------------------------------------------------------------------------------------


def test_published_parameters_and_cost() -> None:
    with torch.device("meta"):
        model = create_model("ssltm-swin-small", LabelSpace(tuple(str(k) for k in range(124))))
    assert count_parameters(model) == 59_293_674
    assert count_parameters(model.temporal.blocks) == 3_179_624
    assert model.temporal.prototypes.prototypes.numel() == 190_464
    assert count_parameters(model.temporal.global_attention) == 462_592


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="expected context to be one of none, query, reference, both, came 'far'"):
        create_model("ssltm-tiny", LabelSpace(("a", "b")), temporal={"context": "far"})
    with pytest.raises(ValueError, match="expected a head, came Linear"):
        SSLTM(nn.Linear(1, 1))  # type: ignore[arg-type]
