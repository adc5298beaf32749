"""Grids that are stopped, killed, broken and begun again; commands are played by a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command_player import Player
from two_rows import ROWS, TWO_ROWS

from everyframe.errors import InputError
from everyframe.reproduce.grid import EXPERIMENTS
from everyframe.reproduce.plan import Setting, plan
from everyframe.reproduce.records import read_record
from everyframe.reproduce.runner import run_grid
from everyframe.reproduce.table import gather

Make = Callable[..., Setting]


def run(setting: Setting, player: Player, **options: object) -> list[str]:
    records = run_grid(setting, plan(setting), program=player.program, say=lambda line: None, **options)
    return [record.status for record in records]


def test_every_cell_trains_evaluates_and_counts(setting: Make, player: Player) -> None:
    grid = setting(seeds=2)
    assert run(grid, player) == ["done"] * 4
    assert player.verbs() == ["train", "evaluate", "bench"] * 4
    for cell in plan(grid):
        record = json.loads((cell.folder / "cell.json").read_text())
        assert record["commands"]["train"].startswith("everyframe train ocr-tiny --data vspw:/videos --out ")
        assert set(record["seconds"]) == {"train", "evaluate", "cost"}
        assert not (cell.folder / "run" / "checkpoints").exists()
        assert (cell.folder / "run" / "model" / "model.safetensors").exists()


def test_seeds_reach_the_commands_and_the_first_seed_comes_first(setting: Make, player: Player) -> None:
    run(setting(seeds=2), player)
    trainings = [call for call in player.calls if call.startswith("train")]
    assert [call.split("--seed ")[1].split()[0] for call in trainings] == ["0", "0", "1", "1"]
    assert all("--data.seed" in call for call in trainings)


def test_second_call_does_nothing_and_more_seeds_only_what_is_new(setting: Make, player: Player) -> None:
    run(setting(), player)
    player.forget()
    assert run(setting(), player) == ["done"] * 2
    assert player.calls == []
    assert run(setting(seeds=2), player) == ["done"] * 4
    assert len(player.calls) == 6
    assert all("seed1" in call for call in player.calls)


def test_failed_cell_is_recorded_the_rest_goes_on_and_it_is_tried_again(setting: Make, player: Player) -> None:
    player.behave("fail evaluate:resnet18")
    assert run(setting(), player) == ["done", "failed"]
    failed = read_record(plan(setting())[1])
    assert failed.message == "evaluate ended with status 1: everyframe: the disk is full"
    assert failed.done == ["train"]
    player.behave()
    player.forget()
    assert run(setting(), player) == ["done", "done"]
    assert player.verbs() == ["evaluate", "bench"]  # the training of the first time counts


def test_a_model_that_is_imitated_comes_first_and_whole(player: Player, tmp_path: Path) -> None:
    grid = Setting("distillation", "vspw:videos", tmp_path / "out", seeds=1)
    cells = {cell.row.label: cell for cell in plan(grid)}
    student, teacher = cells["ETC, distillation alone"], cells["UperNet"]
    player.behave("quit train:upernet")
    half = teacher.folder / "run" / "model"
    half.mkdir(parents=True)
    records = run_grid(grid, [student, teacher], program=player.program, say=lambda line: None)
    assert [record.status for record in records] == ["failed", "failed"]
    assert records[0].message == "UperNet, seed 0: not trained yet"
    assert player.verbs() == ["train"]
    player.behave("fail evaluate:upernet")  # the model is whole
    player.forget()
    records = run_grid(grid, [student, teacher], program=player.program, say=lambda line: None)
    assert [record.status for record in records] == ["done", "failed"]
    assert player.verbs() == ["train", "evaluate", "train", "evaluate", "bench"]
    player.behave()
    player.forget()
    records = run_grid(grid, [student, teacher], program=player.program, say=lambda line: None)
    assert [record.status for record in records] == ["done", "done"]
    assert player.verbs() == ["evaluate", "bench"]


def test_training_that_stopped_early_is_not_done(setting: Make, player: Player) -> None:
    player.behave("quit train:resnet18")
    assert run(setting(), player) == ["done", "failed"]
    assert read_record(plan(setting())[1]).message.startswith("train did not write outcome.json")


def test_lost_product_is_made_again(setting: Make, player: Player) -> None:
    run(setting(), player)
    player.forget()
    (plan(setting())[0].folder / "report" / "results.json").unlink()
    assert run(setting(), player) == ["done", "done"]
    assert player.verbs() == ["evaluate"]


def test_killed_cell_goes_on_with_the_command_it_was_in(setting: Make, player: Player, tmp_path: Path) -> None:
    player.behave("sleep evaluate:resnet18")
    grid = setting()
    script = tmp_path / "grid.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from two_rows import TWO_ROWS
        from everyframe.reproduce.grid import EXPERIMENTS
        from everyframe.reproduce.plan import Setting, plan
        from everyframe.reproduce.runner import run_grid
        EXPERIMENTS["two-rows"] = TWO_ROWS
        setting = Setting("two-rows", "vspw:/videos", Path({str(grid.out)!r}), seeds=1, size=(32, 48))
        run_grid(setting, plan(setting), program={player.program!r})
        """)
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL)
    _until(lambda: len(player.calls) == 5)  # three of the first cell, then training and the evaluation that hangs
    process.kill()
    process.wait()
    cell = plan(grid)[1]
    record = read_record(cell)
    assert (record.status, record.done) == ("running", ["train"])

    with pytest.raises(InputError, match="is at work there"):  # the orphan still writes into the folder
        run(grid, player)
    _kill_children_of(player)
    player.behave()
    player.forget()
    _until(lambda: _free(grid, player))
    assert player.verbs() == ["evaluate", "bench"]
    assert read_record(cell).status == "done"


def test_stop_ends_the_command_in_good_order_and_goes_on_later(setting: Make, player: Player) -> None:
    player.behave("sleep train:resnet18")
    start = time.monotonic()
    wish = lambda: len(player.calls) >= 4  # noqa: E731
    assert run(setting(), player, asked=wish) == ["done", "running"]
    assert time.monotonic() - start < 30
    player.behave()
    assert run(setting(), player) == ["done", "done"]


def test_time_of_several_lives_adds_up(setting: Make, player: Player) -> None:
    player.behave("fail train:resnet18")
    run(setting(), player)
    cell = plan(setting())[1]
    first = read_record(cell).seconds["train"]
    player.behave()
    run(setting(), player)
    assert read_record(cell).seconds["train"] > first > 0


def test_two_cells_at_a_time(setting: Make, player: Player) -> None:
    assert run(setting(seeds=2), player, jobs=2) == ["done"] * 4
    assert sorted(player.verbs()) == sorted(["train", "evaluate", "bench"] * 4)


def test_models_are_joined_after_all_trainings(setting: Make, player: Player) -> None:
    grid = setting("ensemble", seeds=1)
    assert run(grid, player, jobs=2) == ["done"] * 10
    verbs = player.verbs()
    assert verbs.index("ensemble") > max(i for i, verb in enumerate(verbs) if verb == "train")
    lines, failed = gather(plan(grid))
    assert failed == []
    assert lines[-1].label == "vote of 4"
    assert lines[-1].values("mIoU") == [0.5]
    assert lines[-1].values("params") == []


def test_folder_of_another_grid_is_refused(setting: Make, player: Player) -> None:
    run(setting(), player)
    with pytest.raises(InputError, match=r"extra {} there, {'steps': '7'} now"):
        run(setting(extra={"steps": "7"}), player)


def test_results_of_other_commands_are_not_gone_on_with(
    setting: Make, player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later version may train a row in another way: its seeds would be averaged with those that lie there."""
    player.behave("fail train:resnet18")
    run(setting(), player)
    player.forget()
    for changed in range(2):  # one is done, of the other the training has begun
        rows = list(ROWS)
        rows[changed] = replace(ROWS[changed], overrides={**ROWS[changed].overrides, "optimizer.warmup": 7})
        monkeypatch.setitem(EXPERIMENTS, "two-rows", replace(TWO_ROWS, rows=lambda backbone, rows=tuple(rows): rows))
        with pytest.raises(InputError, match=r"seed0: expected results of the commands of today.*optimizer.warmup 7"):
            run(setting(seeds=2), player)
    assert player.calls == []


def test_half_written_record_is_a_fresh_one(setting: Make) -> None:
    cell = plan(setting())[0]
    cell.folder.mkdir(parents=True)
    (cell.folder / "cell.json").write_text('{"label": "ti')
    assert read_record(cell).status == "missing"


def _free(grid: Setting, player: Player) -> bool:
    try:
        run(grid, player)
    except InputError:
        return False
    return True


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _kill_children_of(player: Player) -> None:
    """End the orphan, which is the only process that runs the player's file."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(player.home / "player.py").encode() in words:
            os.kill(int(folder.name), signal.SIGKILL)
