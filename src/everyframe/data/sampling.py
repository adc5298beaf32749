"""Which frames make a clip: index arithmetic only, nothing is read.

Two questions, two functions of plain integers: which frames of a video may be the query of a training clip
(`queries`, `clip_queries`), and which frames the clip around a query holds (`ClipSampling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from everyframe.data.layout import VideoRef
from everyframe.errors import InputError
from everyframe.frames import NEAR_FIRST, Role

Reference = Literal["far_end", "first", "random"] | int | None
Anchor = Literal["first", "last", "random"]
Which = Literal["labelled", "unlabelled", "all"]
Per = Literal["video", "frame"]


class ClipIndices(NamedTuple):
    """Frames of one clip.

    Attributes:
        indices: position of each of the T frames in its video; one index may come twice in short videos.
        roles: what each frame does, the same for all clips of one `ClipSampling`.
    """

    indices: tuple[int, ...]
    roles: tuple[Role, ...]


@dataclass(frozen=True, slots=True)
class ClipSampling:
    """The rule that picks the frames of a clip around a query frame.

    A clip lists its frames in the order in which a stream would meet them: the reference frame, then adjacent frames
    and queries by their offset in time. Frames that would lie outside the video are replaced by its first or last.

    Attributes:
        adjacent: offsets of the adjacent frames; negative ones count from the first query of the clip, positive ones
            from the last. (-3, 3) at 15 frames/s: neighbours at +-1 are almost copies of the query. Causal modules
            take, for example, (-6, -3).
        reference: the distant frame. "far_end": the first or last frame, whichever is farther from the query;
            "first"; "random": any frame; an integer: that many frames from the query towards the far end, at most to
            the end; None: no reference.
        queries: how many frames of the clip are queries. More than one for recurrent training and contrastive losses.
        stride: frames from one query to the next; below 0 the clip turns time around, as with `mirror`. Several: one is
            drawn for every clip in training, the first is taken at test time. With two queries, the last one labelled,
            (1, 2, -1, -2, -3) is ETC's training: the companion frame lies 1 or 2 before or 1, 2 or 3 after it.
        anchor: where in the run of queries the drawn (normally labelled) frame lies. "last" gives a recurrent module
            the longest past. The run is moved into the video where it fits.
        mirror: in training turn time around for every second clip: offsets change sign, roles stay (TCB).

    Example:
        >>> ClipSampling(adjacent=(-3, 3), reference="first").test(frames=10, query=1).indices
        (0, 0, 1, 4)
        >>> ClipSampling(adjacent=(), reference=None, queries=2, stride=-3).test(frames=10, query=5).indices
        (8, 5)
    """

    adjacent: tuple[int, ...] = (-3, 3)
    reference: Reference = "far_end"
    queries: int = 1
    stride: int | tuple[int, ...] = 1
    anchor: Anchor = "last"
    mirror: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "adjacent", tuple(int(offset) for offset in self.adjacent))
        if 0 in self.adjacent:
            raise InputError(f"ClipSampling.adjacent: 0 is the query itself, came {self.adjacent}; leave it out")
        if not isinstance(self.stride, int):
            object.__setattr__(self, "stride", tuple(int(stride) for stride in self.stride))
        if self.queries < 1:
            raise InputError(f"ClipSampling.queries: expected 1 or more, came {self.queries}")
        if not self.strides or 0 in self.strides:
            raise InputError(
                f"ClipSampling.stride: expected frames from one query to the next, 1 or more (or below 0 to turn time "
                f"around), or a list of such numbers, came {self.stride}"
            )
        distance = isinstance(self.reference, int) and self.reference >= 0
        if not distance and self.reference not in ("far_end", "first", "random", None):
            raise InputError(
                f"ClipSampling.reference: expected far_end, first, random, a distance of 0 or more frames, or none, "
                f"came {self.reference!r}"
            )
        if self.anchor not in ("first", "last", "random"):
            raise InputError(f"ClipSampling.anchor: expected first, last or random, came {self.anchor!r}")

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides that clips may have."""
        return (self.stride,) if isinstance(self.stride, int) else self.stride

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles of the T frames of every clip, in clip order."""
        before, after = self._split_offsets()
        return (
            *(Role.REFERENCE,) * (self.reference is not None),
            *(Role.ADJACENT,) * len(before),
            *(Role.QUERY,) * self.queries,
            *(Role.ADJACENT,) * len(after),
        )

    def train(self, frames: int, query: int, rng: np.random.Generator) -> ClipIndices:
        """Pick the clip around a query for training.

        Args:
            frames: N, number of frames of the video.
            query: position of the drawn frame, 0..N-1.
            rng: decides mirrored time, random references, random anchors and one of several strides, in this order;
                drawn from only where these are asked for.
        """
        sign = -1 if self.mirror and rng.random() < 0.5 else 1
        if self.reference == "random":
            reference: int | None = int(rng.integers(frames))
        else:
            reference = self._fixed_reference(frames, query)
        anchor = int(rng.integers(self.queries)) if self.anchor == "random" else self._fixed_anchor()
        several = len(self.strides) > 1
        stride = self.strides[int(rng.integers(len(self.strides))) if several else 0]
        return self._clip(frames, query, reference, anchor, sign * stride)

    def test(self, frames: int, query: int, offline: bool = False) -> ClipIndices:
        """Pick the clip around a query at test time: nothing is drawn, and the far end becomes the first frame.

        The first frame is known to a stream and encoded once per video. Mirrored samplings turn around where
        the positive offsets leave the video and the negative ones do not (TCB's rule at the end of a video).

        Args:
            frames: N, number of frames of the video.
            query: position of the frame to predict, 0..N-1.
            offline: the whole video is at hand: queries within `NEAR_FIRST` frames of frame 0 take the last frame.
        """
        reference: int | None = 0
        if self.reference is None or isinstance(self.reference, int):
            reference = self._fixed_reference(frames, query)
        elif offline and query < NEAR_FIRST:
            reference = frames - 1
        low, high = min(self.adjacent, default=0), max(self.adjacent, default=0)
        leaves = query + low < 0 or query + high >= frames
        turned_fits = query - high >= 0 and query - low < frames
        sign = -1 if self.mirror and leaves and turned_fits else 1
        anchor = self.queries - 1 if self.anchor == "random" else self._fixed_anchor()
        return self._clip(frames, query, reference, anchor, sign * self.strides[0])

    def _clip(self, frames: int, query: int, reference: int | None, anchor: int, step: int) -> ClipIndices:
        if not 0 <= query < frames:
            raise ValueError(f"ClipSampling: expected a query in 0..{frames - 1}, came {query}")
        before, after = self._split_offsets()
        sign, stride = (1 if step > 0 else -1), abs(step)
        span = stride * (self.queries - 1)
        first = query - anchor * step
        low, high = min(first, first + sign * span), max(first, first + sign * span)
        if span < frames:  # the run of queries fits: move it inside instead of repeating the end frames
            # By whole strides, so that the drawn frame stays one of the queries.
            first += stride * (_steps(-low, stride) - _steps(high - (frames - 1), stride))
        run = [first + i * step for i in range(self.queries)]
        indices = [
            *(() if reference is None else (reference,)),
            *(run[0] + sign * offset for offset in before),
            *run,
            *(run[-1] + sign * offset for offset in after),
        ]
        return ClipIndices(tuple(min(max(i, 0), frames - 1) for i in indices), self.roles)

    def _fixed_reference(self, frames: int, query: int) -> int | None:
        if self.reference is None:
            return None
        if self.reference == "first":
            return 0
        far_end = frames - 1 if frames - 1 - query >= query else 0
        if isinstance(self.reference, int):
            return min(query + self.reference, far_end) if far_end else max(query - self.reference, 0)
        return far_end

    def _fixed_anchor(self) -> int:
        return 0 if self.anchor == "first" else self.queries - 1

    def _split_offsets(self) -> tuple[list[int], list[int]]:
        ordered = sorted(self.adjacent)
        return [offset for offset in ordered if offset < 0], [offset for offset in ordered if offset > 0]


def _steps(distance: int, stride: int) -> int:
    """Return how many strides cover a distance; 0 when there is none."""
    return max(0, -(-distance // stride))


def queries(video: VideoRef, which: Which = "labelled") -> tuple[int, ...]:
    """Return the positions of a video that may be queries: its labelled frames, the unlabelled ones, or all."""
    labelled = video.labelled
    if which == "labelled":
        return labelled
    if which == "unlabelled":
        known = set(labelled)
        return tuple(i for i in range(len(video.frames)) if i not in known)
    return tuple(range(len(video.frames)))


def clip_queries(
    videos: Sequence[VideoRef], which: Which = "labelled", per: Per = "video"
) -> list[tuple[int, tuple[int, ...]]]:
    """List the clips of one epoch as (position of the video, candidate query frames).

    Args:
        videos: the training videos; those without a candidate are left out.
        which: see `queries`.
        per: "video": one clip per video and epoch, its query drawn among the candidates (the habit of VSPW, where long
            videos shall not outweigh short ones); "frame": every candidate once per epoch.
    """
    found = [(position, queries(video, which)) for position, video in enumerate(videos)]
    if per == "video":
        return [(position, candidates) for position, candidates in found if candidates]
    return [(position, (query,)) for position, candidates in found for query in candidates]


def clip_rng(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of one sample, the same on every machine, worker and run.

    `numpy.random.SeedSequence` hashes (seed, key), so neighbouring keys give unrelated streams and a run that resumes
    at any position draws what an uninterrupted one would.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *key))))
