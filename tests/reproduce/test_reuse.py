"""Cells of one grid taken over by another: only with the same commands, and only as far as they are the same.

Of a published table the figures alone are taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command_player import Player

from everyframe.errors import InputError
from everyframe.reproduce.experiment import SCALES
from everyframe.reproduce.left import missing
from everyframe.reproduce.plan import Setting, cell_key, plan
from everyframe.reproduce.records import read_record
from everyframe.reproduce.reuse import Reuse
from everyframe.reproduce.runner import run_grid
from everyframe.reproduce.table import gather, write_table

Make = Callable[..., Setting]


def run(setting: Setting, player: Player, reuse: list[Path]) -> None:
    """Run a grid; what a dry run names must be what then runs."""
    cells, before = plan(setting), len(player.calls)
    foretold = [step.words[0] for _, steps in missing(cells, reuse) for step in steps]
    records = run_grid(setting, cells, program=player.program, reuse=reuse, say=lambda line: None)
    if all(record.status == "done" for record in records):
        assert sorted(player.verbs()[before:]) == sorted(foretold)
        assert missing(cells, reuse) == []


def test_same_commands_are_taken_over_with_their_files_and_their_time(
    setting: Make, player: Player, tmp_path: Path
) -> None:
    first = setting()
    run(first, player, [])
    player.forget()
    second = replace(first, out=tmp_path / "second")
    run(second, player, [first.out])
    assert player.calls == []
    for old, new in zip(plan(first), plan(second), strict=True):
        assert read_record(new).status == "done"
        assert read_record(new).seconds == read_record(old).seconds
        for step in new.steps:
            twin = old.folder / step.produces.relative_to(new.folder)
            assert step.produces.read_bytes() == twin.read_bytes()


def test_results_that_were_moved_are_taken(setting: Make, player: Player, tmp_path: Path) -> None:
    first = setting()
    run(first, player, [])
    player.forget()
    run(replace(first, out=tmp_path / "second"), player, [first.out.rename(tmp_path / "moved")])
    assert player.calls == []


def test_other_options_are_trained(setting: Make, player: Player, tmp_path: Path) -> None:
    first = setting()
    run(first, player, [])
    player.forget()
    run(replace(first, out=tmp_path / "second", extra={"steps": 5}), player, [first.out])
    assert player.verbs() == ["train", "evaluate", "bench"] * 2


def test_steps_after_the_first_other_command_run(setting: Make, player: Player, tmp_path: Path) -> None:
    first = setting()
    run(first, player, [])
    player.forget()
    run(replace(first, out=tmp_path / "second", size=(64, 96)), player, [first.out])  # the size is in `bench` alone
    assert player.verbs() == ["bench"] * 2


def test_failed_cells_are_not_taken(setting: Make, player: Player, tmp_path: Path) -> None:
    first = setting()
    player.behave("fail train:resnet18")
    run(first, player, [])
    player.behave()
    player.forget()
    run(replace(first, out=tmp_path / "second"), player, [first.out])
    assert player.verbs() == ["train", "evaluate", "bench"]


def test_folder_without_a_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder that `everyframe reproduce` wrote"):
        Reuse([tmp_path])


@pytest.mark.parametrize("text", ["no table", "[]", '{"rows": [{}]}', '{"rows": 3}'])
def test_other_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(InputError, match=r"expected a table\.json of `everyframe reproduce`, came another file"):
        Reuse([tmp_path / "table.json"])


def publish(setting: Setting) -> Path:
    lines, failed = gather(plan(setting))
    write_table(setting, lines, failed)
    return setting.out / "table.json"


def published_without(label: str, setting: Setting, player: Player, tmp_path: Path) -> Path:
    """Run a grid, and publish it but for one row; what is published whole asks for no command."""
    run(setting, player, [])
    whole = publish(setting)
    player.forget()
    run(replace(setting, out=tmp_path / "second"), player, [whole])
    assert player.calls == []
    table = json.loads(whole.read_text())
    table["rows"] = [row for row in table["rows"] if row["label"] != label]
    (tmp_path / "without.json").write_text(json.dumps(table))
    return tmp_path / "without.json"


def test_figures_of_a_published_table_stand_for_its_cells(setting: Make, player: Player, tmp_path: Path) -> None:
    first = setting()
    player.score({"seed0": 0.25})
    run(first, player, [])
    table = publish(first)
    player.forget()
    second = replace(first, out=tmp_path / "second", seeds=first.seeds + 1)
    run(second, player, [table])
    assert player.verbs() == ["train", "evaluate", "bench"] * 2  # the new seed of both rows
    before, after = gather(plan(first))[0], gather(plan(second))[0]
    for old, new in zip(before, after, strict=True):
        assert {seed: new.seeds[seed] for seed in old.seeds} == old.seeds
        assert old.seeds[0]["mIoU"] == 0.25
    assert json.loads(publish(second).read_text())["rows"][0]["keys"].keys() == {"0", "1"}


def test_published_figures_are_those_of_the_same_commands(setting: Make, player: Player, tmp_path: Path) -> None:
    first = setting()
    run(first, player, [])
    table = publish(first)
    player.forget()
    run(replace(first, out=tmp_path / "second", extra={"steps": 5}), player, [table])
    assert player.verbs() == ["train", "evaluate", "bench"] * 2


def test_models_that_are_joined_are_trained_though_their_figures_are_known(player: Player, tmp_path: Path) -> None:
    first = Setting("ensemble", "vspw:videos", tmp_path / "first", seeds=1)
    singles = published_without("mean of 2", first, player, tmp_path)
    third = replace(first, out=tmp_path / "third")
    run(third, player, [singles])
    assert player.verbs().count("train") == 2
    again = [cell for cell in plan(third) if cell.row.label == "mean of 2"]
    assert read_record(again[0]).status == "done"


def test_a_model_that_is_imitated_is_trained_first_though_its_figures_are_known(player: Player, tmp_path: Path) -> None:
    first = Setting("distillation", "vspw:videos", tmp_path / "first", seeds=1)
    others = published_without("ETC, distillation alone", first, player, tmp_path)
    third = replace(first, out=tmp_path / "third")
    run(third, player, [others])
    teacher, student = (call.split() for call in player.calls if call.startswith("train "))
    cells = {cell.row.label: cell for cell in plan(third)}
    assert teacher[1] == "uper-tiny"
    assert student[student.index("--objective.distill_from") + 1] == str(cells["UperNet"].folder / "run" / "model")


def test_figures_that_were_taken_stay_without_the_table(player: Player, tmp_path: Path) -> None:
    first = Setting("ensemble", "vspw:videos", tmp_path / "first", seeds=1)
    run(first, player, [])
    second = replace(first, out=tmp_path / "second")
    run(second, player, [publish(first)])
    player.forget()
    run(second, player, [])
    assert player.calls == []


def test_a_folder_gives_more_than_a_table(setting: Make, player: Player, tmp_path: Path) -> None:
    first = setting()
    run(first, player, [])
    second = replace(first, out=tmp_path / "second")
    run(second, player, [publish(first), first.out])
    for cell in plan(second):
        assert read_record(cell).figures is None
        assert all(step.produces.exists() for step in cell.steps)


def test_figures_are_published_under_the_commands_that_made_them(
    setting: Make, player: Player, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = setting()
    run(first, player, [])
    other = replace(SCALES["small"], overrides={**SCALES["small"].overrides, "steps": 5})
    monkeypatch.setitem(SCALES, "small", other)
    table = publish(first)  # the scale has changed since
    player.forget()
    run(replace(first, out=tmp_path / "second"), player, [table])
    assert player.verbs() == ["train", "evaluate", "bench"] * 2


def test_other_members_are_other_ensembles(tmp_path: Path) -> None:
    grid = Setting("ensemble", "vspw:videos", tmp_path / "out", seeds=1)
    longer = replace(grid, extra={"steps": 5})
    assert not {cell_key(cell) for cell in plan(grid)} & {cell_key(cell) for cell in plan(longer)}


@pytest.mark.parametrize("name", ["a b", "deep/er", "."])
def test_the_digest_does_not_depend_on_the_folder(
    setting: Make, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for experiment in ("ensemble", "other-attempts", "mean-teacher-vs-iterative", "distillation"):
        grid = Setting(experiment, "vspw:videos", tmp_path / "out", seeds=2)
        elsewhere = replace(grid, out=Path(name))
        keys = [cell_key(cell) for cell in plan(grid)]
        assert keys == [cell_key(cell) for cell in plan(elsewhere)]
        assert len(set(keys)) == len(keys)
