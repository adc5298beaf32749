"""Which pixels have kept their label, and their prediction, over the last n frames? For any set of n, in one pass.

A bit per pixel says "equal to the frame before". That n frames are equal is the AND of n - 1 such bits in a row, and a
row of 2p is a row of p AND the same p frames earlier; so any n costs log2(n) operations on maps of one bit a pixel. Of
the past only bits are kept, at most 2 n of them a pixel and chain, whatever the length of the video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyframe.errors import InputError
from everyframe.frames import IGNORE

Counts = NDArray[np.int64]
_Bits = NDArray[np.uint64]  # [T, words]: 64 pixels a word


class Kind(NamedTuple):
    """What is demanded of a pixel.

    Attributes:
        right: the prediction must be the label in all n frames; otherwise it must only be the same in all n.
        void: pixels whose label is `ignore` count like those of a class.
    """

    right: bool
    void: bool


def checked_windows(windows: Sequence[int]) -> tuple[int, ...]:
    """The window lengths in rising order, each once.

    Raises:
        InputError: none, or one below 1.
    """
    lengths = tuple(sorted({int(n) for n in windows}))
    if not lengths or lengths[0] < 1:
        raise InputError(f"VC: expected window lengths of 1 frame or more, such as 8 and 16, came {list(windows)}")
    return lengths


class WindowCounter:
    """Counts, for the windows that end at each frame of a video, the pixels that VC divides.

    Args:
        windows: lengths n >= 1.
        kinds: what is demanded; all kinds share one pass.
        ignore: the void label.
    """

    def __init__(self, windows: Sequence[int], kinds: Iterable[Kind], ignore: int = IGNORE) -> None:
        self.windows = checked_windows(windows)
        self.kinds = tuple(dict.fromkeys(kinds))
        self.ignore = ignore
        lasting = [n - 1 for n in self.windows]
        self._same_label = _Lasting(lasting)
        self._same_pred = _Lasting(lasting) if any(not kind.right for kind in self.kinds) else None
        self._right = _Lasting(self.windows) if any(kind.right for kind in self.kinds) else None
        self._last: tuple[NDArray[Any], NDArray[Any]] | None = None
        # Reused from step to step: fresh arrays of this size would cost more in page faults than the arithmetic.
        self._mask = np.empty((0, 0), np.bool_)

    def step(self, preds: NDArray[Any], labels: NDArray[Any]) -> dict[Kind, Counts]:
        """Add the next T frames.

        Args:
            preds: predicted ids, integers [T, P]: P pixels in any order, the same P as before.
            labels: labels [T, P].

        Returns:
            For each kind int64 [T, len(windows), 2]: (|G & P|, |G|) of the window of each length that ends at each
            frame, G the pixels that keep their label and P those that fulfil the kind; 0 for windows that would begin
            before the video.
        """
        if self._mask.shape != labels.shape:
            self._mask = np.empty(labels.shape, np.bool_)
        mask, pixels = self._mask, labels.shape[1]
        last = self._last if self._last is not None else (None, None)
        same_label = self._same_label.step(_pack(_equal_to_before(labels, last[1], mask)), pixels)
        same_pred = right = counted = None
        if self._same_pred is not None:
            same_pred = self._same_pred.step(_pack(_equal_to_before(preds, last[0], mask)), pixels)
        if self._right is not None:
            right = self._right.step(_pack(np.equal(preds, labels, out=mask)), pixels)
        if any(not kind.void for kind in self.kinds):
            counted = _pack(np.not_equal(labels, self.ignore, out=mask))
        if self._last is None:
            self._last = preds[-1].copy(), labels[-1].copy()
        else:
            np.copyto(self._last[0], preds[-1])
            np.copyto(self._last[1], labels[-1])

        counts = {kind: np.zeros((len(labels), len(self.windows), 2), np.int64) for kind in self.kinds}
        for i, n in enumerate(self.windows):
            for kind in self.kinds:
                kept = same_label[n - 1] if kind.void or counted is None else same_label[n - 1] & counted
                chain = right[n] if kind.right and right is not None else None
                if chain is None and same_pred is not None:
                    chain = same_pred[n - 1]
                assert chain is not None  # one of the two exists for every kind
                counts[kind][:, i, 0] = _popcount(kept & chain)
                counts[kind][:, i, 1] = _popcount(kept)
        return counts

    def reset(self) -> None:
        """Forget the frames so far: the next one begins a video, which may have another size."""
        self._last = None
        for chain in (self._same_label, self._same_pred, self._right):
            if chain is not None:
                chain.reset()


class _Lasting:
    """Given a condition frame by frame, tells where it has held for the last m frames, for several m."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths
        # Rows of frames where the condition has held for p = 1, 2, 4, ... frames. Of each the next power looks p rows
        # back, and a length m between p and 2p looks m - p rows back.
        longest = max(lengths)
        powers = [1 << k for k in range(longest.bit_length())]
        self.held = {
            p: _History(max([p if 2 * p <= longest else 0, *(m - p for m in lengths if p < m < 2 * p)])) for p in powers
        }

    def step(self, condition: _Bits, pixels: int) -> dict[int, _Bits]:
        """Add T frames, bits [T, words] -> for each length m the bits [T, words] of pixels where m frames held.

        The result is valid until the next step.
        """
        frames = len(condition)
        for power, history in self.held.items():
            if power == 1:
                history.append(condition.shape)[:] = condition
            else:
                half = self.held[power // 2]
                np.bitwise_and(half.rows(frames), half.rows(frames, power // 2), out=history.append(condition.shape))
        result = {}
        for m in self.lengths:
            power = 1 << max(m.bit_length() - 1, 0)
            if m == 0:
                result[m] = np.broadcast_to(_pack(np.ones((1, pixels), np.bool_)), condition.shape)
            elif m == power:
                result[m] = self.held[power].rows(frames)
            else:
                result[m] = self.held[power].rows(frames) & self.held[power].rows(frames, m - power)
        return result

    def reset(self) -> None:
        for history in self.held.values():
            history.reset()


class _History:
    """Rows of bits of the last frames; before the first frame all are 0."""

    def __init__(self, back: int) -> None:
        self.back = back
        self.reset()

    def reset(self) -> None:
        self.buffer: _Bits | None = None
        self.end = 0

    def append(self, shape: tuple[int, ...]) -> _Bits:
        """Room for T new rows, shape = (T, words), to be filled by the caller."""
        frames, words = shape
        if self.buffer is None:
            # Twice the rows that are needed, so that the past is moved only once every `back` frames.
            self.buffer, self.end = np.zeros((self.back + max(frames, self.back), words), np.uint64), self.back
        elif self.end + frames > len(self.buffer):
            past = self.buffer[self.end - self.back : self.end].copy()
            if self.back + frames > len(self.buffer):
                self.buffer = np.empty((self.back + frames, words), np.uint64)
            self.buffer[: self.back] = past
            self.end = self.back
        self.end += frames
        return self.buffer[self.end - frames : self.end]

    def rows(self, frames: int, earlier: int = 0) -> _Bits:
        """The rows of the last frames, or of those `earlier` frames before."""
        assert self.buffer is not None
        return self.buffer[self.end - earlier - frames : self.end - earlier]


def _equal_to_before(maps: NDArray[Any], before: NDArray[Any] | None, equal: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where each of the maps [T, P] equals the one before it, into `equal`; nowhere at the first frame of a video."""
    np.equal(maps[1:], maps[:-1], out=equal[1:])
    if before is None:
        equal[0] = False
    else:
        np.equal(maps[0], before, out=equal[0])
    return equal


def _pack(mask: NDArray[np.bool_]) -> _Bits:
    """[T, P] -> bits [T, ceil(P / 64)], padded with 0."""
    packed = np.packbits(mask, axis=1)
    if packed.shape[1] % 8:
        rows, size = packed.shape
        padded = np.zeros((rows, size + -size % 8), np.uint8)
        padded[:, :size] = packed
        packed = padded
    return packed.view(np.uint64)


_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def _popcount_by_table(bits: _Bits) -> Counts:
    return _ONES[np.ascontiguousarray(bits).view(np.uint8)].sum(1, dtype=np.int64)


def _popcount(bits: _Bits) -> Counts:
    """Number of ones in each row: [T, words] -> int64 [T]."""
    if not hasattr(np, "bitwise_count"):  # numpy < 2.0
        return _popcount_by_table(bits)
    return np.bitwise_count(bits).sum(1, dtype=np.int64)
