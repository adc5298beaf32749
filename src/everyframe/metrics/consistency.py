"""Video consistency VC_n (Miao et al., VSPW, CVPR 2021): does a pixel that keeps its label keep its prediction?

For a window of n consecutive frames let G be the pixels whose label is the same in all n frames, and P those whose
prediction is the same in all n frames. The window scores |G & P| / |G|; a window without such a pixel is left out. What
else is demanded of a pixel, which windows count and how they are averaged differs between published scripts: a
`ConsistencyRule` says it, `RULES` holds the named variants. `docs/metrics.md` compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everyframe.errors import InputError
from everyframe.frames import IGNORE
from everyframe.metrics.definitions import CONSISTENCY_VARIANTS, ConsistencyVariant
from everyframe.metrics.functional import Counts, Floats, LabelMap
from everyframe.metrics.windows import Kind, WindowCounter, checked_windows

# A block of so many frames and pixels is worked on at a time: small enough for the second-level cache, large enough
# that Python's share is small.
_FRAMES, _PIXELS = 16, 1 << 15


@dataclass(frozen=True, slots=True)
class ConsistencyRule:
    """What distinguishes the variants of VC.

    Attributes:
        right: the prediction must be the label, not only constant.
        void: pixels labelled `ignore` count like those of a class.
        last_window: the window that ends at the last frame counts; without it videos of N <= n frames have none.
        average: "videos": mean over the windows of a video, then over videos; "windows": one mean over all windows.
        pooled: the windows of all shorter n count too.
    """

    right: bool
    void: bool
    last_window: bool
    average: Literal["videos", "windows"]
    pooled: bool = False

    @property
    def kind(self) -> Kind:
        """What it demands of a pixel."""
        return Kind(self.right, self.void)


RULES: dict[ConsistencyVariant, ConsistencyRule] = {
    "correct": ConsistencyRule(right=True, void=False, last_window=True, average="videos"),
    "paper": ConsistencyRule(right=False, void=True, last_window=True, average="videos"),
    "vspw-script": ConsistencyRule(right=False, void=True, last_window=False, average="windows"),
    "dvis-pooled": ConsistencyRule(right=False, void=True, last_window=False, average="windows", pooled=True),
}


def consistency_rule(variant: ConsistencyVariant | ConsistencyRule) -> ConsistencyRule:
    """The rule of a named variant; a rule is returned as it is.

    Raises:
        InputError: no such variant.
    """
    if isinstance(variant, ConsistencyRule):
        return variant
    if variant not in RULES:
        raise InputError(f"VC: expected a variant of {', '.join(CONSISTENCY_VARIANTS)}, came {variant!r}")
    return RULES[variant]


class WindowSums:
    """Sum and number of the window scores of one video, fed frame by frame. Memory does not grow with the video.

    Args:
        windows: lengths n.
        rules: any names -> what to count under each; all share one pass.
        ignore: void label.

    Attributes:
        sums: name -> [len(windows), 2], lengths in rising order: sum of the window scores, number of windows with one.
    """

    def __init__(self, windows: Sequence[int], rules: Mapping[str, ConsistencyRule], ignore: int = IGNORE) -> None:
        self.rules = dict(rules)
        self.counter = WindowCounter(windows, [rule.kind for rule in self.rules.values()], ignore)
        self.sums = {name: np.zeros((len(self.counter.windows), 2)) for name in self.rules}
        self._held: dict[Kind, Counts] | None = None
        self._size: tuple[int, ...] | None = None

    def update(self, pred: NDArray[Any], label: NDArray[Any]) -> None:
        """Add the next frame, two integer maps of one shape; no window reaches across a change of size."""
        if pred.shape != self._size:
            self.gap()
            self._size = pred.shape
        counts = self.counter.step(pred.reshape(1, -1), label.reshape(1, -1))
        for name, rule in self.rules.items():
            # Only the next frame tells that the windows ending here were not the last ones.
            ready = counts if rule.last_window else self._held
            if ready is not None:
                _add_windows(self.sums[name], ready[rule.kind][0])
        self._held = counts

    def gap(self) -> None:
        """A frame without labels: no window reaches across it."""
        self.counter.reset()
        self._held = None


def _add_windows(sums: Floats, counts: Counts) -> None:
    """Add window scores |G & P| / |G| to `sums` [..., 2] in place; windows with |G| = 0 have no score."""
    top, bottom = counts[..., 0], counts[..., 1]
    sums[..., 0] += np.divide(top, bottom, out=np.zeros(bottom.shape), where=bottom > 0)
    sums[..., 1] += bottom > 0


def average_windows(per_video: NDArray[Any], rule: ConsistencyRule) -> Floats:
    """VC_n of a data set from the `WindowSums.sums` of its videos.

    Args:
        per_video: [V, len(windows), 2], lengths in rising order.
        rule: how to average.

    Returns:
        [len(windows)]; NaN where no video has a window.
    """
    pairs = consistency_pairs(per_video, rule).sum(0)
    return np.divide(pairs[:, 0], pairs[:, 1], out=np.full(len(pairs), np.nan), where=pairs[:, 1] > 0)


def consistency_pairs(per_video: NDArray[Any], rule: ConsistencyRule) -> Floats:
    """Per-video pairs [V, len(windows), 2] whose ratio of sums over videos is VC_n (see `bootstrap.ratio_of_sums`)."""
    sums = np.asarray(per_video, np.float64)
    if rule.pooled:
        sums = sums.cumsum(1)
    if rule.average == "windows":
        return sums
    counted = sums[..., 1] > 0
    means = np.divide(sums[..., 0], sums[..., 1], out=np.zeros(counted.shape), where=counted)
    return np.stack([means, counted], -1).astype(np.float64)


# -- whole videos ------------------------------------------------------------------------------------------------------


def window_counts(
    preds: LabelMap, target: LabelMap, windows: Sequence[int], kind: Kind, ignore: int = IGNORE
) -> Counts:
    """(|G & P|, |G|) of the windows that end at each frame of a video in memory.

    Args:
        preds: predicted ids, integers [N, H, W].
        target: labels [N, H, W].
        windows: lengths n; the result has them in rising order.
        kind: what is demanded of a pixel.
        ignore: void label.

    Returns:
        int64 [N, len(windows), 2].

    Raises:
        InputError: the shapes differ or are not [N, H, W].
    """
    preds, target = np.asarray(preds), np.asarray(target)
    if preds.shape != target.shape or preds.ndim != 3:
        raise InputError(
            f"VC: expected predictions and labels [N, H, W] of one shape, came {list(preds.shape)} and "
            f"{list(target.shape)}"
        )
    frames, pixels = len(preds), int(np.prod(preds.shape[1:]))
    lengths = checked_windows(windows)
    flat_preds, flat_target = preds.reshape(frames, pixels), target.reshape(frames, pixels)

    def count(left: int) -> Counts:
        counter, part = WindowCounter(lengths, [kind], ignore), slice(left, left + _PIXELS)
        steps = [slice(top, top + _FRAMES) for top in range(0, frames, _FRAMES)]
        return np.concatenate([counter.step(flat_preds[rows, part], flat_target[rows, part])[kind] for rows in steps])

    total = np.zeros((frames, len(lengths), 2), np.int64)
    if frames:
        for left in range(0, pixels, _PIXELS):
            total += count(left)
    return total


def video_windows(
    preds: LabelMap,
    target: LabelMap,
    windows: Sequence[int],
    variant: ConsistencyVariant | ConsistencyRule = "correct",
    ignore: int = IGNORE,
) -> dict[int, Floats]:
    """Score of every window of a video that the variant counts, in order of time; NaN where |G| = 0.

    Arguments as `window_counts`. Returns n -> [N-n+1], or [N-n] of variants that leave the last window out.
    """
    rule = consistency_rule(variant)
    counts = window_counts(preds, target, windows, rule.kind, ignore)
    stop = len(counts) if rule.last_window else max(len(counts) - 1, 0)
    scores = {}
    for i, n in enumerate(checked_windows(windows)):
        top, bottom = counts[n - 1 : stop, i, 0], counts[n - 1 : stop, i, 1]
        scores[n] = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
    return scores


def video_consistency(
    videos: Sequence[tuple[LabelMap, LabelMap]],
    windows: Sequence[int] = (8, 16),
    variant: ConsistencyVariant | ConsistencyRule = "correct",
    ignore: int = IGNORE,
) -> dict[int, float]:
    """VC_n of videos that lie in memory; `WindowSums` does the same frame by frame.

    Args:
        videos: (predictions [N, H, W], labels [N, H, W]) of each video; N and the size may differ.
        windows: lengths n.
        variant: "correct", "paper", "vspw-script", "dvis-pooled", or a rule of your own.
        ignore: void label.

    Returns:
        n -> VC_n in 0..1, NaN where no video is long enough.

    Example:
        >>> label = np.zeros((9, 1, 2), np.uint8)
        >>> wrong = np.ones_like(label)  # constant, and nowhere right
        >>> video_consistency([(wrong, label)], [8], "vspw-script"), video_consistency([(wrong, label)], [8], "correct")
        ({8: 1.0}, {8: 0.0})
    """
    rule, lengths = consistency_rule(variant), checked_windows(windows)
    per_video = np.zeros((len(videos), len(lengths), 2))
    for sums, (preds, target) in zip(per_video, videos, strict=True):
        counts = window_counts(preds, target, lengths, rule.kind, ignore)
        for frame in counts if rule.last_window else counts[:-1]:
            _add_windows(sums, frame)
    return {n: float(value) for n, value in zip(lengths, average_windows(per_video, rule), strict=True)}
