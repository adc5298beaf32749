"""Warp-Refine: labels moved frame by frame along flow, each time refined by what a model sees; trained on cycles.

Ganeshan et al., "Warp-Refine Propagation: Semi-Supervised Auto-labeling via Cycle-consistency" (ICCV 2021). A label map
goes some frames away and back; what returns must be what left. No code of it is public. Two things are ours:

- the last step back, onto the labelled frame, is not refined: the model has been trained on that frame's labels, and
  would look more trustworthy there than it is;
- on the way out, labels are hidden in boxes. What is drawn in there comes from the model's view of a frame without a
  label and is held against the true labels when it returns. Where flow alone hides something, nothing ever returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everyframe.data.layout import VideoRef
from everyframe.data.reading import read_frames, read_labels
from everyframe.errors import InputError
from everyframe.flow import DISFlow, Flow, FlowPair, checked_pair
from everyframe.frames import IGNORE, Frame
from everyframe.inference.labelmap import label_map
from everyframe.inference.stream import to_numpy
from everyframe.labels import LabelSpace
from everyframe.losses.pixel import upsample
from everyframe.metrics.flow import visible
from everyframe.models.label_refiner import LabelRefiner
from everyframe.models.ops.warp import inside, warp
from everyframe.training.propagation import Labels, Look, Neighbour, Way

HIDDEN = 0.5
"""Share of the steps on the way out in which a box of labels is hidden."""


class Move(NamedTuple):
    """One step of labels from a frame to its neighbour.

    Attributes:
        flow: from the goal's pixels into the frame that the labels come from, [1, 2, H, W].
        seen: bool [1, 1, H, W], which of the goal's pixels that frame shows.
        prior: the model's probabilities of the goal, [1, K, H, W].
        frame: the goal, uint8 [1, 3, H, W].
    """

    flow: Tensor
    seen: Tensor
    prior: Tensor
    frame: Tensor

    @classmethod
    def onto(cls, frame: Frame, inwards: FlowPair, logits: Tensor) -> Move:
        """Return the step onto a frame, of its flow to where labels come from and the model's logits of it."""
        flow = torch.from_numpy(inwards.forward)[None].to(logits.device)
        seen = torch.from_numpy(visible(inwards))[None, None].to(logits.device)
        prior = upsample(logits, (flow.shape[-2], flow.shape[-1])).softmax(1)
        return cls(flow, seen, prior, frame.image[None].to(logits.device))

    def crop(self, top: int, left: int, side: int) -> Move:
        """Return the step within a window, without the rest; what comes from outside is not seen."""
        flow, seen, prior, frame = (x[..., top : top + side, left : left + side].clone() for x in self)
        return Move(flow, seen & inside(flow), prior, frame)

    def carry(self, probabilities: Tensor) -> Tensor:
        """Move probabilities [1, K, H, W]; 0 where nothing is seen."""
        return warp(probabilities, self.flow) * self.seen

    def refine(self, refiner: LabelRefiner, carried: Tensor) -> Tensor:
        """Return log-probabilities [1, K, H, W] of what was carried onto the goal."""
        refined: Tensor = refiner(carried, self.prior, self.frame)
        return refined


class Refined:
    """The `Carrier` of `everyframe.training.propagation` that refines labels at every step.

    Args:
        refiner: trained; moved to where the logits are.
        threshold: pixels less probable become 255; 0 keeps all.
    """

    def __init__(self, refiner: LabelRefiner, threshold: float = 0.0) -> None:
        self.refiner, self.threshold = refiner.eval(), threshold

    @torch.inference_mode()
    def __call__(self, labels: Labels, neighbours: Iterable[Neighbour]) -> Iterator[Labels]:
        """See `Carrier`. What the labelled frame calls void is void wherever it is seen."""
        way, probabilities = Way.begin(labels.shape), None
        for neighbour in neighbours:
            assert neighbour.logits is not None, "a model looks"
            if probabilities is None:
                self.refiner.to(neighbour.logits.device)
                probabilities = one_hot(torch.from_numpy(labels), neighbour.logits.shape[1]).to(neighbour.logits.device)
            way = way.further(neighbour.inwards)
            move = Move.onto(neighbour.frame, neighbour.inwards, neighbour.logits)
            refined = move.refine(self.refiner, move.carry(probabilities))
            probabilities = refined.exp()
            found = label_map(refined, labels.shape)[0]
            found[~(probabilities[0].amax(0) >= self.threshold)] = IGNORE  # no number is not sure
            void = way.carry(labels, hidden=0) == IGNORE
            yield np.where(void, np.uint8(IGNORE), to_numpy(found))


class RefinerScore(NamedTuple):
    """Shares of the labels that are right when they are back from a cycle, over the last tenth of the training.

    Attributes:
        refined: with the refiner.
        filled: with an untrained one, which fills in the model's view where labels are hidden.
    """

    refined: float
    filled: float


def train_refiner(
    look: Look,
    videos: Sequence[VideoRef],
    space: LabelSpace,
    *,
    reach: int = 5,
    steps: int = 400,
    batch_size: int = 4,
    lr: float = 2e-3,
    crop: int = 256,
    width: int = 32,
    seed: int = 0,
    flow: Flow | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[LabelRefiner, RefinerScore]:
    """Train a refiner on the labelled frames of videos and the frames around them.

    Args:
        look: the model's view of frames, see `everyframe.training.propagation.look_with`.
        videos: some of their frames labelled.
        space: their classes.
        reach: frames that labels go away; the first half of the steps rises to it from 1.
        steps: of AdamW, with a learning rate that falls to 0 along a cosine.
        batch_size: cycles per step.
        lr: learning rate at the beginning.
        crop: side of the window that is refined, in pixels.
        width: of the refiner.
        seed: of weights, frames, windows and boxes.
        flow: estimator; OpenCV's DIS when left out.
        stop: asked before every step; True ends the training there.

    Returns:
        The refiner and how well its cycles closed.

    Raises:
        InputError: no labelled frame has a neighbour, or numbers below 1.
    """
    if min(reach, steps, batch_size, crop, width) < 1:
        raise InputError("warp-refine: expected reach, steps, batch size, crop and width of at least 1")
    sources = [(video, at) for video in videos if len(video.frames) > 1 for at in video.labelled]
    if not sources:
        raise InputError("warp-refine: expected labelled frames in videos of two frames or more, came none")
    estimator = flow if flow is not None else DISFlow()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        refiner, untrained = LabelRefiner(len(space), width), LabelRefiner(len(space), width)
    optimizer = torch.optim.AdamW(refiner.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    right, pixels = torch.zeros(2), 0
    for step in range(steps):
        if stop():
            break
        farthest = min(reach, 1 + 2 * reach * step // steps)
        optimizer.zero_grad()
        for _ in range(batch_size):
            video, at = sources[_draw(len(sources), generator)]
            trip = read_trip(look, video, at, space, 1 + _draw(farthest, generator), estimator, crop, generator)
            for each in (refiner, untrained):
                each.to(trip.labels.device)
            returned = trip.cycle(refiner)
            (trip.loss(returned) / batch_size).backward()
            if step >= steps - max(1, steps // 10):
                with torch.no_grad():
                    right += torch.tensor([trip.right(returned), trip.right(trip.cycle(untrained))])
                pixels += int(trip.returning.sum())
        optimizer.step()
        schedule.step()
    return refiner.eval(), RefinerScore(*(right / max(pixels, 1)).tolist())


class Trip(NamedTuple):
    """A way of labels to a frame some steps away and back.

    Attributes:
        labels: int64 [1, H, W] of the labelled frame, 255 where unknown.
        moves: all steps in order, those back included.
        boxes: bool [1, 1, H, W] for each step out, True where its labels are hidden.
    """

    labels: Tensor
    moves: list[Move]
    boxes: list[Tensor]

    @property
    def returning(self) -> Tensor:
        """Labelled pixels that the last step shows again, bool [1, H, W]; the others say nothing about a refiner."""
        return self.moves[-1].seen[0] & (self.labels != IGNORE)

    def cycle(self, refiner: LabelRefiner) -> Tensor:
        """Send the labels there and back: log-probabilities [1, K, H, W] of what returns."""
        probabilities = one_hot(self.labels[0], self.moves[0].prior.shape[1])
        for move, box in zip(self.moves[:-1], [*self.boxes, *[None] * len(self.boxes)], strict=False):
            carried = move.carry(probabilities)
            probabilities = move.refine(refiner, carried if box is None else carried * ~box).exp()
        back = self.moves[-1].carry(probabilities)
        return back.clamp(min=torch.finfo(back.dtype).eps).log()

    def loss(self, returned: Tensor) -> Tensor:
        """Return the cross entropy of what `cycle` returned, the mean over the pixels that return: scalar."""
        labels = self.labels.where(self.returning, IGNORE)
        summed = F.nll_loss(returned, labels, ignore_index=IGNORE, reduction="sum")
        return summed / self.returning.sum().clamp(min=1)

    def right(self, returned: Tensor) -> int:
        """Return how many of the pixels that return have their own label again."""
        return int(((returned.argmax(1) == self.labels) & self.returning).sum())


def read_trip(
    look: Look,
    video: VideoRef,
    source: int,
    space: LabelSpace,
    length: int,
    flow: Flow,
    crop: int,
    generator: torch.Generator,
) -> Trip:
    """Read the frames of a trip from a labelled one, forwards or backwards in time by chance, in a random window.

    Args:
        look: see `train_refiner`.
        video: of at least two frames.
        source: position of the labelled frame.
        space: its classes.
        length: frames away; fewer where the video ends.
        flow: estimator.
        crop: side of the window.
        generator: of what is drawn.
    """
    ahead, behind = min(length, len(video.frames) - 1 - source), min(length, source)
    forwards = behind == 0 or (ahead > 0 and _draw(2, generator) == 1)
    indices = range(source, source + ahead + 1) if forwards else range(source - behind, source + 1)
    frames = read_frames(video, indices)
    with torch.inference_mode():
        logits = list(look(frames))
    labels = read_labels(video, source, space, frames[0].size)
    assert labels is not None
    if not forwards:
        frames, logits = frames[::-1], logits[::-1]
    count = len(frames) - 1
    flows = [_both_ways(flow, frames[n + 1].image, frames[n].image) for n in range(count)]
    height, width = labels.shape
    top, left = _draw(max(1, height - crop + 1), generator), _draw(max(1, width - crop + 1), generator)
    window = torch.from_numpy(labels)[None, top : top + crop, left : left + crop].long().to(logits[0].device)
    boxes = [_box((window.shape[1], window.shape[2]), generator).to(window.device) for _ in range(count)]
    steps = [*((n + 1, flows[n][0]) for n in range(count)), *((n, flows[n][1]) for n in reversed(range(count)))]
    # One at a time: a step of the whole frame holds K probabilities of each of its pixels.
    moves = [Move.onto(frames[n], pair, logits[n].clone()).crop(top, left, crop) for n, pair in steps]
    return Trip(window, moves, boxes)


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Return labels [H, W] as probabilities float32 [1, K, H, W]; all 0 where they are 255."""
    return (labels[None] == torch.arange(num_classes, device=labels.device)[:, None, None]).float()[None]


def _both_ways(flow: Flow, first: Tensor, second: Tensor) -> tuple[FlowPair, FlowPair]:
    """Return the flow from the first frame to the second, and from the second to the first, each with the other."""
    size = (first.shape[-2], first.shape[-1])
    there, back = checked_pair(flow.between(first, second), size)
    if back is None:
        back = checked_pair(flow.between(second, first), size).forward
    return FlowPair(there, back), FlowPair(back, there)


def _box(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw a box of a quarter to a half of each side, or nothing: bool [1, 1, H, W]."""
    box = torch.zeros(1, 1, *size, dtype=torch.bool)
    draw = torch.rand(5, generator=generator).tolist()
    if draw[0] < HIDDEN:
        sides = [max(1, round(side * (1 + more) / 4)) for side, more in zip(size, draw[1:3], strict=True)]
        places = [int(at * (side - own + 1)) for side, own, at in zip(size, sides, draw[3:], strict=True)]
        box[..., places[0] : places[0] + sides[0], places[1] : places[1] + sides[1]] = True
    return box


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
