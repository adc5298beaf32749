"""The metrics of the VSPW authors' scripts, to the last digit, for every such case in the folder of cases.

A case belongs here when its config says that it holds metrics (`expected`) of that repository. It may have other
videos, sizes, window lengths and classes: everything is taken from its config.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Case, find, holds_metrics, load

from everyframe.metrics import functional as F
from everyframe.metrics.consistency import video_consistency, video_windows
from everyframe.metrics.tc import temporal_consistency

TOLERANCE = 1e-12


def converted(raw: np.ndarray) -> np.ndarray:
    """Raw VSPW ids as train ids: 0 and 255 are void, the others lose one."""
    table = np.full(256, 255, np.uint8)
    table[1:255] = np.arange(254)
    return table[raw]


def series(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])


def nanmean(values: np.ndarray) -> float:
    return float(values[~np.isnan(values)].mean()) if (~np.isnan(values)).any() else float("nan")


class Computed:
    """Our number for each key of `expected`."""

    def __init__(self, case: Case) -> None:
        self.names: list[str] = case.args["videos"]
        self.classes: int = case.args["num_classes"]
        get = {key: tensor.numpy() for key, tensor in case.inputs.items()}
        self.preds = [get[f"pred.{name}"] for name in self.names]
        self.raw = [get[f"gt.{name}"] for name in self.names]
        self.flows = [get.get(f"flow.{name}") for name in self.names]
        self.labels = [converted(raw) for raw in self.raw]
        pairs = zip(self.preds, self.labels, strict=True)
        self.per_video = np.stack([F.confusion_matrix(p, g, self.classes) for p, g in pairs])
        self.matrix = self.per_video.sum(0)

    def consistency(self, n: int, kind: str) -> Any:
        labels = self.labels if "converted" in kind else self.raw
        pairs = list(zip(self.preds, labels, strict=True))
        if kind == "_windows":
            return np.concatenate([video_windows(*pair, [n], "vspw-script")[n] for pair in pairs])
        if kind.endswith("_per_video_nanmean"):
            windows = {
                name: video_windows(*pair, [n], "vspw-script")[n] for name, pair in zip(self.names, pairs, strict=True)
            }
            return {name: nanmean(scores) for name, scores in windows.items() if len(scores)}
        return video_consistency(pairs, [n], "vspw-script")[n]

    def value(self, key: str) -> Any:
        """Our value, or None for a key that is no metric."""
        window = re.fullmatch(r"VC(\d+)(|_windows|_converted_labels|_converted_per_video_nanmean)", key)
        if window:
            return self.consistency(int(window[1]), window[2])
        scores: dict[str, Callable[[], Any]] = {
            "TC": lambda: temporal_consistency(zip(self.preds, self.flows, strict=True), self.classes, "vspw-script"),
            "pixel_accuracy": lambda: F.pixel_accuracy(self.matrix),
            "class_accuracy": lambda: F.mean_class_accuracy(self.matrix),
            "mIoU": lambda: F.mean_iou(self.matrix, "in-ground-truth"),
            "fwIoU": lambda: F.weighted_iou(self.matrix),
            "per_video_mIoU": lambda: F.mean_iou(self.per_video),
            "per_video_fwIoU": lambda: F.weighted_iou(self.per_video),
            "mean_video_mIoU": lambda: nanmean(F.mean_iou(self.per_video)),
            "mean_video_fwIoU": lambda: nanmean(F.weighted_iou(self.per_video)),
            "classes_present": lambda: (self.matrix.sum(1) > 0).sum(),
            "valid_pixels": lambda: self.matrix.sum(),
        }
        return scores[key]() if key in scores else None


@pytest.mark.parity
@pytest.mark.parametrize("path", [path for path in find() if holds_metrics(path)], ids=lambda path: path.stem)
def test_metrics(path: Path) -> None:
    case = load(path)
    ours, compared = Computed(case), 0
    for key, want in case.config["expected"].items():
        got = ours.value(key)
        if got is None:
            continue
        compared += 1
        if isinstance(want, dict):
            assert got.keys() == want.keys(), key
            got, want = list(got.values()), list(want.values())
        wanted = series(want if isinstance(want, list) else [want])
        have = np.atleast_1d(np.asarray(got, np.float64))
        assert have.shape == wanted.shape, key
        assert have == pytest.approx(wanted, abs=TOLERANCE, rel=0, nan_ok=True), key
    assert compared, f"{path.name}: none of {', '.join(case.config['expected'])} is a metric"
