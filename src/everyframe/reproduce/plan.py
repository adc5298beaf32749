"""From an experiment to cells: the exact commands of every row and seed, and the folder each of them fills."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everyframe.errors import InputError
from everyframe.reproduce.experiment import REPORT, SCALES, Experiment, Row
from everyframe.reproduce.grid import find
from everyframe.reproduce.steps import Step, joined_steps, look_words
from everyframe.reproduce.subsets import SUBSETS, Compared, frames_of, link_subset

TIMED_FRAMES = 9
"""Steps of the stream that frames/s is the median of."""


@dataclass(frozen=True)
class Cell:
    """One row with one seed.

    Attributes:
        row: what is trained.
        seed: of weights, order and augmentation.
        folder: where its files lie: `cell.json` (see `runner`), `log.txt`, `run/`, `report/`, `cost.json`.
        steps: in order.
        asks: the cells whose models must be there first.
    """

    row: Row
    seed: int
    folder: Path
    steps: tuple[Step, ...]
    asks: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What a whole grid has in common.

    Attributes:
        name: of the experiment.
        data: "LAYOUT:ROOT".
        out: folder of the results.
        scale: a name of `SCALES`.
        seeds: how many; they are 0, 1, 2, …
        extra: options of every training, by the caller's choice; they win over row and scale.
        size: (H, W) of the frames that frames/s is measured on.
        compared: how the classes of labelled frames compare with their reference's; see `subsets`.
    """

    name: str
    data: str
    out: Path
    scale: str = "small"
    seeds: int = 3
    extra: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] = (480, 853)
    compared: Compared = field(default_factory=dict)

    def __post_init__(self) -> None:
        find(self.name)
        if self.scale not in SCALES:
            raise InputError(f"scale: expected one of {', '.join(SCALES)}, came {self.scale!r}")
        if self.seeds < 1:
            raise InputError(f"seeds: expected at least 1, came {self.seeds}")
        for key in ("out", "seed", "data.seed", "data.data", "data"):
            if key in self.extra:
                raise InputError(f"--{key} is chosen for each cell of the grid; leave it out")

    @property
    def experiment(self) -> Experiment:
        """The experiment itself."""
        return find(self.name)

    @property
    def rows(self) -> tuple[Row, ...]:
        """Its rows on the backbone of the scale."""
        return self.experiment.rows(SCALES[self.scale].backbone)

    @property
    def split(self) -> str:
        """Name of the split that everything is scored on."""
        return str(self.extra.get("data.val_split", "val"))

    def identity(self) -> dict[str, Any]:
        """What must be the same when a grid goes on: everything but the number of seeds."""
        plain = {"experiment": self.name, "data": self.data, "scale": self.scale, "extra": dict(self.extra)}
        return dict(json.loads(json.dumps(plain)))


def anywhere(commands: Iterable[str]) -> list[str]:
    """Return a cell's commands without the place of its results: those of two grids can be compared.

    The place is that of the first command with an `--out`, as it was called then: since, the results may have moved.
    """
    lines = [shlex.split(command) for command in commands]
    folder = next((Path(words[words.index("--out") + 1]).parent for words in lines if "--out" in words), None)
    if folder is None:
        return [shlex.join(words) for words in lines]
    places = {str(folder): "CELL", str(folder.parent.parent): "GRID"}  # GRID/ROW/SEED; joined models name other cells

    def moved(word: str) -> str:
        return next((new + word[len(old) :] for old, new in places.items() if f"{word}/".startswith(f"{old}/")), word)

    return [shlex.join(map(moved, words)) for words in lines]


def cell_key(cell: Cell) -> str:
    """Return a digest of all commands behind a cell's figures, those of joined models among them.

    The same commands give the same figures as long as recipes and code are the same, which no digest says.
    """
    commands = [str(step) for part in (*cell.asks, cell) for step in part.steps]
    text = "\n".join("\0".join(shlex.split(command)) for command in anywhere(commands))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plan(setting: Setting) -> list[Cell]:
    """Return the cells, the first seed of all rows first, so that a table stands early."""
    return [
        _joined(setting, row, seed) if row.members else _cell(setting, row, seed)
        for seed in range(setting.seeds)
        for row in setting.rows
    ]


def pick(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Return the cells whose row's label fits one of the patterns ("SSLTM*"), with the rows that these ask for.

    Raises:
        InputError: a pattern fits no row; the message lists them.
    """
    labels = list(dict.fromkeys(cell.row.label for cell in cells))
    for pattern in patterns:
        if not fnmatch.filter(labels, pattern):
            raise InputError(
                f"rows: expected a row or a pattern of one, came {pattern!r}; there are {'; '.join(labels)}"
            )
    picked = {label for pattern in patterns for label in fnmatch.filter(labels, pattern)}
    picked |= {member for cell in cells if cell.row.label in picked for member in cell.row.asks}
    return [cell for cell in cells if cell.row.label in picked]


def overrides_of(setting: Setting, row: Row) -> dict[str, Any]:
    """Return the options of a row's training, later ones winning: scale, row, the caller's."""
    extra = {key: value for key, value in setting.extra.items() if key not in row.without}
    fresh = {} if "init" in extra else row.fresh
    return {**SCALES[setting.scale].overrides, **row.overrides, **fresh, **extra}


def check(setting: Setting) -> None:
    """Refuse options that no training would take, before anything runs.

    Raises:
        InputError: an option that a row needs is missing, or see `everyframe.training.recipe.resolve`; the message
            names the row.
    """
    from everyframe.training.recipe import read_recipe, resolve

    if "objective.distill_from" in setting.extra and any(row.imitates for row in setting.rows):
        raise InputError(f"{setting.name}: its rows choose whom they imitate; leave out --objective.distill_from")
    for row in setting.rows:
        for key, what in row.needs.items():
            if key not in setting.extra:
                raise InputError(
                    f"{setting.name}: expected --{key}, came none; add --{key} {what} (for the row {row.label!r})"
                )
        if not row.recipe:
            continue
        options = {**overrides_of(setting, row), "data.data": setting.data, "out": str(setting.out)}
        options = {key: value for key, value in options.items() if value != REPORT}  # which is not there yet
        try:
            resolve(read_recipe(row.recipe), options, row.recipe)
        except InputError as error:
            raise InputError(f"{setting.name}, {row.label}: {error}") from None


def _row(setting: Setting, label: str) -> Row:
    return {row.label: row for row in setting.rows}[label]


def _folder(setting: Setting, row: Row, seed: int) -> Path:
    return setting.out / "cells" / row.slug / f"seed{seed}"


def _joined(setting: Setting, row: Row, seed: int) -> Cell:
    """A cell that joins the models of other cells."""
    folder = _folder(setting, row, seed)
    members = tuple(_cell(setting, _row(setting, label), seed) for label in row.members)
    models = [(member.folder / "run" / "model", member.row.look) for member in members]
    scored = ("--data", setting.data, "--split", setting.split)
    if not row.recipe:
        return Cell(row, seed, folder, joined_steps(row, folder, models, scored), members)
    report = str(members[0].folder / "report")
    chosen = {key: report if value == REPORT else value for key, value in overrides_of(setting, row).items()}
    train = _train(setting, row, seed, folder, {**chosen, "init": str(models[0][0])})
    models.append((folder / "run" / "model", row.look))
    return Cell(row, seed, folder, (train, *joined_steps(row, folder, models, scored)), members)


def _train(setting: Setting, row: Row, seed: int, folder: Path, overrides: Mapping[str, Any]) -> Step:
    run = folder / "run"
    options = [*_words(overrides), "--seed", str(seed), "--data.seed", str(seed)]
    common = [row.recipe, "--data", setting.data, "--out", str(run)]
    if row.loop is None:
        return Step("train", ("train", *common, *options, "--resume", "auto"), run / "outcome.json")
    loop = ("self-train", *common, *_words(row.loop), *options)
    return Step("train", loop, run / "model" / "model.safetensors")


def _cell(setting: Setting, row: Row, seed: int) -> Cell:
    folder = _folder(setting, row, seed)
    options = overrides_of(setting, row)
    asks = tuple(_cell(setting, _row(setting, label), seed) for label in row.asks)
    for teacher in asks:
        options["objective.distill_from"] = str(teacher.folder / "run" / "model")
    run, report, cost = folder / "run", folder / "report", folder / "cost.json"
    labels = folder / "labels"
    keeps = setting.experiment.noisy or (setting.experiment.video is not None and seed == 0)
    scored = ("--data", setting.data, "--split", setting.split)
    saved = ("--save", str(labels)) if keeps else ()
    model = ("--model", str(run / "model"))
    evaluate = ("evaluate", *model, *scored, "--out", str(report), *look_words(row.look), *saved)
    size = (str(setting.size[0]), str(setting.size[1]))
    measure = ("--ways", "stream", "--frames", str(TIMED_FRAMES), "--size", *size, "--json", str(cost))
    steps = [
        _train(setting, row, seed, folder, options),
        Step("evaluate", evaluate, report / "results.json"),
        Step("cost", ("bench", "stream", *model, *measure, *look_words(row.look)), cost),
    ]
    for subset in SUBSETS if setting.experiment.noisy else ():
        if not frames_of(subset, setting.compared):
            continue  # nothing to score: the data hold no such frame
        part = folder / f"labels-{subset}"
        words = ("evaluate", "--pred", str(part), *scored, "--allow-missing", "--flow", "none", "--worst", "0",
                 "--out", str(folder / f"report-{subset}"))  # fmt: skip
        steps.append(Step(subset, words, folder / f"report-{subset}" / "results.json"))
    return Cell(row, seed, folder, tuple(steps), asks)


def prepare(cell: Cell, step: Step, compared: Compared) -> None:
    """Make what a step reads and no command writes: the folder of a subset's label maps."""
    if step.name in SUBSETS:
        link_subset(cell.folder / "labels", cell.folder / f"labels-{step.name}", compared, step.name)


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line."""
    return [
        word
        for key, value in options.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]
