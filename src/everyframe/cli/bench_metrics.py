"""`everyframe bench metrics`: VC8 + VC16 + confusion matrix, beside the loops of the VSPW authors' scripts, in one run.

The reference loops here are written anew from the description of the algorithm (window by window and frame by frame for
VC; masking and `bincount` for the confusion matrix). Both ways must give the same numbers, or the bench fails.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from everyframe.cli.parser import Parser, seed_value
from everyframe.io.label_png import read_raw, write_label
from everyframe.labels import LabelSpace
from everyframe.metrics.consistency import RULES, WindowSums, average_windows, video_consistency
from everyframe.metrics.functional import confusion_matrix

Maps = NDArray[np.uint8]  # [N, H, W]
Numbers = tuple[dict[int, float], NDArray[np.int64]]
"""VC_n by n, and the confusion matrix [K, K]."""


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison: seconds of the reference and of everyframe, each the median of some runs."""

    what: str
    reference_s: float
    everyframe_s: float

    @property
    def ratio(self) -> float:
        """How many times as fast everyframe is."""
        return self.reference_s / self.everyframe_s


def label_video(frames: int, height: int, width: int, classes: int, seed: int = 0) -> tuple[Maps, Maps]:
    """(predictions, labels) as networks and annotators make them: regions with smooth borders that drift.

    A dozen classes, as in a real video; labels have some void (255). Predictions err on about a tenth of the pixels,
    along borders and in patches that come and go, as those of a per-frame network do (VC8 near 0.85).
    """
    import cv2

    rng = np.random.default_rng(seed)
    present = rng.choice(classes, min(12, classes), replace=False).astype(np.uint8)
    margin = 2 * frames + 8
    fields = np.stack(
        [
            cv2.resize(_noise(rng, 8, 12), (width + margin, height + margin), interpolation=cv2.INTER_CUBIC)
            for _ in present
        ]
    )
    void = cv2.resize(_noise(rng, 10, 16), (width, height), interpolation=cv2.INTER_CUBIC) > 1.8
    preds, labels = (np.empty((frames, height, width), np.uint8) for _ in range(2))
    doubt = np.stack([_noise(rng, 12, 20) for _ in present])
    for t in range(frames):
        view = fields[:, t // 2 : t // 2 + height, 2 * t : 2 * t + width]
        labels[t] = np.where(void, 255, present[view.argmax(0)])
        # An error stays for some frames: doubt is a first-order autoregressive process of variance 1.
        doubt = 0.98 * doubt + 0.2 * np.stack([_noise(rng, 12, 20) for _ in present])
        seen = np.stack([cv2.resize(field, (width, height)) for field in doubt])
        preds[t] = present[(view + 0.15 * seen).argmax(0)]
    return preds, labels


def _noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float32]:
    return rng.standard_normal((height, width), np.float32)


# -- the authors' way --------------------------------------------------------------------------------------------------


def reference_consistency(preds: list[Maps], labels: list[Maps], n: int) -> float:
    """VC_n window by window: compare the first frame of the window with each of the others."""
    scores = []
    for start in range(len(labels) - n):
        label_same = np.ones(labels[0].shape, dtype=bool)
        pred_same = np.ones(labels[0].shape, dtype=bool)
        for other in range(start + 1, start + n):
            label_same = np.logical_and(label_same, labels[start] == labels[other])
            pred_same = np.logical_and(pred_same, preds[start] == preds[other])
        both = np.logical_and(label_same, pred_same)
        if label_same.sum() > 0:
            scores.append(both.sum() / label_same.sum())
    return float(np.mean(scores)) if scores else float("nan")


def reference_confusion(preds: list[Maps], labels: list[Maps], classes: int) -> NDArray[np.int64]:
    """Frame by frame: mask, join both ids to one number, `bincount`."""
    matrix = np.zeros((classes, classes), np.int64)
    for pred, label in zip(preds, labels, strict=True):
        valid = (label >= 0) & (label < classes)
        joint = classes * label[valid].astype(int) + pred[valid]
        matrix += np.bincount(joint, minlength=classes**2).reshape(classes, classes)
    return matrix


def reference_from_files(folders: tuple[Path, Path], windows: tuple[int, ...], classes: int) -> Numbers:
    """The script reads all files for each n; the confusion matrix takes what the first reading left."""
    from PIL import Image

    values, matrix = {}, None
    for n in windows:
        preds, labels = ([np.array(Image.open(file)) for file in sorted(folder.iterdir())] for folder in folders)
        values[n] = reference_consistency(preds, labels, n)
        if matrix is None:
            matrix = reference_confusion(preds, labels, classes)
    assert matrix is not None
    return values, matrix


# -- everyframe --------------------------------------------------------------------------------------------------------


def from_arrays(preds: Maps, labels: Maps, windows: tuple[int, ...], classes: int) -> Numbers:
    """Both measures side by side; each spends its time in compiled code."""
    with ThreadPoolExecutor(1) as beside:
        counting = beside.submit(confusion_matrix, preds, labels, classes)
        values = video_consistency([(preds, labels)], windows, "vspw-script")
        return values, counting.result()[:, :classes]


def from_files(folders: tuple[Path, Path], windows: tuple[int, ...], classes: int) -> Numbers:
    """Frame by frame with bounded look-ahead: the files of later frames are read while a frame is counted."""
    rule = RULES["vspw-script"]
    sums, matrix = WindowSums(windows, {"": rule}), np.zeros((classes, classes + 1), np.int64)
    for pred, label in _read_ahead(folders, torch.get_num_threads()):
        sums.update(pred, label)
        matrix += confusion_matrix(pred, label, classes)
    return dict(zip(windows, average_windows(sums.sums[""][None], rule).tolist(), strict=True)), matrix[:, :classes]


def _read_ahead(folders: tuple[Path, Path], threads: int) -> Iterator[tuple[Maps, Maps]]:
    pairs = zip(*(sorted(folder.iterdir()) for folder in folders), strict=True)
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        for files in pairs:
            waiting.append([pool.submit(read_raw, file) for file in files])
            if len(waiting) > 2 * threads:
                pred, label = waiting.pop(0)
                yield pred.result(), label.result()
        for pred, label in waiting:
            yield pred.result(), label.result()


# -- the command -------------------------------------------------------------------------------------------------------


def bench(
    frames: int = 71,
    height: int = 480,
    width: int = 853,
    classes: int = 124,
    windows: tuple[int, ...] = (8, 16),
    repeat: int = 5,
    seed: int = 0,
) -> list[Line]:
    """Time both ways on one made-up video.

    Raises:
        RuntimeError: the numbers of the two ways differ.
    """
    windows = tuple(sorted(set(windows)))
    preds, labels = label_video(frames, height, width, classes, seed)
    pred_list, label_list = list(preds), list(labels)

    def reference_vc() -> Numbers:
        values = {n: reference_consistency(pred_list, label_list, n) for n in windows}
        return values, reference_confusion(pred_list, label_list, classes)

    names = " + ".join(f"VC{n}" for n in windows)
    lines = [
        _compare(
            f"{names}, arrays",
            lambda: ({n: reference_consistency(pred_list, label_list, n) for n in windows}, np.zeros(0, np.int64)),
            lambda: (video_consistency([(preds, labels)], windows, "vspw-script"), np.zeros(0, np.int64)),
            repeat,
        ),
        _compare(
            "confusion matrix, arrays",
            lambda: ({}, reference_confusion(pred_list, label_list, classes)),
            lambda: ({}, confusion_matrix(preds, labels, classes)[:, :classes]),
            repeat,
        ),
        _compare(
            f"{names} + confusion matrix, arrays",
            reference_vc,
            lambda: from_arrays(preds, labels, windows, classes),
            repeat,
        ),
    ]
    with tempfile.TemporaryDirectory(prefix="everyframe-bench-") as folder:
        folders = _write(Path(folder), preds, labels, classes)
        lines.append(
            _compare(
                f"{names} + confusion matrix, PNG files",
                lambda: reference_from_files(folders, windows, classes),
                lambda: from_files(folders, windows, classes),
                repeat,
            )
        )
    return lines


def _write(folder: Path, preds: Maps, labels: Maps, classes: int) -> tuple[Path, Path]:
    space = LabelSpace(tuple(f"class {k}" for k in range(classes)))
    for name, maps in (("pred", preds), ("label", labels)):
        (folder / name).mkdir()
        for t, label in enumerate(maps):
            # PIL's default compression, as other tools write their masks.
            write_label(folder / name / f"{t:08d}.png", label, space, compress_level=6)
    return folder / "pred", folder / "label"


def _compare(what: str, reference: Callable[[], Numbers], ours: Callable[[], Numbers], repeat: int) -> Line:
    """Run both in turn, so that a change of the machine's speed meets both."""
    (want, want_matrix), (got, got_matrix) = reference(), ours()
    worst = max((abs(got[n] - want[n]) for n in want if want[n] == want[n]), default=0.0)
    if worst > 1e-12 or not np.array_equal(want_matrix, got_matrix):
        raise RuntimeError(f"{what}: the two ways differ, VC by {worst:.2e}")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        for run, record in zip((reference, ours), times, strict=True):
            start = time.perf_counter()
            run()
            record.append(time.perf_counter() - start)
    return Line(what, statistics.median(times[0]), statistics.median(times[1]))


def main(arguments: list[str]) -> int:
    """Parse, run, print."""
    parser = Parser(
        prog="everyframe bench metrics",
        description=__doc__.split("\n\n")[0] if __doc__ else None,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    defaults = {name: option.default for name, option in inspect.signature(bench).parameters.items()}
    for name, text in (
        ("frames", "length of the video"),
        ("height", "pixels"),
        ("width", "pixels"),
        ("classes", "number of classes"),
        ("repeat", "runs; the median counts"),
    ):
        parser.add_argument(f"--{name}", type=int, default=defaults[name], help=text)
    parser.add_argument("--seed", type=seed_value, default=defaults["seed"], help="of the made-up label maps")
    parser.add_argument("--windows", type=int, nargs="+", default=list(defaults["windows"]), help="lengths n of VC_n")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = vars(parser.parse_args(arguments))
    file = options.pop("json")
    lines = bench(**(options | {"windows": tuple(options["windows"])}))
    size = f"{options['frames']} frames of {options['width']}x{options['height']}, {options['classes']} classes"
    print(f"{size}; {torch.get_num_threads()} threads of {os.cpu_count()} cores; equal numbers both ways\n")
    print(f"{'':42s} {'authors, ms':>12s} {'everyframe, ms':>15s} {'ratio':>7s}")
    for line in lines:
        print(f"{line.what:42s} {1e3 * line.reference_s:12.1f} {1e3 * line.everyframe_s:15.1f} {line.ratio:6.1f}x")
    if file is not None:
        figures: list[dict[str, Any]] = [asdict(line) | {"ratio": line.ratio} for line in lines]
        file.write_text(json.dumps({"options": options, "threads": torch.get_num_threads(), "lines": figures}) + "\n")
    return 0
