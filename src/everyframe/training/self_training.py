"""Iterative self-training: a teacher labels all frames on disk, a fresh student trains on them and is the next teacher.

Chen et al., "Naive-Student: Leveraging Semi-Supervised Learning in Video Sequences for Urban Scene Segmentation" (ECCV
2020): predictions averaged over scales and mirrored frames are taken as labels, without flow. There every pixel
counts; here those below a threshold are left out. With `labels="filled"` or "refined" the label maps are those of the
labelled frames instead, moved along flow to the frames around them, and the teacher's view helps out (`propagation`,
`warp_refine`).

    OUT/self_training.json       the stages: hours, bytes, scores
    OUT/propagated/labels        with `propagate`: labels moved along optical flow, for the first teacher
    OUT/round0/run               the first teacher, trained on the labels, unless one is given
    OUT/round1/refiner           with "refined": refiner.safetensors, trained on cycles
    OUT/round1/labels            its pseudo-labels, VIDEO/FRAME.png, labels.json, pseudo_labels.json
    OUT/round1/run               the student trained on labels and pseudo-labels; the teacher of round 2
    OUT/model                    the last student
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from everyframe.claim import claim
from everyframe.data.loader import world
from everyframe.errors import InputError
from everyframe.files import copy_whole
from everyframe.semi.iterative import Stage, StageRecord
from everyframe.training.last_checkpoint import StopSignals
from everyframe.training.recipe import Config, dump, resolve
from everyframe.training.round_labels import LabelSource, StopAsked, Teacher, check_around, check_teacher, label_around
from everyframe.training.run import RunFolder

FEW = 0.05
"""Share of the pixels below which pseudo-labels teach next to nothing."""


class LoopStopped(Exception):
    """A signal ended the loop in good order.

    Attributes:
        signal: which one.
        stage: name of the stage that is half done.
    """

    def __init__(self, number: signal.Signals, stage: str) -> None:
        super().__init__(f"stopped by {number.name} in stage {stage}")
        self.signal, self.stage = number, stage


def self_train(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any],
    out: str | Path,
    *,
    rounds: int = 1,
    threshold: float = 0.9,
    scales: Sequence[float] = (0.75, 1.0, 1.25),
    flip: bool = True,
    propagate: int = 0,
    labels: LabelSource = "predicted",
    reach: int = 5,
    refine_steps: int = 400,
    first_teacher: str | Path | None = None,
    source: str = "recipe",
) -> list[Stage]:
    """Run the loop, or what is missing of it.

    Args:
        recipe: see `resolve`; every training run follows it, each from new weights. Its teacher section is left aside
            unless the overrides give a weight: this is the alternative to Mean Teacher.
        overrides: see `resolve`. Videos of `data.unlabeled` are labelled and trained on too.
        out: folder of the loop. When it holds a part of this loop, the rest is done; `rounds` may have grown.
        rounds: how often to label and train anew; 0 trains the teacher alone.
        threshold: pixels whose averaged probability is below become 255; 0 keeps all (Naive-Student).
        scales: predictions are averaged over these, see `Scales`.
        flip: and over the mirrored frame.
        propagate: the first teacher trains on every label map also for so many frames before and after it, moved there
            along optical flow (see `propagate_labels`); 0 for none. With no rounds that is Zhu et al.'s training.
        labels: where the label maps of the rounds come from, see `LabelSource`. Those moved along flow need label maps
            to start from: videos without any are left out then, and the threshold counts where the teacher has a say.
        reach: frames before and after a label map that are labelled from it, unless labels are "predicted".
        refine_steps: training steps of what refines labels, see `train_refiner`.
        first_teacher: a saved model's folder or a hub id, of any architecture: it labels in the first round, and no
            other is trained for it.
        source: how messages name the recipe.

    Returns:
        The stages in order.

    Raises:
        InputError: options that make no sense, or the folder of another loop or of one that is at work.
        LoopStopped: SIGTERM or SIGINT came; the same call goes on.
    """
    _check(rounds, threshold, propagate, labels, reach, refine_steps)
    pseudo = "data.pseudo_labels" in overrides or "pseudo_labels" in _section(recipe, "data")
    if pseudo and (propagate or first_teacher is not None):
        one = "propagate" if propagate else "first_teacher"
        raise InputError(f"self-train: expected either {one} or data.pseudo_labels for the first teacher, came both")
    if first_teacher is not None and (propagate or not rounds):
        raise InputError(
            f"self-train: expected rounds of at least 1 and no propagate beside first_teacher, which is not trained "
            f"here, came {rounds} and {propagate}"
        )
    out = Path(out)
    options = {"teacher.weight": 0, **overrides}

    def config_of(number: int) -> Config:
        folder = out / f"round{number}" / "labels" if number else out / "propagated" / "labels"
        pseudo = {"data.pseudo_labels": str(folder)} if number or propagate else {}
        return resolve(recipe, {**options, **pseudo, "out": str(out / f"round{number}" / "run")}, source)

    views = {"threshold": threshold, "scales": [float(s) for s in scales], "flip": flip}
    moved = {"propagate": propagate} if propagate else {}
    carried: dict[str, Any] = {} if labels == "predicted" else {"labels": labels, "reach": reach}
    if labels == "refined":
        carried["refine_steps"] = refine_steps
    given = {} if first_teacher is None else {"first_teacher": str(first_teacher)}
    config, settings = config_of(0), {**views, **moved, **carried, **given, **_settings(recipe, options)}
    with StopSignals() as signals, claim(out, "self-train") as held:
        record = StageRecord(out / "self_training.json", settings)
        loop = _Loop(out, record, config, views, carried, first_teacher, lambda: signals.received, held)
        if first_teacher is not None and not record.done("round1/label"):
            check_teacher(config, first_teacher)
        if carried and rounds and not record.done("round1/label" if given else "round0/train"):
            check_around(config, reach)
        if propagate:
            loop.propagate(propagate)
        for number in range(rounds + 1):
            if number:
                loop.label(number)
            if number or first_teacher is None:
                loop.train(number, config_of(number))
        copy_whole(RunFolder(out / f"round{rounds}" / "run").model, out / "model")
    return list(record.stages.values())


def _check(rounds: int, threshold: float, propagate: int, labels: str, reach: int, refine_steps: int) -> None:
    """Refuse options of `self_train` that make no sense."""
    if world()[1] > 1:
        raise InputError("self-train: expected one process, came several; it starts those of --trainer.devices itself")
    if min(rounds, propagate) < 0 or not 0 <= threshold <= 1 or min(reach, refine_steps) < 1:
        raise InputError(
            f"self-train: expected rounds and propagate >= 0, threshold in 0..1, reach and refine_steps >= 1, came "
            f"{rounds}, {propagate}, {threshold:g}, {reach} and {refine_steps}"
        )
    if labels not in get_args(LabelSource):
        raise InputError(f"self-train: expected labels of {', '.join(get_args(LabelSource))}, came {labels!r}")


@dataclass(frozen=True)
class _Loop:
    """The stages of a loop; each is done once, however often it is asked for.

    Attributes:
        out: folder of the loop.
        record: of its stages.
        config: resolved options of the first training; says which videos.
        views: how a teacher looks at frames, see `Teacher`.
        carried: labels, reach and refine_steps of `self_train`; empty where labels are predicted.
        first_teacher: of the first round, where it is not trained here.
        asked: whether a signal asks to stop.
        held: what keeps the loop's folder, see `claim`.
    """

    out: Path
    record: StageRecord
    config: Config
    views: Mapping[str, Any]
    carried: Mapping[str, Any]
    first_teacher: str | Path | None
    asked: StopAsked
    held: Sequence[int]

    def propagate(self, reach: int) -> None:
        """Move labels along flow, for the first teacher."""
        folder = self.out / "propagated"
        self._stage("propagate", folder, lambda: label_around(self.config, folder / "labels", reach, self.asked))

    def label(self, number: int) -> None:
        """Make the label maps of a round with the model of the one before."""
        home, reach = self.out / f"round{number}", self.carried.get("reach", 0)
        model = self._run(number - 1).model if number > 1 or self.first_teacher is None else self.first_teacher
        teacher = Teacher(model, self.config, self.views, self.asked)
        refiner = None
        if steps := self.carried.get("refine_steps"):
            path = refiner = home / "refiner" / "refiner.safetensors"
            self._stage(f"round{number}/refine", home / "refiner", lambda: teacher.train_refiner(path, reach, steps))

        def made() -> dict[str, float]:
            folder = home / "labels"
            return teacher.carry(folder, reach, refiner) if self.carried else teacher.predict(folder)

        self._stage(f"round{number}/label", home / "labels", made)

    def train(self, number: int, config: Config) -> None:
        """Train the model of a round."""
        home, run = self.out / f"round{number}", self._run(number)

        def trained() -> dict[str, Any]:
            train_stage(config, home / "train.yaml", self.asked, self.held)
            return {} if self.asked() else _outcome(run)

        self._stage(f"round{number}/train", run.root, trained)

    def _run(self, number: int) -> RunFolder:
        return RunFolder(self.out / f"round{number}" / "run")

    def _stage(self, name: str, folder: Path, work: Callable[[], dict[str, Any]]) -> None:
        """Do a stage that is not done, and record what it took and gave.

        Raises:
            LoopStopped: a signal came; the stage is not recorded as done.
        """
        if self.record.done(name):
            return
        with self.record.stage(name, folder) as stage:
            stage.results = work()
            if (number := self.asked()) is not None:
                raise LoopStopped(number, name)
        print(stage, file=sys.stderr)


def advice(stages: Sequence[Stage], threshold: float) -> list[str]:
    """Return sentences on what went wrong without an error: few pixels labelled, a student below its teacher."""
    told = [
        f"{stage.name}: the model was sure of {stage.results['coverage']:.1%} of the pixels (threshold {threshold:g}): "
        f"the student learnt next to nothing from them; train that model longer, or lower --threshold"
        for stage in stages
        if stage.results.get("coverage", 1.0) < FEW and stage.name.endswith("/label")
    ]
    scored = [stage for stage in stages if stage.results.get("mIoU") is not None]
    best = max(scored, key=lambda stage: stage.results["mIoU"], default=None)
    if best is not None and best is not scored[-1]:
        told.append(
            f"the last student is below the model of {best.name} on the validation videos "
            f"({100 * scored[-1].results['mIoU']:.2f} and {100 * best.results['mIoU']:.2f} mIoU), which lies in "
            f"{best.name.removesuffix('/train')}/run/model"
        )
    return told


def train_stage(config: Config, path: Path, asked: StopAsked, held: Sequence[int] = ()) -> None:
    """Train in a process of its own, which starts those of several devices itself and frees all memory at its end.

    Args:
        config: resolved options.
        path: where they are written for it.
        asked: whether a signal asks to stop; it is passed on, and the run writes its checkpoint.
        held: what keeps the loop's folder, see `claim`; the run keeps it too.

    Raises:
        InputError: the run failed; its own message stands above.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "everyframe.cli", "train", str(path), "--resume", "auto"]
    process = subprocess.Popen(command, pass_fds=held)
    told = False
    while process.poll() is None:
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            if asked() is not None and not told:
                process.terminate()
                told = True
    if process.returncode and asked() is None:
        raise InputError(
            f"{config['out']}: training ended with status {process.returncode}, its message stands above; mend it and "
            f"give the same command again"
        )


def _section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the options of a recipe's section; none where a text stands for the section."""
    section = recipe.get(name)
    return section if isinstance(section, Mapping) else {}


def _settings(recipe: Mapping[str, Any], options: Mapping[str, Any]) -> Config:
    """Return what must be the same when the loop goes on: what was given, not how many processes read ahead.

    Not the resolved options: a later version may know more of them.
    """
    given = {key: value for key, value in options.items() if key not in {"data.workers", "out"}}
    own = {key: value for key, value in recipe.items() if key != "out"}
    plain: Config = yaml.safe_load(dump({"recipe": own, "options": given}))
    return plain


def _outcome(folder: RunFolder) -> dict[str, Any]:
    if not folder.outcome.exists():
        raise InputError(f"{folder.root}: training ended before its last step; give the same command again to go on")
    outcome: dict[str, Any] = json.loads(folder.outcome.read_text(encoding="utf-8"))
    return {"mIoU": outcome["score"], "steps": outcome["steps"], "best_step": outcome["best_step"]}
