"""Offline prediction: the whole video is at hand, so a frame may look at later ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from everyframe.errors import InputError
from everyframe.frames import NEAR_FIRST, Role
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import Features
from everyframe.models.temporal.identity import Identity


class OfflineState(NamedTuple):
    """What is known of a video; its size does not grow with the number of frames.

    Attributes:
        image: the latest frame as it came, [B, 3, H, W].
        latest: its features.
        known: features of the latest frames that offsets reach, oldest first.
        first: features of frame 0; None before it has come.
        end: features of the last frame; None for modules without a reference.
        seen: frames that have come, without the preview.
    """

    image: Tensor
    latest: Features
    known: tuple[Features, ...] = ()
    first: Features | None = None
    end: Features | None = None
    seen: int = 0


class Offline(nn.Module):
    """A segmenter that predicts every frame as a test clip around it would, encoding each frame once.

    `Segmenter.step` never waits: there, an adjacent frame that lies ahead is replaced by the present one. This
    predictor answers `lookahead` steps late instead: the step that takes frame t returns the logits of frame
    t - lookahead. After the last frame it is given that frame again, `lookahead` times, which is also how frames beyond
    the end are replaced in clips. A module with a reference is shown the last frame of the video before the first one
    (`preview`): frames too near to frame 0 to learn from it take that one as reference. Answers to the preview, and to
    the first `lookahead` frames, belong to no frame. `everyframe.inference.lookahead` keeps these rules for a stream.

    Clips know no scene cuts, and neither does this: the reference is that of the video.

    Args:
        segmenter: its temporal module must have fixed offsets (`TemporalModule.adjacent`, as SSLTM and TCB have).

    Attributes:
        lookahead: frames by which the answers lag.
        preview: whether the last frame is to be shown first.
        predicts: what its scores are, see `Head`.

    Raises:
        InputError: another predictor than a segmenter, or a recurrent one, for which there is no looking ahead.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        temporal = getattr(segmenter, "temporal", None)
        if not isinstance(segmenter, Segmenter) or not segmenter.temporal.windowed:
            raise InputError(
                f"offline: expected a model that looks at frames of fixed distances, such as SSLTM or TCB, came "
                f"{_called(segmenter if temporal is None else temporal)}; leave --offline out"
            )
        self.segmenter = segmenter
        self.label_space = segmenter.label_space
        self.predicts = segmenter.head.predicts
        self.adjacent = segmenter.temporal.adjacent
        self.preview = segmenter.temporal.reference
        self.lookahead = max((0, *self.adjacent))
        self.window = max((0, *(-offset for offset in self.adjacent))) + 1 + self.lookahead

    def step(self, frame: Tensor, state: OfflineState | None = None) -> tuple[Tensor, OfflineState]:
        """Take the next frame, uint8 [B, 3, H, W]; see the class for what comes back, [B, K, h, w]."""
        # The preview of a one-frame video, and the repeats at the end, are known already.
        again = state is not None and state.image.shape == frame.shape and torch.equal(state.image, frame)
        features = state.latest if state is not None and again else self.segmenter.encode(frame)
        if state is None and self.preview:
            return self._predict(features, [features], 0, 0, features), OfflineState(frame, features, end=features)
        old = state or OfflineState(frame, features)
        known = (*old.known, features)[-self.window :]
        first, seen = old.first or features, old.seen + 1
        now = max(seen - 1 - self.lookahead, 0)
        reference = old.end if old.end is not None and now < NEAR_FIRST else first
        logits = self._predict(reference, known, seen - len(known), now, known[now - seen + len(known)])
        return logits, OfflineState(frame, features, known, first, old.end, seen)

    def _predict(
        self, reference: Features, known: list[Features] | tuple[Features, ...], start: int, now: int, query: Features
    ) -> Tensor:
        """Decode frame `now`; `known` begins with frame `start`. The nearest known frame stands in for others."""
        roles = (Role.REFERENCE,) * self.preview + (Role.ADJACENT,) * len(self.adjacent)
        context = [known[min(max(now + offset - start, 0), len(known) - 1)] for offset in self.adjacent]
        if self.preview:
            context.insert(0, reference)
        head = self.segmenter.head
        memory = self.segmenter.temporal.gather(context, roles, head) if context else None
        return head.semantic(self.segmenter.decode(query, memory)[0])

    def describe(self) -> str:
        """Return one sentence on what looking ahead means for this model."""
        if not self.lookahead and not self.preview:
            return "offline: this model looks at no later frame; the labels are those of a stream without scene cuts"
        ahead = f"each frame is answered when the {self.lookahead} frames after it have come"
        end = f"the first {NEAR_FIRST} frames take the last one as reference"
        says = " and ".join(text for text, yes in ((ahead, self.lookahead), (end, self.preview)) if yes)
        return f"offline: {says}; the features of {self.window + 2 * self.preview} frames are kept, of any video"

    def extra_repr(self) -> str:
        """Arguments as `print(model)` shows them."""
        return f"lookahead={self.lookahead}, preview={self.preview}"


@torch.no_grad()
def offline_logits(model: Segmenter, frames: Iterable[Tensor], last: Tensor | None = None) -> Iterator[Tensor]:
    """Predict every frame of a video by `Offline`, from tensors.

    Args:
        model: see `Offline`.
        frames: uint8 [B, 3, H, W], in order, all of one size.
        last: the last frame of the video, for modules with a reference. Without it frame 0 serves all.

    Yields:
        logits [B, K, h, w], one per frame, in order.

    Raises:
        InputError: see `Offline`.
    """
    offline = Offline(model)
    state, come = None, 0
    frame = None
    for frame in frames:
        if state is None and offline.preview:
            _, state = offline.step(frame if last is None else last)
        logits, state = offline.step(frame, state)
        come += 1
        if come > offline.lookahead:
            yield logits
    if frame is None:
        return
    for _ in range(offline.lookahead):
        logits, state = offline.step(frame, state)
        come += 1
        if come > offline.lookahead:
            yield logits


def _called(part: object) -> str:
    return "one that sees each frame alone" if isinstance(part, Identity) else type(part).__name__
