"""Cells of one grid taken over by another: only with the same commands, and only as far as they are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command_player import Player

from everyframe.errors import InputError
from everyframe.reproduce.plan import Setting, plan
from everyframe.reproduce.reuse import Reuse
from everyframe.reproduce.runner import read_record, run_grid

Make = Callable[..., Setting]


def run(setting: Setting, player: Player, reuse: list[Path]) -> None:
    run_grid(setting, plan(setting), program=player.program, reuse=reuse, say=lambda line: None)


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
