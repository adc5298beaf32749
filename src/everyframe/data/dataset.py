"""Partly labelled videos as a data set of training clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from everyframe.data.layout import VideoRef
from everyframe.data.reading import read_frames, read_labels
from everyframe.data.sampling import ClipSampling, Per, Which, clip_queries, clip_rng
from everyframe.data.transforms import Geometry
from everyframe.errors import InputError
from everyframe.frames import IGNORE, Clip, Role
from everyframe.labels import LabelSpace
from everyframe.metrics.results_text import counted

ClipKey = tuple[int, int]
"""(how often the clip came before, its position in the list of clips): what a sampler asks a `ClipDataset` for.

The first number is the epoch, unless clips come more than once in one, see `everyframe.data.ordering`."""


class ColorChange(Protocol):
    """A colour augmentation: uint8 [T, 3, H, W] and a generator -> uint8 of the same shape."""

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor: ...  # noqa: D102


ReferenceCrop = Literal["same", "own"]


class ClipDataset(Dataset[Clip]):
    """Clips of partly labelled videos; the same code for one label per video, all labels, none, and still images.

    A clip depends on (seed, epoch, position) only: any number of workers, and a run that was interrupted and resumed,
    see the same clips.

    Args:
        videos: the training videos, after the label budget was applied.
        label_space: the train ids of the label maps.
        sampling: which frames make a clip.
        geometry: resize, crop and flip; None keeps whole frames (then all videos of a batch must have one size).
        photometric: colour change; None keeps the colours.
        which: "labelled" frames as queries (supervised), "unlabelled" ones (semi-supervised), or "all".
        per: one clip per "video" and epoch, or every candidate "frame" once per epoch.
        seed: first part of the key of all draws.
        hidden: the same videos with labels that training must not see. Where an unlabelled query has one, the clip
            carries it as `Clip.hidden`, cut like the frames, to measure pseudo-labels by. None: nothing is read.
        reference_crop: "same": the reference frame is cut like all others; "own": by a draw of its own, so that what it
            shows does not depend on where the query is looked at.

    Clips of unlabelled queries record which pixels are no padding (`Clip.inside`).

    Raises:
        InputError: no video has a frame that may be a query.
    """

    def __init__(
        self,
        videos: Sequence[VideoRef],
        label_space: LabelSpace,
        sampling: ClipSampling | None = None,
        geometry: Geometry | None = None,
        photometric: ColorChange | None = None,
        which: Which = "labelled",
        per: Per = "video",
        seed: int = 0,
        hidden: Sequence[VideoRef] | None = None,
        reference_crop: ReferenceCrop = "same",
    ) -> None:
        if reference_crop not in get_args(ReferenceCrop):
            raise InputError(
                f"reference_crop: expected one of {', '.join(get_args(ReferenceCrop))}, came {reference_crop!r}"
            )
        self.reference_crop = reference_crop
        self.videos = list(videos)
        self.hidden = None if hidden is None else list(hidden)
        self.label_space = label_space
        self.sampling = sampling if sampling is not None else ClipSampling()
        self.geometry = geometry
        self.photometric = photometric
        self.seed = seed
        self.which = which
        self.clips = clip_queries(self.videos, which, per)
        if not self.clips:
            raise InputError(
                f"training data: expected at least one {'' if which == 'all' else which + ' '}frame, came "
                f"{counted(len(self.videos), 'video')} with {sum(len(v.labelled) for v in self.videos)} labelled and "
                f"{sum(len(v.frames) for v in self.videos)} frames in all; check the split and the label budget"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: ClipKey | int) -> Clip:
        """Return the clip of (epoch, position); a plain position means epoch 0.

        Raises:
            InputError: a frame or label map of the clip cannot be used; the message names the file.
        """
        epoch, position = key if isinstance(key, tuple) else (0, key)
        if not 0 <= position < len(self):
            raise IndexError(position)
        rng = clip_rng(self.seed, epoch, position)
        number, candidates = self.clips[position]
        video = self.videos[number]
        query = candidates[int(rng.integers(len(candidates)))]
        indices, roles = self.sampling.train(len(video.frames), query, rng)

        images, labels, labelled = self._read(video, indices)
        inside = hidden = None
        if self.which == "unlabelled":  # cut like label maps: padding becomes 255
            maps = self._beside(
                number, [i for i, role in zip(indices, roles, strict=True) if role is Role.QUERY], labels
            )
            labels, labelled = torch.cat([labels, maps]), torch.cat([labelled, torch.ones(len(maps), dtype=torch.bool)])
        if self.geometry is not None:
            anchor = indices.index(query, roles.index(Role.QUERY))
            whole = images, labels, labelled
            images, labels = self.geometry(images, labels, anchor, rng, labelled)
            apart = [Role.REFERENCE] if self.reference_crop == "own" else []
            for t in (t for t, role in enumerate(roles) if role in apart):
                image, label, known = (x[t : t + 1] for x in whole)
                images[t : t + 1], labels[t : t + 1] = self.geometry(image, label, 0, rng, known)
        if self.photometric is not None:
            images = self.photometric(images, rng)
        if self.which == "unlabelled":
            t = len(indices)
            inside, hidden = labels[t] != IGNORE, None if self.hidden is None else labels[t + 1 :]
            labels, labelled = labels[:t], labelled[:t]
        if len(video.frames) == 1:  # a still picture counts once in the losses, however often it is shown
            copies = torch.arange(len(indices)) != max(i for i, role in enumerate(roles) if role is Role.QUERY)
            labels[copies], labelled[copies] = IGNORE, False
        supported = self._supported(video)
        return Clip(images, labels, labelled, roles, torch.tensor(indices), (video.name,), inside, hidden, supported)

    def _supported(self, video: VideoRef) -> Tensor:
        """Return the classes that masks of the video can hold, bool [K]: fewer where another data set's are mapped."""
        if video.space is None:
            return torch.ones(len(self.label_space), dtype=torch.bool)
        ids = torch.tensor(sorted(set(video.space.raw_to_train.values()) - {IGNORE}), dtype=torch.long)
        return torch.zeros(len(self.label_space), dtype=torch.bool).index_fill_(0, ids, True)

    def _beside(self, number: int, queries: Sequence[int], labels: Tensor) -> Tensor:
        """Return what is cut beside the label maps: a map of zeros, then the hidden label maps of the queries."""
        size = (labels.shape[-2], labels.shape[-1])
        maps = [torch.zeros(size, dtype=torch.uint8)]
        if self.hidden is None:
            return torch.stack(maps)
        for index in queries:
            found = read_labels(self.hidden[number], index, self.label_space, size)
            maps.append(torch.full(size, IGNORE, dtype=torch.uint8) if found is None else torch.from_numpy(found))
        return torch.stack(maps)

    def _read(self, video: VideoRef, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Read images [T, 3, H, W], labels [T, H, W] and labelled [T]; a frame that comes twice is decoded once."""
        unique = sorted(set(indices))
        frames = dict(zip(unique, read_frames(video, unique), strict=True))
        sizes = {frame.size for frame in frames.values()}
        if len(sizes) != 1:
            came = ", ".join(f"{frame.size[1]}x{frame.size[0]} of frame {frame.name}" for frame in frames.values())
            raise InputError(
                f"{video.name}: expected frames of one size in a video, came {came}; make one video of each size"
            )
        size = sizes.pop()
        maps = {
            index: torch.from_numpy(found)
            for index in unique
            if (found := read_labels(video, index, self.label_space, size=size)) is not None
        }
        nothing = torch.full(size, IGNORE, dtype=torch.uint8)
        images = torch.stack([frames[index].image for index in indices])
        labels = torch.stack([maps.get(index, nothing) for index in indices])
        return images, labels, torch.tensor([index in maps for index in indices])
