"""From a resolved recipe to a run: data, model, losses, optimiser and teacher are built, then `train` is called."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from everyframe.claim import LOCK, claim
from everyframe.data.datamodule import ClipDataModule
from everyframe.data.first_look import look_at_masks
from everyframe.errors import InputError, writing
from everyframe.files import write_whole
from everyframe.inference.views import check_run
from everyframe.labels import LabelSpace
from everyframe.losses.class_weights import class_weights
from everyframe.metrics.results_text import counted
from everyframe.models.segmenter import Segmenter
from everyframe.models.warm_start import start_from
from everyframe.models.zoo import create_model
from everyframe.semi.pseudo import Teaching
from everyframe.training.last_checkpoint import step_of
from everyframe.training.objectives_mask import MaskOptions
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.optim import Optimization
from everyframe.training.recipe import CHOSEN_BY_MODEL, SECTIONS, Config, defaults, dump, flat, read_recipe
from everyframe.training.run import Run, RunFolder, check_seed, is_first_process, train
from everyframe.training.without_effect import without_effect

FREE_ON_RESUME = {
    "out", "init", "steps", "validate_every", "save_every", "data.workers", "trainer.devices", "trainer.num_nodes",
    "trainer.strategy", "trainer.accelerator", "trainer.enable_progress_bar", "trainer.log_every_n_steps",
}  # fmt: skip
"""Options that may differ when a run goes on: how long, where, and what is written on the way."""

OF_MODEL = "model."
"""Before the names of the model's weights in a checkpoint."""


def start(config: Config, resume: str | None = None) -> Run:
    """Build everything that a resolved configuration names, and train.

    Args:
        config: what `resolve` returned. The options of `CHOSEN_BY_MODEL` that it leaves out are added to it.
        resume: see `train`.

    Raises:
        InputError, Interrupted: see `train`; another command is at work in the folder.
    """
    folder, first = RunFolder(Path(config["out"])), is_first_process()
    if first and (folder.root / LOCK).exists():
        with claim(folder.root, "train"):  # one that is at work is told from one that can be gone on with
            pass
    checkpoint = folder.checkpoint(resume)  # refuses before anything is read or written
    for name, seed in (("seed", config["seed"]), ("data.seed", config["data"].get("seed", 0))):
        check_seed(name, seed)
    torch.manual_seed(config["seed"])
    data = ClipDataModule(**config["data"])
    if len(data.label_space) < 2:
        raise InputError(
            f"{config['data']['data']}: expected two classes to tell apart, came {data.label_space.names[0]} alone; "
            f"name another in the classes file, such as the background"
        )
    model = create_model(label_space=data.label_space, **config["model"])
    losses = {name: weighted(config[name], data, name) for name in ("objective", "masks")}
    if "adjacent" not in config["data"]:
        data.sampling = replace(data.sampling, adjacent=model.temporal.adjacent)
    if "reference" not in config["data"]:
        data.sampling = replace(data.sampling, reference="far_end" if model.temporal.reference else None)
    config["data"].update({key: getattr(data.sampling, key) for key in CHOSEN_BY_MODEL})
    _check_frames(config, data)
    if config["init"] and checkpoint is None:
        check_run(Path(config["init"]))
    begun = start_from(model, config["init"]) if config["init"] and checkpoint is None else None
    optimization = Optimization(**config["optimizer"])
    slow = ""
    if checkpoint is not None:
        _check_same_model(folder, checkpoint, model)
    else:
        slow = optimization.slow_start(model, model.state_dict() if begun is None else begun.fresh)
    splits = {"training": data.labelled_videos, "validation": data.val_videos} if first else {}
    looked = [look_at_masks(videos, data.label_space, split) for split, videos in splits.items()]
    with claim(folder.root, "train") if first else nullcontext():
        if first:
            start_note = "" if begun is None else f"starts from {config['init']}: {begun.describe()}"
            _begin(folder, config, checkpoint, data, model, [start_note, slow, *looked])
        return train(
            model,
            data,
            folder.root,
            video_objective(model, MaskOptions(**losses["masks"]), **losses["objective"]),
            optimization,
            Teaching(**config["teacher"]),
            **{key: value for key, value in config.items() if key not in (*SECTIONS, "out", "init")},
            resume=resume,
            trainer={key: value for key, value in config["trainer"].items() if value is not None},
        )


def _begin(
    folder: RunFolder,
    config: Config,
    checkpoint: Path | None,
    data: ClipDataModule,
    model: Segmenter,
    notes: Sequence[str],
) -> None:
    """Write what the run is, and say it; `notes` are lines, "" for none, that come after the summary."""
    changed = _changed(folder, config) if checkpoint is not None else ""
    over = _nothing_to_do(checkpoint, config["steps"])
    if not over:  # else the files say what the run was
        with writing(folder.root):
            write_whole(folder.config, dump(config))
            data.label_space.save(folder.classes)
            data.write_budget(folder.root)
    print(_summary(config, data, model), file=sys.stderr)
    for line in filter(None, (*notes, without_effect(config, model), _scored(data), changed, over)):
        print(line, file=sys.stderr)


def _check_frames(config: Config, data: ClipDataModule) -> None:
    """Refuse a contrastive loss on clips of one frame, which leave it as still pictures do.

    Raises:
        InputError: with what to do.
    """
    sampling = data.sampling
    if config["objective"]["contrastive"] and not sampling.adjacent and not sampling.reference and sampling.queries < 2:
        raise InputError(
            "objective.contrastive: expected clips of two frames or more, came data.queries 1 and a model that asks "
            "for no other frames: the loss would always be 0; add --data.queries 2"
        )


def _scored(data: ClipDataModule) -> str:
    """Say which of the frames that validation scores are trained on; "" where none is."""
    trained = {video.frames[index].label for video in data.labelled_videos for index in video.labelled}
    scored = [video.frames[index].label for video in data.val_videos for index in video.labelled]
    both = sum(label in trained for label in scored)
    return f"{both} of the {len(scored)} label maps that validation scores are trained on as well" if both else ""


def weighted(options: Config, data: ClipDataModule, section: str) -> Config:
    """Return the options of a section with its class weights as numbers, one per class.

    The model's loss needs them before `prepare_data`, so every process counts, and gets the same. Lightning starts the
    others once the first one has counted, and they read its counts; where a launcher (torchrun) started all at once the
    masks are read once per process, and never again.

    Raises:
        InputError: there are not as many weights as classes.
    """
    given, count = options["class_weights"], len(data.label_space)
    if isinstance(given, str):
        given = class_weights(given, data.class_counts)
    if given is not None and len(given) != count:
        raise InputError(f"{section}.class_weights: expected {count} weights, one per class, came {len(given)}")
    return {**options, "class_weights": given}


def _check_same_model(folder: RunFolder, checkpoint: Path, model: Segmenter) -> None:
    """Refuse to go on with a model or classes that the checkpoint is not of, while the folder is as it was.

    Raises:
        InputError: other classes, or weights of other names or shapes.
    """
    begin_anew = "choose another --out for a new run; its --init can start from this one"
    names = model.label_space.names
    if folder.classes.is_file() and (was := LabelSpace.load(folder.classes).names) != names:
        raise InputError(
            f"{folder.root}: expected the classes that the run began with ({', '.join(was)}), came {', '.join(names)}; "
            f"{begin_anew}"
        )
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    except (KeyError, RuntimeError, pickle.UnpicklingError):
        raise InputError(f"{checkpoint}: expected a checkpoint of `everyframe train`, came another file") from None
    was_shapes = {name[len(OF_MODEL) :]: tuple(t.shape) for name, t in saved.items() if name.startswith(OF_MODEL)}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if differ := sorted(k for k in {**was_shapes, **shapes} if was_shapes.get(k) != shapes.get(k)):
        raise InputError(
            f"{checkpoint}: expected the weights of this model, came those of another ({len(differ)} differ, such as "
            f"{differ[0]}: {was_shapes.get(differ[0], 'none')} there, {shapes.get(differ[0], 'none')} now); leave "
            f"--model.* as the run began with, or {begin_anew}"
        )


def _changed(folder: RunFolder, config: Config) -> str:
    """Name the options that make a resumed run another one than it was begun as; "" where there are none."""
    if not folder.config.is_file():
        return ""
    was, now = ({**defaults(), **flat(own)} for own in (read_recipe(folder.config), config))
    differ = [key for key in now if key not in FREE_ON_RESUME and was.get(key) != now[key]]
    if not differ:
        return ""
    named = ", ".join(f"{key} {now[key]} (was {was.get(key)})" for key in differ)
    return f"goes on with other options than it began with: {named}; the result is not that of a run never stopped"


def _nothing_to_do(checkpoint: Path | None, steps: int) -> str:
    """Say that a checkpoint has all its steps behind it; "" where some are left."""
    if checkpoint is None:
        return ""
    done = step_of(checkpoint)
    return f"already at step {done} of {steps}: no step is left to do; more with --steps N" if done >= steps else ""


def _summary(config: Config, data: ClipDataModule, model: Segmenter) -> str:
    given = data.labelled_videos
    labels = sum(len(video.labelled) for video in given)
    joined = "".join(f", {source.kept} of {source.labels} label maps of {source.source.data}" for source in data.joined)
    unlabelled = data.unlabeled_batch_size
    hidden = 0 if data.pseudo_labels else data.hidden_label_count  # which may be among the pseudo-labels
    without = f"{counted(len(data.unlabeled_videos), 'video')} without labels, " if unlabelled else ""
    return (
        f"{config['model']['name']}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{counted(len(data.label_space), 'class', 'classes')}; {counted(len(given), 'training video')} with "
        f"{counted(labels, 'labelled frame')}"
        f"{f' ({hidden} more hidden by data.budget {data.budget})' if hidden else ''}"
        f"{' (pseudo-labels among them)' if data.pseudo_labels else ''}{joined and f' (among them{joined[1:]})'}, "
        f"{without}{counted(len(data.val_videos), 'validation video')}; {counted(config['steps'], 'step')} of "
        f"{counted(config['data']['batch_size'], 'clip')} "
        f"{f'and {unlabelled} unlabelled ones ' if unlabelled else ''}per process; writes to {config['out']}"
    )
