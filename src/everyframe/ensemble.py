"""Ensembles over a data set: the frames decoded once, each member run once, any number of joins measured together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everyframe.data.layout import FrameRef, VideoRef
from everyframe.data.predictions import foreign_classes, label_file, label_files, table_by_name
from everyframe.data.reading import iter_frames, read_labels
from everyframe.errors import InputError, writing
from everyframe.frames import Frame
from everyframe.inference.ensemble import check_kinds, check_same_classes, voted_logits, weighted_logits
from everyframe.inference.labelmap import label_map
from everyframe.inference.members import LiveMember, Member
from everyframe.inference.outputs import save_classes
from everyframe.inference.scores import ScoreNorm, normalized, view_norm
from everyframe.inference.specialist_choice import ALPHAS, SpecialistChoice
from everyframe.inference.specialists import Fusion, shared_classes
from everyframe.inference.stream import to_numpy
from everyframe.inference.sweep import TAUS
from everyframe.io.label_png import write_label
from everyframe.io.score_maps import ScoreFolder, ScoreFormat, finest_stride
from everyframe.labels import LabelSpace
from everyframe.metrics.evaluation import Evaluation
from everyframe.metrics.results import Results

log = logging.getLogger(__name__)

Join = Callable[[Sequence[Tensor]], Tensor]
"""Logits [1, K, h, w] of all members -> logits [1, K, h, w]."""

Progress = Callable[[str, int, int | None], None]
"""Called with (video, its frames done, its frames in all)."""


def weighted(weights: Sequence[float], norm: ScoreNorm = "softmax") -> Join:
    """Return the weighted mean as a join, see `weighted_logits`."""
    return lambda members: weighted_logits(members, weights, norm)


def vote(norm: ScoreNorm = "softmax") -> Join:
    """Return the majority vote as a join, see `voted_logits`."""
    return lambda members: voted_logits(members, norm=norm)


def single(index: int) -> Join:
    """Return the join that listens to one member."""
    return lambda members: members[index]


def specialist_joins(
    general: LabelSpace,
    specialists: Sequence[LabelSpace],
    classes: Sequence[str],
    norm: ScoreNorm = "softmax",
    alphas: Sequence[float] = ALPHAS,
) -> dict[str, Join]:
    """Return the fusion with the same alpha in all of the classes, for each alpha and 0; see `Fusion`."""
    tried = sorted({0.0, *alphas})
    return {f"{alpha:g}": Fusion(general, specialists, dict.fromkeys(classes, alpha), norm) for alpha in tried}


def sweep_joins(norm: ScoreNorm = "softmax", taus: Sequence[float] = TAUS) -> dict[str, Join]:
    """Return tau P1 + (1 - tau) P2 for each tau."""
    return {f"{tau:g}": weighted((tau, 1 - tau), norm) for tau in taus}


def joined(
    members: Sequence[Member],
    videos: Sequence[VideoRef],
    joins: Mapping[str, Join],
    progress: Progress | None = None,
    same_classes: bool = True,
) -> Iterator[tuple[VideoRef, FrameRef, dict[str, NDArray[np.uint8]]]]:
    """Run all members over all frames, once, and make a label map by each join.

    Logits stay on the device of the first member and are joined there; what reaches the CPU are label maps. At most one
    map of logits per member and one join of them are held at a time.

    Args:
        members: live or stored ones, in any mixture.
        videos: what to label.
        joins: name -> join.
        progress: called after each frame.
        same_classes: refuse members of other classes than the first one's; the joins of `specialist_joins` take them.

    Yields:
        Video, frame, and name of the join -> uint8 [H, W], train ids of the members.

    Raises:
        InputError: members of other classes, a frame or score map that cannot be read, sizes that differ.
    """
    for member in members[1:] if same_classes else ():
        check_same_classes(members[0].label_space.names, member.label_space.names)
    decode = any(member.needs_frames for member in members)
    for video in videos:
        for member in members:
            member.start(video.name)
        for done, (frame, image) in enumerate(_frames(video, decode), 1):
            maps = _label_maps(members, video.name, frame.name, image, joins)
            yield video, frame, maps
            if progress is not None:
                progress(video.name, done, len(video.frames))


@torch.inference_mode()
def _label_maps(
    members: Sequence[Member], video: str, frame: str, image: Frame | None, joins: Mapping[str, Join]
) -> dict[str, NDArray[np.uint8]]:
    """Step all members and make the label map of each join; a function, so that no logits outlive their frame."""
    logits, sizes = [], set()
    for member in members:
        answer, size = member.logits(frame, image)
        logits.append(answer.to(members[0].device))
        sizes.add(size)
    if len(sizes) != 1:
        raise InputError(
            f"ensemble: expected members that saw the same frames, came sizes {sorted(sizes)} of frame {frame} of "
            f"video {video}; store the scores again from these data"
        )
    (size,) = sizes
    return {name: to_numpy(label_map(join(logits), size)[0]) for name, join in joins.items()}


def measure(
    members: Sequence[Member],
    videos: Sequence[VideoRef],
    space: LabelSpace,
    joins: Mapping[str, Join],
    save: tuple[str, Path] | None = None,
    progress: Progress | None = None,
    same_classes: bool = True,
    bootstrap: int = 1000,
) -> dict[str, Results]:
    """Measure several joins in one pass.

    Args:
        members: see `joined`.
        videos: with label maps; frames without one are run, and measured by nothing but flicker.
        space: label space of the data; classes are matched by name.
        joins: name -> join.
        save: name of a join whose label maps are written (raw ids), and the folder.
        progress: see `joined`.
        same_classes: see `joined`.
        bootstrap: resamples of the videos behind the confidence intervals; 0 for none.

    Returns:
        Name of the join -> results.

    Raises:
        InputError: see `joined`; or the folder cannot be written.
    """
    own = members[0].label_space
    table, notes = table_by_name(own, space, members[0].name)
    evaluations = {name: Evaluation(space, resamples=bootstrap) for name in joins}
    if save is not None:
        with writing(save[1]):
            save[1].mkdir(parents=True, exist_ok=True)
        save_classes(save[1], own, written=label_files(save[1], videos))
    for video, frame, maps in joined(members, videos, joins, progress, same_classes):
        target = read_labels(video, frame.index, space)
        for name, evaluation in evaluations.items():
            evaluation.update(video.name, frame.index, table[maps[name]], target, name=frame.name)
        if save is not None:
            path = label_file(save[1], video, frame.name)
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_label(path, maps[save[0]], own)
    foreign = foreign_classes(own, space, members[0].name)
    results = {name: evaluation.compute(name, foreign) for name, evaluation in evaluations.items()}
    for result in results.values():
        result.notes += notes
    return results


def store(
    member: LiveMember,
    videos: Sequence[VideoRef],
    out: str | Path,
    layout: ScoreFormat | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the score maps of a model, see `everyframe.io.score_maps`.

    Args:
        member: whose scores.
        videos: of what; score maps that are there are replaced.
        out: folder.
        layout: norm, dtype and stride; None: `view_norm` of the model (shares of logits, sums of masks as they come) in
            uint8 at the finest stride at which a 480p frame takes 6 MB or less. A larger one is warned of. The kind is
            the member's, whatever it says.
        progress: called after each frame.

    Returns:
        Bytes written.

    Raises:
        InputError: a frame cannot be read, or the folder not be written.
    """
    if layout is None:
        kept = view_norm(member.predictor)
        layout = ScoreFormat(kept, stride=finest_stride(len(member.label_space), kept))
    layout = replace(layout, kind=member.predicts)
    if warning := layout.too_large(len(member.label_space)):
        log.warning("%s", warning)
    folder = ScoreFolder.create(out, member.label_space, layout)
    written = 0
    for video in videos:
        member.start(video.name)
        for done, (frame, image) in enumerate(_frames(video, decode=True), 1):
            logits, size = member.logits(frame.name, image)
            norm: Any = layout.norm
            written += folder.write(video.name, frame.name, normalized(logits, norm)[0], size)
            if progress is not None:
                progress(video.name, done, len(video.frames))
    return written


def choose_specialists(
    members: Sequence[Member],
    videos: Sequence[VideoRef],
    space: LabelSpace,
    data: str,
    *,
    classes: Sequence[str] | None = None,
    alphas: Sequence[float] = ALPHAS,
    delta: float = 0.005,
    below: float | None = None,
    norm: ScoreNorm = "softmax",
    progress: Progress | None = None,
) -> SpecialistChoice:
    """Choose how much say specialists get in each class, on videos that none of the models has seen.

    One pass tries each alpha in all classes at once, of which each class takes its best; a second pass measures all
    choices together beside the general model alone, and where that is no gain all alphas become 0.

    Args:
        members: the general model, then the specialists.
        videos: of the validation split.
        space: label space of the data.
        data: what they are called.
        classes: those in which the specialists may have a say; None: all that they share with the general model.
        alphas: weights to try; 0 is always among them.
        delta: gain in a class's IoU below which its alpha is 0.
        below: IoU of the general model from which a class needs no specialist; None: any class may have one.
        norm: what is mixed.
        progress: see `joined`; goes through the videos twice.

    Raises:
        InputError: members without such classes or of two kinds that `norm` does not fit, or videos without labels.
    """
    check_kinds([member.predicts for member in members], norm)
    general, specialists = members[0].label_space, [member.label_space for member in members[1:]]
    if classes is None and below is not None:  # the measurement says in which of the classes they are asked
        classes = [name for name in general.names if any(name in special.names for special in specialists)]
    chosen = shared_classes(general, specialists, classes)
    table, _ = table_by_name(general, space, members[0].name)
    ids = {name: int(table[general.names.index(name)]) for name in chosen}
    lost = [name for name, k in ids.items() if k >= len(space)]
    if lost:
        raise InputError(f"specialists: expected classes of {data}, came {', '.join(lost)}, which it does not label")
    joins = specialist_joins(general, specialists, chosen, norm, alphas)
    tried = measure(members, videos, space, joins, progress=progress, same_classes=False, bootstrap=0)
    results = {float(name): result for name, result in tried.items()}
    names = [member.name for member in members]
    choice = SpecialistChoice.of(names, data, norm, ids, results, delta, below)
    alone = results[0.0].score("mIoU").value
    if not any(choice.alphas.values()):
        return choice.confirmed(alone, alone)
    together = {"": Fusion(general, specialists, choice.alphas, norm)}
    fused = measure(members, videos, space, together, progress=progress, same_classes=False, bootstrap=0)[""]
    return choice.confirmed(alone, fused.score("mIoU").value)


def _frames(video: VideoRef, decode: bool) -> Iterator[tuple[FrameRef, Frame | None]]:
    """Yield the frames' names, with their pictures where they are needed."""
    if not decode:
        yield from ((frame, None) for frame in video.frames)
        return
    count = 0
    for frame, image in zip(video.frames, iter_frames(video), strict=False):
        count += 1
        yield frame, image
    if count != len(video.frames):
        raise InputError(
            f"{video.file or video.name}: expected {len(video.frames)} frames, only {count} decode; the file is "
            f"truncated: replace it"
        )
