"""Published checkpoints -> saved models that `everyframe.load` reads.

source = read_source(file)           # weights, configuration, class names; nothing is run
reading = KINDS[kind].read(...)      # which model of the zoo, and a table of names
state = rewrite(...)                 # names, then positions, then classes
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from everyframe.convert.classes import Wanted, wanted_classes
from everyframe.errors import InputError, writing
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import save
from everyframe.models.convert.config_text import read_config_file
from everyframe.models.convert.design import Design, Reading
from everyframe.models.convert.keys import rewrite
from everyframe.models.convert.kinds import KINDS, find_kind, join_sources
from everyframe.models.convert.mask2former import joined_name
from everyframe.models.convert.positions import fit_positions
from everyframe.models.convert.raft import read_raft
from everyframe.models.convert.reheading import rehead
from everyframe.models.convert.report import Report
from everyframe.models.convert.shapes import Shapes
from everyframe.models.convert.source import Source, read_source
from everyframe.models.convert.timm import fit_kernels
from everyframe.models.segmenter import Segmenter
from everyframe.models.state import State, difference, load_state

Files = str | Path | Sequence[str | Path]
RAFT_FILE = "raft_large.pth"
FROM_SHAPES = "shapes"
"""In place of a configuration: take no notice of the one in the file."""
COUNTERS = "num_batches_tracked"
"""Buffers of batch norms that old files lack and nothing depends on."""


def convert(
    files: Files,
    to: str | Path,
    kind: str | None = None,
    entry: str | None = None,
    config: str | Path | None = None,
    model: str | None = None,
    classes: str | Path | LabelSpace | None = None,
    mapping: str | Path | None = None,
    source_classes: str | Path | LabelSpace | None = None,
    image_size: int | tuple[int, int] | None = None,
    allow_missing: bool = False,
    allow_unused: bool = False,
    report: str | Path | None = None,
) -> Report:
    """Turn a published checkpoint into a saved model.

    Args:
        files: .pth, .safetensors, .zip, or a folder of transformers; of the VSPW code's image models two, encoder and
            decoder.
        to: folder for `config.json` and `model.safetensors`, or for a RAFT's weights.
        kind: a key of `models.convert.kinds.KINDS`; None finds it from the keys.
        entry: which weights to take of several in one file ("state_dict_ema", "teacher"); see `source.read_source`.
        config: the model's configuration (.py or .json) in place of that in the file; "shapes" reads sizes off the
            weights alone.
        model: of a backbone alone, the name of the model to put it into.
        classes: wanted classes: a data set ("vspw"), classes.yaml, or JSON of a `LabelSpace`; None keeps the file's.
        mapping: CSV that says which published class becomes which wanted one (`data.mapping`), or the name of a
            packaged one; None takes the packaged one of two known data sets, else equal names.
        source_classes: names of the published classes, where the file does not hold them.
        image_size: side, or (H, W), in pixels of the frames that learned positions are for; others are fitted.
        allow_missing: go on though weights are missing; they start fresh.
        allow_unused: go on though keys of the file have no place in the model.
        report: JSON file for the whole report; also written when the conversion is refused.

    Returns:
        What became of every weight.

    Raises:
        InputError: the file cannot be read or is of no known kind, the classes do not fit, or something is missing or
            left over and that is not allowed.
    """
    paths = [files] if isinstance(files, str | Path) else list(files)
    source = join_sources([read_source(path, entry) for path in paths])
    if config is not None:
        source.config = None if str(config) == FROM_SHAPES else read_config_file(config)
    shapes = Shapes(source.state)
    found = find_kind(source, shapes, kind)
    done = Report(source.name, found, dropped=dict(source.dropped), notes=list(source.notes))
    reader = KINDS[found].read
    if model is not None and found != "backbone":
        raise InputError(f"{source.name}: --model is for a backbone alone, came {KINDS[found].title}; leave it out")
    if reader is None:
        return _convert_raft(source, shapes, Path(to), done, report)
    try:
        reading = reader(source, shapes, model)
    except InputError as error:
        raise InputError(str(error) if source.name in str(error) else f"{source.name}: {error}") from None
    wanted = wanted_classes(source, reading, classes, mapping, source_classes)
    trained = reading.design.grid
    if image_size is not None:
        _set_size(reading.design, image_size, source)
    built = reading.design.build(wanted.space)
    if reading.check is not None:
        reading.check(built)
    state = _fitted(_rewritten(source, reading, done), reading, built, trained, wanted, done)
    _describe(done, reading, wanted, built, shapes)
    _compare(done, reading, built, state)
    if report is not None:
        done.save(report)
    _refuse_partial(done, allow_missing, allow_unused)
    own = built.state_dict()
    fitting = {name: x for name, x in state.items() if name in own and name not in done.mismatched}
    load_state(built, {**own, **fitting}, source.name)
    save(built, to)
    return done


# -- weights -----------------------------------------------------------------------------------------------------------


def _rewritten(source: Source, reading: Reading, done: Report) -> dict[str, Tensor]:
    """Rename all weights, and note what became of each."""
    result = rewrite(source.state if reading.prepare is None else reading.prepare(source.state), reading.table)
    for key in source.state:
        joint = joined_name(key)
        name = key if joint is None or key in result.used else joint[0]
        if name in result.used:
            done.used[key] = result.used[name]
    done.dropped |= result.dropped
    done.unused += result.unknown
    return result.state if reading.finish is None else reading.finish(result.state)


def _fitted(
    state: State,
    reading: Reading,
    built: Segmenter,
    trained: tuple[int, int] | None,
    wanted: Wanted,
    done: Report,
) -> dict[str, Tensor]:
    """Give the weights the model's frame size and classes, and note what changed."""
    state, changes = fit_positions(state, built, trained)
    if reading.classes is None:
        before, state = state, fit_kernels(state, built.state_dict())
        for key, value in state.items():
            if value.ndim == 4 and value.shape != before[key].shape:
                old, new = ("x".join(map(str, x.shape[2:])) for x in (before[key], value))
                changes[key] = f"kernels of {old} fitted to {new}"
    if wanted.table is not None:
        state, averaged = rehead(state, built, wanted.table)
        changes |= averaged
        reached = set(wanted.table.values())
        done.fresh_classes = [name for i, name in enumerate(wanted.space.names) if i not in reached]
    done.changed = changes
    return state


def _compare(done: Report, reading: Reading, built: Segmenter, state: State) -> None:
    """Note what the weights lack and what they have beyond the model."""
    found = difference(built, state)
    for name in found.missing:
        reason = next((why for pattern, why in reading.fresh if re.fullmatch(pattern, name)), None)
        if name.endswith(COUNTERS) and reason is None:
            reason = "a counter that nothing depends on"
        if reason is None:
            done.missing.append(name)
        else:
            done.fresh[name] = reason
    done.mismatched = dict(found.mismatched)
    lost = set(found.unexpected)
    done.unused += [key for key, name in done.used.items() if name in lost]
    done.used = {key: name for key, name in done.used.items() if name not in lost}


def _refuse_partial(done: Report, allow_missing: bool, allow_unused: bool) -> None:
    flags = ["--allow-missing"] * (done.lacks and not allow_missing)
    flags += ["--allow-unused"] * (done.leaves and not allow_unused)
    if flags:
        raise InputError(
            f"{done.source}: expected weights that fill {done.model} and nothing else, came others: {done.problems()}; "
            f"{' '.join(flags)} goes on without them, --report FILE.json lists all"
        )


def _describe(done: Report, reading: Reading, wanted: Wanted, built: Segmenter, shapes: Shapes) -> None:
    done.model = reading.design.name
    done.parameters = sum(p.numel() for p in built.parameters())
    done.classes = built.label_space.names
    done.assumed = list(shapes.assumed)
    done.notes += [*reading.notes, *wanted.notes]


# -- frame size --------------------------------------------------------------------------------------------------------


def _set_size(design: Design, size: int | tuple[int, int], source: Source) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    if not design.sized:
        raise InputError(
            f"{source.name}: {design.body} learned no positions, and takes any frame: leave --image-size out"
        )
    if height % 32 or width % 32 or min(height, width) < 32:
        raise InputError(f"--image-size: expected a multiple of 32 pixels, came {height}x{width}")
    design.backbone["size"] = (height, width)


# -- RAFT --------------------------------------------------------------------------------------------------------------


def _convert_raft(source: Source, shapes: Shapes, to: Path, done: Report, report: str | Path | None) -> Report:
    """Write torchvision's `raft_large` weights."""
    try:
        result = read_raft(source.state, shapes)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from None
    done.used, done.dropped = result.used, {**done.dropped, **result.dropped}
    done.notes.append(f"for TC and flicker: everyframe evaluate --flow raft:{to / RAFT_FILE}")
    with writing(to):
        to.mkdir(parents=True, exist_ok=True)
        torch.save(result.state, to / RAFT_FILE)
    if report is not None:
        done.save(report)
    return done
