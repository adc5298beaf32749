"""The checks of `everyframe.testing` find what is broken: each promise is broken on purpose once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.cli.__main__ import main
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import Embedding, Features, TemporalModule
from everyframe.models.zoo import TEMPORAL, create_model
from everyframe.testing import PROMISES, check_model, check_pixel_loss, check_term, settle
from everyframe.training.outcome import Outcome

SPACE = LabelSpace(("a", "b", "c"))


class Average(TemporalModule[Any]):
    """Half of this frame, half of what was: keeps every promise."""

    adjacent = (-2, -1)

    def __init__(self, head: Any, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        pixels = query.embedding["pixels"]
        if self.fits(memory, pixels):
            pixels = (1 - self.factor) * pixels + self.factor * memory
        return {**query.embedding, "pixels": pixels}, pixels

    def fits(self, memory: Any, pixels: Tensor) -> bool:
        return memory is not None and memory.shape == pixels.shape


class RemembersItself(Average):
    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        embedding, self.last = super().forward(query, getattr(self, "last", None), head)
        return embedding, self.last


class Forgets(Average):
    def fits(self, memory: Any, pixels: Tensor) -> bool:
        return self.training and super().fits(memory, pixels)


class Grows(Average):
    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        embedding, new = super().forward(query, memory[-1] if memory else None, head)
        return embedding, (*(memory or ()), new)


class HidesItsMemory(Average):
    class Box:
        def __init__(self, inner: Tensor) -> None:
            self.inner = inner

    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        embedding, new = super().forward(query, memory["box"].inner if memory else None, head)
        return embedding, {"box": self.Box(new), "new": new.detach()}


class WritesIntoItsMemory(Average):
    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        embedding, new = super().forward(query, memory, head)
        if self.fits(memory, new) and not torch.is_grad_enabled():
            memory.copy_(new)
        return embedding, new


class Counts(Average):
    def __init__(self, head: Any, channels: int) -> None:
        super().__init__(head, channels)
        self.register_buffer("frames", torch.zeros(()))

    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        self.frames += 1
        return super().forward(query, memory, head)


class MixesTheBatch(Average):
    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        embedding, new = super().forward(query, memory, head)
        return {**embedding, "pixels": embedding["pixels"] + embedding["pixels"].mean(0, keepdim=True)}, new


class GathersOtherwise(Average):
    def gather(self, frames: Any, roles: Any, head: Any) -> Any:
        return super().gather(frames[::-1], roles[::-1], head)


class ActsOnWholeClips(Average):
    """Adds the mean of all frames that `embed` is given: those of a clip, and a single one in a stream."""

    def embed(self, maps: Any, head: Any) -> Embedding:
        embedding = head.embed(maps)
        return {**embedding, "pixels": embedding["pixels"] + embedding["pixels"].mean(0, keepdim=True)}


class RunsPastCuts(Average):
    cut_threshold = 0.3


class IdleWeight(Average):
    def __init__(self, head: Any, channels: int) -> None:
        super().__init__(head, channels)
        self.idle = nn.Parameter(torch.zeros(3))


class NeedsLargeFrames(Average):
    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        embedding, new = super().forward(query, memory, head)
        pooled = F.interpolate(F.avg_pool2d(embedding["pixels"], 2), embedding["pixels"].shape[-2:])
        return {**embedding, "pixels": pooled}, new


class DrawsWhatIsNotSaved(Average):
    def __init__(self, head: Any, channels: int) -> None:
        super().__init__(head, channels)
        self.register_buffer("drawn", torch.rand(()), persistent=False)

    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        embedding, new = super().forward(query, memory, head)
        return {**embedding, "pixels": embedding["pixels"] * (1 + self.drawn)}, new


BROKEN: dict[str, tuple[type[Average], set[str]]] = {
    "nothing": (Average, set()),
    "logits cover frames of any size at the head's stride": (NeedsLargeFrames, set()),
    "a clip equals its frames one by one": (ActsOnWholeClips, {"training clip", "batch of streams"}),
    "a training clip equals the stream at its query": (GathersOtherwise, set()),
    "the memory has a say": (Forgets, set()),
    "two streams on one model do not see each other": (
        RemembersItself,
        {"clip equals", "training clip", "has a say", "neither the model", "pickles", "batch of streams"},
    ),
    "a batch of streams equals each alone": (MixesTheBatch, set()),
    "after a scene cut a stream is a fresh one": (RunsPastCuts, set()),
    "the memory stops growing": (Grows, set()),
    "the memory detaches, moves and pickles": (HidesItsMemory, set()),
    "a step changes neither the model nor its state": (WritesIntoItsMemory, {"pickles"}),
    "every parameter has a gradient": (IdleWeight, set()),
    "saved and loaded, it is the same": (DrawsWhatIsNotSaved, set()),
}


def build(module: type[Average], monkeypatch: pytest.MonkeyPatch) -> Segmenter:
    monkeypatch.setitem(TEMPORAL, "broken", module)
    torch.manual_seed(0)
    return settle(create_model("fcn-broken-tiny", SPACE, backbone={"width": 8, "stem_width": 8}, head={"width": 8}))


def test_each_promise_is_broken_here() -> None:
    assert list(BROKEN) == ["nothing", *PROMISES]


@pytest.mark.parametrize("promise", BROKEN)
def test_what_is_broken_is_found(promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, also = BROKEN[promise]
    found = {one.promise: one for one in check_model(build(module, monkeypatch))}
    broken = {name for name, one in found.items() if not one.holds}
    assert promise in broken or promise == "nothing"
    others = broken - {promise}
    assert all(any(part in name for part in also) for name in others), [str(found[name]) for name in others]
    if broken:
        assert found[promise].message


class Fixed(Average):
    """Shows each frame as it is made up by `shown`."""

    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        embedding, new = super().forward(query, memory, head)
        return {**embedding, "pixels": self.shown(embedding["pixels"])}, new

    def shown(self, pixels: Tensor) -> Tensor:
        return pixels


class NormsByDeviation(Fixed):
    def shown(self, pixels: Tensor) -> Tensor:
        return pixels / pixels.std((2, 3), keepdim=True, unbiased=False)  # 0 of a single cell


class IdleFactor(Fixed):
    def __init__(self, head: Any, channels: int) -> None:
        super().__init__(head, channels)
        self.idle = nn.Parameter(torch.ones(()))

    def shown(self, pixels: Tensor) -> Tensor:
        return pixels + 0 * self.idle


class Draws(Fixed):
    def shown(self, pixels: Tensor) -> Tensor:
        return pixels + torch.rand_like(pixels)


class Kept(NamedTuple):
    pixels: Tensor

    def __reduce__(self) -> Any:
        return Kept, (torch.zeros_like(self.pixels),)


class LosesItWhenPickled(Average):
    def forward(self, query: Features, memory: Any, head: Any) -> tuple[Embedding, Any]:
        embedding, new = super().forward(query, None if memory is None else memory.pixels, head)
        return embedding, Kept(new)


@pytest.mark.parametrize(
    ("module", "promise", "message"),
    [
        (NormsByDeviation, "logits cover frames of any size at the head's stride", "finite logits of frames (1, 1)"),
        (IdleFactor, "every parameter has a gradient", "came 0 at temporal.idle"),
        (Draws, "a step changes neither the model nor its state", "the same logits from the same frame and state"),
        (LosesItWhenPickled, "the memory detaches, moves and pickles", "from a memory that was pickled, came others"),
    ],
)
def test_the_same_promises_broken_otherwise(
    module: type[Average], promise: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {one.promise: one for one in check_model(build(module, monkeypatch))}
    assert not found[promise].holds
    assert message in found[promise].message


@pytest.mark.parametrize("attribute", [{"causal": False}, {"cut_threshold": 2.0}])
def test_what_a_model_does_not_promise_is_not_asked(attribute: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(type("Other", (Average,), attribute), monkeypatch)
    found = check_model(model)
    assert all(one.holds for one in found)
    asked = {one.promise for one in found if one.message}
    clips = {"a clip equals its frames one by one", "a training clip equals the stream at its query"}
    assert asked == {"after a scene cut a stream is a fresh one"} | (clips if "causal" in attribute else set())


def test_a_model_that_cannot_be_looked_at_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"expected a model on the CPU, came one on meta; model\.cpu\(\) first"):
        check_model(build(Average, monkeypatch).to("meta"))


def test_a_module_that_counts_in_its_buffers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [one for one in check_model(build(Counts, monkeypatch)) if not one.holds]
    assert [one.promise for one in broken] == ["a step changes neither the model nor its state"]
    assert "temporal.frames" in broken[0].message


def test_the_model_stays_as_it_is_and_so_do_torchs_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(Average, monkeypatch)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    numbers = torch.get_rng_state()
    check_model(model)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert not model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_command_says_what_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(TEMPORAL, "broken", Grows)
    assert main(["models", "fcn-broken-tiny", "fcn-tiny", "--check", "--classes", "3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines].count("broken") == 1
    (broken,) = [line for line in lines if line.startswith("  broken")]
    assert "the memory stops growing: expected a memory that stops growing within 20 frames, came " in broken
    assert lines[0] == "fcn-broken-tiny"
    assert sum(line.startswith("  -") for line in lines) == 3  # one of this model, two of one without a memory
    assert main(["models", "fcn-tiny", "--check", "--classes", "3"]) == 0
    capsys.readouterr()
    assert main(["models", "--check"]) == 1
    assert "expected names of models, came none" in capsys.readouterr().err


# -- losses -----------------------------------------------------------------------------------------------------------

Loss = Callable[[Tensor, Tensor], Tensor]


def nll(x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(x, y.long(), ignore_index=255, reduction="sum") / (y != 255).sum().clamp(min=1)


LOSSES: dict[str, Loss] = {
    "expected a finite scalar": lambda x, y: F.cross_entropy(x, y.long(), ignore_index=255, reduction="none"),
    "no gradient at pixels labelled 255": lambda x, y: nll(x, y) + x.square().mean(),
    "the same loss whatever is predicted at pixels labelled 255": lambda x, y: nll(x, y) + x.detach().square().mean(),
    "to fall along its gradient": lambda x, y: 2 * nll(x, y).detach() - nll(x, y),
    "exactly 0 of a batch without labels": lambda x, y: F.cross_entropy(x, y.long(), ignore_index=255),
    "with a gradient at the logits, also without labels": lambda x, y: (
        nll(x, y) if (y != 255).any() else torch.zeros(())
    ),
    "at the logits, also without labels, came a constant": lambda x, y: nll(x, y).detach(),
}


def test_a_sound_loss_passes() -> None:
    check_pixel_loss(nll)
    check_term(lambda outcome: nll(F.interpolate(outcome.logits, outcome.labels.shape[-2:]), outcome.labels))


@pytest.mark.parametrize("message", LOSSES)
def test_a_loss_that_is_not_is_told_why(message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_pixel_loss(LOSSES[message])


def test_a_term_that_counts_ignored_pixels_is_told_so() -> None:
    def term(outcome: Outcome) -> Tensor:
        return nll(outcome.logits, outcome.labels) + outcome.logits.square().mean()

    with pytest.raises(AssertionError, match="no gradient at pixels labelled 255"):
        check_term(term)
