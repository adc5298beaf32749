"""Predictions or a model, and a data set with label maps -> numbers that carry their definition, and a report.

for pair in pairs:                   # predicted and true label map of a frame, decoded ahead in threads
    evaluation.update(...)           # counts; memory does not grow with the number of frames
results = evaluation.compute(...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from everyframe.data.decoding import DecodingThreads
from everyframe.data.held_out import seen_note
from everyframe.data.layout import VideoRef
from everyframe.data.layouts import load_split
from everyframe.data.predictions import Ids
from everyframe.data.reading import read_frame
from everyframe.errors import writing
from everyframe.flow import Flow, open_flow
from everyframe.inference.predictor import Predictor
from everyframe.inference.specialist_choice import SpecialistChoice
from everyframe.inference.stream import kept_mode, pick_device
from everyframe.metrics.evaluation import Evaluation
from everyframe.metrics.results import Results
from everyframe.metrics.results_text import counted
from everyframe.pairs import pair_source
from everyframe.report.page import write_page
from everyframe.report.strips import Snapshot, WorstFrames

Progress = Callable[[str, int, int], None]
"""Called with (video, frames done, frames in all)."""


def evaluate(
    pred: str | Path | None = None,
    data: str | Path = "",
    split: str = "val",
    *,
    model: str | Path | Predictor | None = None,
    out: str | Path | None = None,
    pred_ids: Ids = "raw",
    allow_missing: bool = False,
    save: str | Path | None = None,
    windows: Sequence[int] = (8, 16),
    flow: Flow | str | None = "dis",
    bootstrap: int = 1000,
    seed: int = 0,
    worst: int = 12,
    workers: int = 2,
    progress: Progress | None = None,
    **options: Any,
) -> Results:
    """Measure predictions on disk, or a model, against the label maps of a data set.

    Exactly one of `pred` and `model` is given. A model runs through `everyframe.stream`, as in prediction: evaluating
    the folder that `save` fills gives the same numbers. A built model is moved to the device, runs in eval mode, and
    has its own mode again afterwards. Frames without a label map count for flicker only.

    Args:
        pred: folder of label maps <video>/<frame>.png, as `everyframe predict` writes them.
        data: "LAYOUT:ROOT", such as "vspw:/data/VSPW_480p"; see `everyframe.data.layouts.load_split`.
        split: which videos of the data.
        model: a saved model's folder, a hub id, or a built model or wrapper.
        out: folder for `results.json` and `report.html`; None writes nothing.
        pred_ids: what the files of `pred` hold: "raw" ids of the masks, or "train" ids 0..K-1.
        allow_missing: evaluate although labelled frames lack a prediction, and say so beside the numbers.
        save: folder for the label maps of `model`.
        windows: lengths n of VC_n, in frames.
        flow: optical flow for TC and for flicker along it: "dis", "raft", "raft:WEIGHTS.pth", or anything with
            `between` (see `everyframe.metrics.flow`); None or "none" leaves TC out, compares pixels at the same
            position, and does not read the frames. RAFT runs on the model's device, else on a GPU if there is one.
        bootstrap: resamples of the videos behind the confidence intervals; 0 for none.
        seed: of the resampling.
        worst: worst frames that the report shows.
        workers: threads that decode.
        progress: called after each frame.
        **options: with `model`: device and dtype, see `everyframe.inference.stream.Stream`, and how it looks at a
            frame, see `everyframe.inference.views.with_views` (short, window, flip, scales, offline, ...).

    Returns:
        The numbers, each with its variant.

    Raises:
        InputError: data, predictions or model cannot be used, or do not fit each other.

    Example:
        >>> results = evaluate("predictions/", "vspw:/data/VSPW_480p", out="report/")  # doctest: +SKIP
        >>> print(results.score("mIoU"))  # doctest: +SKIP
    """
    flow = None if flow == "none" else flow
    videos, space = load_split(data, split)
    source = pair_source(pred, model, videos, space, pred_ids, allow_missing, save, options)
    if all(len(video.frames) == 1 for video in videos):  # still images: nothing moves
        flow = None
    evaluation = Evaluation(
        space, windows=windows, flow=_flow(flow, options.get("device", "auto")), resamples=bootstrap, seed=seed
    )
    if out is not None:  # an unwritable folder shows now, not after the work
        with writing(Path(out)):
            Path(out).mkdir(parents=True, exist_ok=True)
    bad = WorstFrames(worst if out is not None else 0, len(videos))
    total = sum(len(video.frames) for video in videos)
    with kept_mode(model), DecodingThreads(workers) as pool:
        for done, pair in enumerate(source.pairs(videos, pool, images=flow is not None), 1):
            video, frame = pair.video, pair.frame
            evaluation.update(video.name, frame.index, pair.prediction, pair.target, name=frame.name, image=pair.image)
            if pair.target is not None:
                bad.offer(video.name, frame.index, len(video.frames), pair.prediction, pair.target)
            if progress is not None:
                progress(video.name, done, total)
    results = evaluation.compute(f"{source.name} on {Path(str(data)).name}, {split}", source.foreign)
    results.notes += [*source.notes, *_partial(results), *_chosen_here(options.get("specialists"), data, videos)]
    if out is not None:
        settings = {
            "data": data,
            "split": split,
            **source.settings,
            "VC windows": ", ".join(map(str, windows)),
            "optical flow": flow if isinstance(flow, str) else type(flow).__name__ if flow is not None else "none",
            "intervals": f"{counted(bootstrap, 'resample')} of videos, seed {seed}",
        }
        _write(Path(out), results, _snapshots(bad, videos), settings)
    return results


def _chosen_here(specialists: str | Path | None, data: str | Path, videos: Sequence[VideoRef]) -> list[str]:
    """Say where the specialists' say was chosen on the videos that are scored."""
    if specialists is None:
        return []
    choice = SpecialistChoice.load(specialists)
    note = seen_note(f"the say of {specialists}", choice.data, choice.videos, data, videos)
    return [note] if note else []


def _write(out: Path, results: Results, snapshots: Iterable[Snapshot], settings: Mapping[str, Any]) -> None:
    with writing(out):
        results.to_json(out / "results.json")
        write_page(results, out / "report.html", snapshots, settings)


def _snapshots(bad: WorstFrames, videos: Sequence[VideoRef]) -> Iterator[Snapshot]:
    """Add their pictures to the worst frames."""
    by_name = {video.name: video for video in videos}
    for name, index, prediction, target in bad:
        video = by_name[name]
        image = read_frame(video, index).image.permute(1, 2, 0).contiguous().numpy()
        yield Snapshot(name, video.frames[index].name, image, prediction, target)


def _flow(flow: Flow | str | None, device: str) -> Flow | None:
    return None if flow is None else open_flow(flow, pick_device(device))


def _partial(results: Results) -> list[str]:
    """Notes on scores that some videos do not take part in."""
    notes = []
    for score in results.overall:
        known = results.defined_in(score) or 0
        if score.name.startswith("VC") and score is results.score(score.name) and 0 < known < len(results.videos):
            length = score.name.removeprefix("VC")
            notes.append(
                f"{score.name}: {known} of {counted(len(results.videos), 'video')}; the others have no {length} "
                f"consecutive labelled frames"
            )
    return notes
