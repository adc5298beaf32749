"""From a resolved recipe to a run: data, model, losses, optimiser and teacher are built, then `train` is called."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from everyframe.data.datamodule import ClipDataModule
from everyframe.errors import InputError
from everyframe.losses.class_weights import class_weights
from everyframe.models.segmenter import Segmenter
from everyframe.models.warm_start import start_from
from everyframe.models.zoo import create_model
from everyframe.semi.pseudo import Teaching
from everyframe.training.objectives_mask import MaskOptions
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.optim import Optimization
from everyframe.training.recipe import CHOSEN_BY_MODEL, SECTIONS, Config, dump
from everyframe.training.run import Run, RunFolder, is_first_process, train


def start(config: Config, resume: str | None = None) -> Run:
    """Build everything that a resolved configuration names, and train.

    Args:
        config: what `resolve` returned. The options of `CHOSEN_BY_MODEL` that it leaves out are added to it.
        resume: see `train`.

    Raises:
        InputError, Interrupted: see `train`.
    """
    folder = RunFolder(Path(config["out"]))
    folder.checkpoint(resume)  # refuses before anything is read or written
    torch.manual_seed(config["seed"])
    data = ClipDataModule(**config["data"])
    model = create_model(label_space=data.label_space, **config["model"])
    losses = {name: weighted(config[name], data, name) for name in ("objective", "masks")}
    offered = {"adjacent": model.temporal.adjacent, "reference": "far_end" if model.temporal.reference else None}
    data.sampling = replace(data.sampling, **{k: v for k, v in offered.items() if k not in config["data"]})
    config["data"].update({key: getattr(data.sampling, key) for key in CHOSEN_BY_MODEL})
    begun = start_from(model, config["init"]) if config["init"] and folder.checkpoint(resume) is None else None
    if is_first_process():
        _write_config(folder, config)
        data.write_budget(folder.root)
        print(_summary(config, data, model), file=sys.stderr)
        if begun is not None:
            print(f"starts from {config['init']}: {begun.describe()}", file=sys.stderr)
    return train(
        model,
        data,
        folder.root,
        video_objective(model, MaskOptions(**losses["masks"]), **losses["objective"]),
        Optimization(**config["optimizer"]),
        Teaching(**config["teacher"]),
        **{key: value for key, value in config.items() if key not in (*SECTIONS, "out", "init")},
        resume=resume,
        trainer={key: value for key, value in config["trainer"].items() if value is not None},
    )


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


def _write_config(folder: RunFolder, config: Config) -> None:
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.config.write_text(dump(config), encoding="utf-8")


def _summary(config: Config, data: ClipDataModule, model: Segmenter) -> str:
    given = data.labelled_videos
    labels = sum(len(video.labelled) for video in given)
    joined = "".join(f", {source.kept} of {source.labels} label maps of {source.source.data}" for source in data.joined)
    unlabelled = data.unlabeled_batch_size
    return (
        f"{config['model']['name']}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{len(data.label_space)} classes; {len(given)} training videos with {labels} labelled frames"
        f"{' (pseudo-labels among them)' if data.pseudo_labels else ''}{joined and f' (among them{joined[1:]})'}, "
        f"{f'{len(data.unlabeled_videos)} videos without labels, ' if unlabelled else ''}"
        f"{len(data.val_videos)} validation videos; {config['steps']} steps of {config['data']['batch_size']} clips "
        f"{f'and {unlabelled} unlabelled ones ' if unlabelled else ''}per process; writes to {config['out']}"
    )
