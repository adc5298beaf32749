"""What every segmenter promises: checks that name what is broken, for the models here and for those of users."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from everyframe.errors import InputError
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import map_tensors, state_bytes
from everyframe.models.temporal.ssltm import SSLTM
from everyframe.testing.scenes import SIZE, moving_scene, run_clip, run_stream, run_training_clip

TOLERANCE = 1e-3
"""Of the largest logit: how far sums in another order may lie apart in float32, in large models too."""

FRAMES = 40
"""Of the video in whose second half a memory no longer grows."""

ODD_SIZES = (SIZE, (33, 127), (1, 1))

Promise = Callable[[Segmenter, float], None]
"""(model in eval mode, tolerance) -> nothing, or an error: `AssertionError` with what is broken, `NotAsked`."""


class NotAsked(Exception):
    """A promise that models of this kind do not make; the message says which do."""


@dataclass(frozen=True)
class Found:
    """What became of one promise.

    Attributes:
        promise: in words, a key of `PROMISES`.
        holds: False where it is broken.
        message: what is broken, or why nothing was looked at; "" where it was, and holds.
    """

    promise: str
    holds: bool
    message: str = ""

    def __str__(self) -> str:
        state = "broken" if not self.holds else "-" if self.message else "holds"
        return f"{state:6s}  {self.promise}{self.message and f': {self.message}'}"


def check_model(model: Segmenter, tolerance: float = TOLERANCE) -> list[Found]:
    """Hold a model to every promise of `PROMISES`.

    Args:
        model: any segmenter; it stays as it is. One whose weights were just drawn is given to `settle` first: norms
            that have seen nothing and factors that are 0 hide what stands behind them.
        tolerance: share of the largest logit by which two ways to the same logits may differ.

    Returns:
        One `Found` for each promise, in their order. What a model raises is a broken promise too.

    Raises:
        InputError: the model cannot be looked at: it is not on the CPU, or cannot be copied.
    """
    try:
        copy.deepcopy(model)
    except Exception as error:
        raise InputError(f"check_model: expected a model that copy.deepcopy copies, came {error}") from error
    if elsewhere := {p.device.type for p in model.parameters()} - {"cpu"}:
        raise InputError(f"check_model: expected a model on the CPU, came one on {elsewhere.pop()}; model.cpu() first")
    found = []
    for promise, holds in PROMISES.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                holds(copy.deepcopy(model).eval(), tolerance)
            except NotAsked as reason:
                found.append(Found(promise, True, str(reason)))
            except Exception as error:
                said = " ".join(str(error).split())
                named = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
                found.append(Found(promise, False, named + said))
            else:
                found.append(Found(promise, True))
    return found


def settle(model: Segmenter) -> Segmenter:
    """Bring a fresh model to where its parts have a say: statistics of norms, prototypes, factors that start at 0.

    Args:
        model: changed in place.

    Returns:
        The model, in eval mode.
    """
    with torch.no_grad():
        for p in model.temporal.parameters():
            p.add_(torch.randn_like(p) * 0.05)
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # average of all batches: one is enough to bring features to scale
        features = model.train()(moving_scene(2, batch=2)).features
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        if isinstance(model.temporal, SSLTM) and model.temporal.prototypes is not None:
            model.temporal.prototypes.observe(features.embedding[model.temporal.site.key], _labels(model, 4))
    return model.eval()


# -- the promises -----------------------------------------------------------------------------------------------------


def _covers_the_frame(model: Segmenter, tolerance: float) -> None:
    stride, classes = model.head.stride, len(model.label_space)
    for size in ODD_SIZES:
        logits, _ = run_stream(model, moving_scene(2, size=size))
        want = (1, 2, classes, *(-(-side // stride) for side in size))
        _hold(tuple(logits.shape) == want, f"expected logits {want} of frames {size}, came {tuple(logits.shape)}")
        _hold(bool(logits.isfinite().all()), f"expected finite logits of frames {size}, came others")


def _clip_equals_stream(model: Segmenter, tolerance: float) -> None:
    if not model.temporal.causal:
        raise NotAsked("it looks at later frames")
    clip = moving_scene(4)
    _same(run_clip(model, clip), run_stream(model, clip)[0], tolerance)


def _training_clip_equals_stream(model: Segmenter, tolerance: float) -> None:
    """The clip holds the frames that the stream looks back at: the first one and those at the module's offsets."""
    if not model.temporal.causal:
        raise NotAsked("it looks at later frames")
    if getattr(model.temporal, "memory", "none") != "none":
        raise NotAsked("it remembers more than a training clip holds")
    now = max((-offset for offset in model.temporal.adjacent), default=0)
    clip = moving_scene(now + 1)
    _same(run_training_clip(model, clip, now), run_stream(model, clip)[0][:, now], tolerance)


def _memory_counts(model: Segmenter, tolerance: float) -> None:
    clip = moving_scene(4)
    logits, state = run_stream(model, clip)
    if not state_bytes(state):
        raise NotAsked("it remembers nothing")
    alone, _ = run_stream(model, clip[:, 3:])
    apart = (logits[:, 3:] - alone).abs().max()
    counts = bool(apart > tolerance * logits.abs().max())
    _hold(counts, "expected other logits with a memory than without, came the same")


def _streams_are_apart(model: Segmenter, tolerance: float) -> None:
    clips = [moving_scene(3), moving_scene(3)]
    want = [run_stream(model, clip)[0] for clip in clips]
    states: list[Any] = [None, None]
    for t in range(3):
        for i, clip in enumerate(clips):
            got, states[i] = run_stream(model, clip[:, t : t + 1], states[i])
            same = torch.equal(got, want[i][:, t : t + 1])
            _hold(same, f"expected the same frame {t} of a stream when another runs in between, came other logits")


def _batch_equals_single(model: Segmenter, tolerance: float) -> None:
    clips = moving_scene(3, batch=2)
    _same(run_stream(model, clips)[0], torch.cat([run_stream(model, clip[None])[0] for clip in clips]), tolerance)


def _ends_at_a_scene_cut(model: Segmenter, tolerance: float) -> None:
    threshold = getattr(model.temporal, "cut_threshold", None)
    if threshold is None or threshold > 1:  # `scene_change` is about 1 at most
        raise NotAsked(f"its memory does not look for scene cuts (`cut_threshold` is {threshold})")
    scene = moving_scene(13)
    want, _ = run_stream(model, scene)
    state = run_stream(model, moving_scene(4))[1]
    _same(run_stream(model, scene, state)[0], want, tolerance)


def _memory_is_bounded(model: Segmenter, tolerance: float) -> None:
    state, sizes = None, []
    for frame in moving_scene(FRAMES, size=(24, 32)).split(1, 1):
        state = run_stream(model, frame, state)[1]
        sizes.append(state_bytes(state))
    grown = sorted(set(sizes[FRAMES // 2 :]))
    _hold(
        len(grown) == 1, f"expected a memory that stops growing within {FRAMES // 2} frames, came {_some(grown)} bytes"
    )


def _memory_is_a_tree_of_tensors(model: Segmenter, tolerance: float) -> None:
    clip = moving_scene(2)
    _, state = model.step(clip[:, 0])
    detached = map_tensors(Tensor.detach, state)
    leaves = pytree.tree_leaves(detached)
    other = {type(x).__name__ for x in leaves if not isinstance(x, (Tensor, int, float, str, type(None)))}
    _hold(not other, f"expected tensors in named tuples, tuples and dicts, came {', '.join(sorted(other))}")
    moved = state_bytes(map_tensors(lambda x: x.to("meta"), detached))
    _hold(moved == state_bytes(detached), "expected a memory that keeps its size on another device, came another size")
    want, _ = run_stream(model, clip[:, 1:], detached)
    got, _ = run_stream(model, clip[:, 1:], pickle.loads(pickle.dumps(detached)))
    _hold(torch.equal(got, want), "expected the same logits from a memory that was pickled, came others")


def _step_changes_nothing(model: Segmenter, tolerance: float) -> None:
    clip = moving_scene(3)
    _, state = run_stream(model, clip[:, :2])
    weights, before = copy.deepcopy(model.state_dict()), map_tensors(torch.clone, state)
    first, _ = run_stream(model, clip[:, 2:], state)
    again, _ = run_stream(model, clip[:, 2:], state)
    changed = [name for name, x in model.state_dict().items() if not torch.equal(x, weights[name])]
    _hold(not changed, f"expected a step that leaves the model as it is, came one that changes {_some(changed)}")
    pairs = zip(pytree.tree_leaves(before), pytree.tree_leaves(state), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))
    _hold(same, "expected a step that leaves the state it was given as it is, came one that changes it")
    _hold(torch.equal(first, again), "expected the same logits from the same frame and state, came others")


def _everything_is_trained(model: Segmenter, tolerance: float) -> None:
    prediction = model.train()(moving_scene(3, batch=2))
    loss = torch.stack([(x * torch.randn_like(x)).sum() for x in prediction.outputs.values()]).sum()
    if prediction.auxiliary is not None:
        loss = loss + prediction.auxiliary.square().sum()
    if isinstance(model.temporal, SSLTM) and model.temporal.prototypes is not None:  # they move by their own loss alone
        pixels = prediction.features.embedding[model.temporal.site.key]
        loss = loss + model.temporal.prototypes.observe(pixels, _labels(model, 6))
    loss.backward()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    lost = [name for name, p in trained if p.grad is None]
    _hold(not lost, f"expected a gradient at every parameter, came none at {_some(lost)}")
    lost = [name for name, p in trained if name.startswith("temporal.") and (p.grad is None or not p.grad.any())]
    _hold(not lost, f"expected a gradient other than 0 in the temporal module, came 0 at {_some(lost)}")


def _saved_and_loaded(model: Segmenter, tolerance: float) -> None:
    from everyframe.models.checkpoint import load

    if not model.config:
        raise NotAsked("it was not made by create_model, which is what can be saved")
    clip = moving_scene(2)
    want, _ = run_stream(model.float(), clip)  # what is loaded computes in float32
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = load(folder)
    assert isinstance(loaded, Segmenter)
    got, _ = run_stream(loaded, clip)
    _same(got, want, tolerance)


PROMISES: dict[str, Promise] = {
    "logits cover frames of any size at the head's stride": _covers_the_frame,
    "a clip equals its frames one by one": _clip_equals_stream,
    "a training clip equals the stream at its query": _training_clip_equals_stream,
    "the memory has a say": _memory_counts,
    "two streams on one model do not see each other": _streams_are_apart,
    "a batch of streams equals each alone": _batch_equals_single,
    "after a scene cut a stream is a fresh one": _ends_at_a_scene_cut,
    "the memory stops growing": _memory_is_bounded,
    "the memory detaches, moves and pickles": _memory_is_a_tree_of_tensors,
    "a step changes neither the model nor its state": _step_changes_nothing,
    "every parameter has a gradient": _everything_is_trained,
    "saved and loaded, it is the same": _saved_and_loaded,
}
"""In words -> check."""


def _labels(model: Segmenter, frames: int) -> Tensor:
    """Of few classes, so that each has pixels enough to fill its prototypes."""
    return torch.randint(0, min(3, len(model.label_space)), (frames, *SIZE), dtype=torch.uint8)


def _some(names: Sequence[object]) -> str:
    """The first of them, and how many there are."""
    return ", ".join(map(str, names[:3])) + (f" ... ({len(names)} in all)" if len(names) > 3 else "")


def _same(got: Tensor, want: Tensor, tolerance: float) -> None:
    largest = want.abs().max().item()
    _hold(largest > 1e-3, "expected logits that differ from 0, came 0 everywhere; settle(model) first")
    apart = (got - want).abs().max().item()
    near = apart <= tolerance * max(1.0, largest)
    _hold(near, f"expected the same logits, came ones {apart:.2g} apart (the largest is {largest:.2g})")


def _hold(true: bool, message: str) -> None:
    if not true:
        raise AssertionError(message)
