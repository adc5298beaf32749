"""Endless, resumable streams of clips: which rank reads what, and where an interrupted run goes on.

A training stream is one long row of clips: shuffled pass after shuffled pass over the data (`ClipOrder`). Rank r of R
takes every R-th of them, batches are cut from its share, and an "epoch" is any agreed number of batches. So nothing is
dropped at the end of a pass, all ranks have equally many batches, and the one number that a checkpoint needs is how far
down the row the run has come.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch.distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from everyframe.data.dataset import ClipDataset, ClipKey
from everyframe.data.layout import VideoRef
from everyframe.data.ordering import ClipGroup, ClipOrder
from everyframe.errors import InputError
from everyframe.frames import Clip


def world() -> tuple[int, int]:
    """Return (rank, number of processes): of the process group, else as torchrun set them, else (0, 1)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


class StreamSampler(DistributedSampler[ClipKey]):
    """This rank's share of the endless row of clips, from `start` on.

    (A DistributedSampler by class, because Lightning leaves those as they are; the arithmetic is its own.)

    Args:
        size: number of clips in the data set.
        count: number of keys that one iteration gives.
        seed: of the shuffling.
        rank: this process.
        ranks: number of processes.
        start: position in the whole row, all ranks together, where the next iteration begins.
        order: the row; None: every clip once per pass.
    """

    def __init__(
        self,
        size: int,
        count: int,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        start: int = 0,
        order: ClipOrder | None = None,
    ) -> None:
        # torch takes anything that has a length, and says less.
        super().__init__(range(size), num_replicas=ranks, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.count, self.start = count, start
        self.order = order if order is not None else ClipOrder([ClipGroup(np.arange(size))], seed)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[ClipKey]:
        row = self.order.keys(self.start + self.rank)  # (the loader moves `start` on while this iteration runs)
        return islice(row, 0, self.count * self.num_replicas, self.num_replicas)


class ShardSampler(DistributedSampler[int]):
    """This rank's videos for validation: every video on exactly one rank, shares of about equal numbers of frames.

    torch's own DistributedSampler repeats items until all ranks have equally many, which counts videos twice.
    """

    def __init__(self, videos: Sequence[VideoRef], rank: int = 0, ranks: int = 1) -> None:
        # As above: a length is all that is asked for.
        super().__init__(videos, num_replicas=ranks, rank=rank, shuffle=False)  # type: ignore[arg-type]
        load = [0] * ranks
        share: list[list[int]] = [[] for _ in range(ranks)]
        for i in sorted(range(len(videos)), key=lambda i: (-len(videos[i].frames), i)):
            lightest = load.index(min(load))
            load[lightest] += len(videos[i].frames)
            share[lightest].append(i)
        self.own = sorted(share[rank])

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[int]:
        return iter(self.own)


def video_loader(videos: Sequence[VideoRef], rank: int = 0, ranks: int = 1) -> DataLoader[VideoRef | None]:
    """Return this rank's videos, one `VideoRef` at a time; None fills up to the longest share.

    Every rank takes equally many steps: Lightning leaves a rank without any out of the end of the validation, where
    the others would wait for its counts for ever.
    """
    shares = [ShardSampler(videos, r, ranks) for r in range(ranks)]
    sampler = shares[rank]
    sampler.own += [len(videos)] * (max(map(len, shares)) - len(sampler))
    # torch takes any sequence, and says less.
    return DataLoader([*videos, None], batch_size=None, sampler=sampler, collate_fn=_identity)  # type: ignore[arg-type]


def _identity(item: VideoRef | None) -> VideoRef | None:
    return item


class ClipLoader(DataLoader[Clip]):
    """Batches of clips with a position that goes into checkpoints.

    Each iteration gives the next `len(loader)` batches of the stream. `state_dict` counts the batches that were handed
    out, not those that workers have read ahead, so training goes on with exactly the next batch. Lightning saves and
    restores the state by itself; the number of workers and of ranks may change in between, the batch size too.

    Args:
        dataset: what to read.
        batch_size: clips per batch and rank.
        batches: length of one iteration; None: one pass over the data set, at least one batch.
        rank: this process.
        ranks: number of processes.
        start: position in the stream, in clips of all ranks together.
        workers: processes that read ahead; 0 reads in this one.
        pin_memory: copy batches to page-locked memory, for CUDA.
        order: of the clips; None: every clip once per pass.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: int = 8,
        batches: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        start: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
        order: ClipOrder | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, came {batch_size}")
        if batches is None:
            batches = max(1, len(dataset) // (batch_size * ranks))
        self._per_step = batch_size * ranks
        self._stream = StreamSampler(len(dataset), batches * batch_size, dataset.seed, rank, ranks, start, order)
        super().__init__(
            _ErrorsAsItems(dataset),  # type: ignore[arg-type]  # items and batches are one type to torch
            batch_size=batch_size,
            sampler=self._stream,
            num_workers=workers,
            collate_fn=_stack,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
        )

    def __iter__(self) -> Iterator[Clip]:  # type: ignore[override]  # torch names a private class of its own
        batches = super().__iter__()
        while (batch := next(batches, None)) is not None:
            if isinstance(batch, InputError):
                # Stop the workers now, and raise a new error: the old one holds this frame, which holds the old one.
                self._iterator, message = None, str(batch)
                del batches
                raise InputError(message)
            self._stream.start += self._per_step
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands, in clips of all ranks together."""
        return {"position": self._stream.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._stream.start = int(state["position"])


class _ErrorsAsItems(Dataset[Clip | InputError]):
    """Hands a user's error over as an item: a worker process would bury its one clear line in a traceback."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: ClipKey) -> Clip | InputError:
        try:
            return self.dataset[key]
        except InputError as error:
            return error


def _stack(items: list[Clip | InputError]) -> Clip | InputError:
    clips = [item for item in items if isinstance(item, Clip)]
    for item in items:
        if isinstance(item, InputError):
            return item
    return Clip.stack(clips)
