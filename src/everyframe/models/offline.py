"""Offline prediction: the whole video is at hand, so a frame may look at later ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.frames import Role
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import Features

NEAR_FIRST = 10
"""Queries closer than this to frame 0 take the last frame as reference, as in offline tests of `ClipSampling`."""


@torch.no_grad()
def offline_logits(model: Segmenter, frames: Iterable[Tensor], last: Tensor | None = None) -> Iterator[Tensor]:
    """Predict every frame of a video as a test clip around it would, encoding each frame once.

    `Segmenter.step` never waits: there, an adjacent frame that lies ahead is replaced by the present one. Here the
    prediction of a frame comes when the frames ahead of it have come. Memory is bounded by the farthest offsets.

    Args:
        model: its temporal module must have fixed offsets (`TemporalModule.adjacent`, as SSLTM and TCB have).
        frames: uint8 [B, 3, H, W], in order.
        last: the last frame of the video, for modules with a reference: the first frames, which are too near to frame
            0 to learn from it, take this one as reference. Without it frame 0 serves all.

    Yields:
        logits [B, K, h, w], one per frame, in order.

    Raises:
        InputError: the temporal module is a recurrent one, for which there is no looking ahead.
    """
    temporal = model.temporal
    if not temporal.windowed:
        raise InputError(
            f"offline prediction needs a temporal module with fixed offsets, such as SSLTM or TCB, came "
            f"{type(temporal).__name__}; predict it as a stream"
        )
    behind = max((-offset for offset in temporal.adjacent), default=0)
    ahead = max((offset for offset in temporal.adjacent), default=0)
    behind, ahead = max(behind, 0), max(ahead, 0)
    roles = (Role.REFERENCE,) * temporal.reference + (Role.ADJACENT,) * len(temporal.adjacent)
    first: Features | None = None
    end = model.encode(last) if last is not None and temporal.reference else None
    known: deque[Features] = deque(maxlen=behind + ahead + 1)
    come = 0

    def predict(now: int) -> Tensor:
        start = come - len(known)  # position of the oldest frame that is still known
        # Beyond the ends of the video the nearest frame stands in; inside it the deque reaches far enough.
        context = [known[min(max(now + o, start), come - 1) - start] for o in temporal.adjacent]
        if temporal.reference:
            assert first is not None
            context.insert(0, end if end is not None and now < NEAR_FIRST else first)
        memory = temporal.gather(context, roles, model.head) if context else None
        outputs, _ = model.decode(known[now - start], memory)
        return model.head.semantic(outputs)

    done = 0
    for frame in frames:
        features = model.encode(frame)
        first = features if first is None else first
        known.append(features)
        come += 1
        if come > ahead:
            yield predict(done)
            done += 1
    for now in range(done, come):
        yield predict(now)
