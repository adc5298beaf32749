"""Means, deviations, intervals and texts by hand; plots hold what the table holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_player import Player

from everyframe.reproduce.experiment import BEST_MEMBER, Row
from everyframe.reproduce.plan import Setting, plan
from everyframe.reproduce.plots import bars_svg, curve_svg, write_plots
from everyframe.reproduce.records import CellRecord
from everyframe.reproduce.runner import run_grid
from everyframe.reproduce.table import COLUMNS, Line, best_of, class_table, difference, gather, markdown, write_table

MIOU = next(column for column in COLUMNS if column.name == "mIoU")
A = Line("a", {0: {"mIoU": 0.5, "mIoU low": 0.4, "mIoU high": 0.7}, 1: {"mIoU": 0.6, "mIoU low": 0.5, "mIoU high": 0.8},
               2: {"mIoU": 0.7, "mIoU low": 0.6, "mIoU high": 0.75}}, 3)  # fmt: skip
B = Line("b", {0: {"mIoU": 0.40}, 2: {"mIoU": 0.62}}, 3)


def test_mean_and_deviation_by_hand() -> None:
    assert A.mean("mIoU") == pytest.approx(0.6)
    assert A.deviation("mIoU") == pytest.approx(0.1)  # sqrt((0.01 + 0 + 0.01) / 2)
    assert A.text(MIOU) == "60.00 ± 10.00"


def test_interval_is_the_mean_of_the_seeds_ends() -> None:
    assert A.interval == "50.00 .. 75.00"
    assert B.interval == "–"


def test_one_seed_has_no_deviation_and_none_has_no_mean() -> None:
    one = Line("one", {0: {"mIoU": 0.5}}, 1)
    assert math.isnan(one.deviation("mIoU"))
    assert one.text(MIOU) == "50.00"
    assert Line("none", {}, 1).text(MIOU) == "–"


def test_differences_are_paired_by_seed() -> None:
    mean, deviation, count = difference(A, B)
    assert (mean, count) == (pytest.approx(0.09), 2)  # 0.10 and 0.08; seed 1 of b is missing
    assert deviation == pytest.approx(0.02 / math.sqrt(2))
    assert difference(A, Line("none", {}, 1))[2] == 0


def test_joined_rows_are_compared_with_the_best_of_their_members(setting: Callable[..., Setting]) -> None:
    singles = {"OCRNet": (0.50, 0.40), "UperNet": (0.46, 0.44), "DeepLabv3+": (0.48, 0.50), "Segmenter": (0.10, 0.10)}
    joined = {"mean of 2": (0.51, 0.43), "soft sum of 2": (0.52, 0.46), "vote of 3": (0.49, 0.53)}
    lines = [
        Line(label, {seed: {"mIoU": value} for seed, value in enumerate(values)}, 2)
        for label, values in {**singles, **joined}.items()
    ]
    rows = [line for line in markdown(setting("ensemble"), lines, []).splitlines() if BEST_MEMBER in line]
    # 2 members: 50 and 44, seed by seed; 3 members: 50 and 50
    assert rows == [
        "| mean of 2 − the best of its members | 2 | +0.00 ± 1.41 |",
        "| soft sum of 2 − the best of its members | 2 | +2.00 ± 0.00 |",
        "| vote of 3 − the best of its members | 2 | +1.00 ± 2.83 |",
    ]
    assert best_of([lines[0], Line("none", {}, 2)]).seeds == {}
    only = markdown(setting("ensemble"), lines[1:], [])  # without OCRNet nobody knows the best of its members
    assert BEST_MEMBER not in only


def test_table_of_a_grid(setting: Callable[..., Setting], player: Player) -> None:
    grid = setting("stt", seeds=2)
    player.score({"without-stt/seed0": 0.40, "without-stt/seed1": 0.42, "with-stt/seed0": 0.45, "with-stt/seed1": 0.49})
    player.behave("fail bench:with-stt/seed1/cost")
    cells = plan(grid)
    run_grid(grid, cells, program=player.program, say=lambda line: None)
    lines, failed = gather(cells)
    text = write_table(grid, lines, failed).read_text().splitlines()
    table = [line for line in text if line.startswith("|")]
    assert table[0] == (
        "|  | seeds | mIoU | 95 % interval | VC8 | VC16 | TC | parameters (M) | GMACs | frames/s | hours |"
    )
    assert table[2].startswith(
        "| without STT | 2/2 | 41.00 ± 1.41 | 10.00 .. 30.00 | 90.00 ± 0.00 | – | 70.00 ± 0.00 |"
    )
    assert "| 1.50 | 2.50 | 20.00 ± 0.00 |" in table[2]
    assert table[3].startswith(
        "| with STT | 1/2 | 45.00 | 10.00 .. 30.00 | 90.00 | – | 70.00 | 1.50 | 2.50 | 20.00 | 0.0"
    )
    assert "| with STT − without STT | 1 | +5.00 |" in table
    assert "- with STT, seed 1: cost ended with status 1: everyframe: the disk is full" in text

    numbers = json.loads((grid.out / "table.json").read_text())
    assert numbers["experiment"] == "stt"
    assert numbers["rows"][0]["mean"]["mIoU"] == pytest.approx(0.41)
    assert numbers["rows"][0]["deviation"]["mIoU"] == pytest.approx(0.02 / math.sqrt(2))
    assert list(numbers["rows"][1]["seeds"]) == ["0"]
    assert numbers["failed"][0]["label"] == "with STT"
    assert (grid.out / "classes.md").read_text() == class_table(lines)


def test_classes_by_hand() -> None:
    stt = Line("with STT", {0: {"mIoU": 0.5, "IoU van": 0.5, "IoU car": 0.25}, 1: {"IoU van": 0.7}}, 2)
    assert class_table([stt, Line("published before", {0: {"mIoU": 0.5}}, 1)]).splitlines() == [
        "| IoU | van | car |",
        "|---|---:|---:|",
        "| with STT | 60.0 ± 14.1 | 25.0 |",
    ]


def test_bytes_of_label_maps_are_those_of_the_labelling(setting: Callable[..., Setting], player: Player) -> None:
    grid = setting("mean-teacher-vs-iterative")
    cells = plan(grid)
    run_grid(grid, cells, program=player.program, say=lambda line: None)
    lines, _ = gather(cells)
    by_label = {line.label: line for line in lines}
    assert by_label["SSLTM, iterative, 1 round"].values("label_bytes") == [2_000_000]
    assert by_label["SSLTM, iterative, 1 round"].values("label_precision") == [0.9]
    assert by_label["SSLTM, Mean Teacher"].values("label_bytes") == []
    text = markdown(grid, lines, [])
    assert "| pixels labelled | of them right | label maps (MB) |" in text
    assert "| 75.00 | 90.00 | 2.00 |" in text
    assert {path.name for path in write_plots(grid, lines)} == {"miou.svg", "vc8.svg", "miou_over_hours.svg"}


def test_failed_cell_before_any_success_has_a_table_too(setting: Callable[..., Setting]) -> None:
    text = markdown(setting("stt"), [Line("with STT", {}, 1)], [CellRecord("with STT", 0, "failed", message="broken")])
    assert "| with STT | 0/1 | – | – |" in text
    assert "- with STT, seed 0: broken" in text
    assert write_plots(setting("stt"), [Line("with STT", {}, 1)]) == []


def test_bars_are_as_long_as_their_means() -> None:
    root = ElementTree.fromstring(bars_svg("t", [A, B, Line("none", {}, 1)], "mIoU"))
    space = "{http://www.w3.org/2000/svg}"
    bars = [float(r.get("width", "")) for r in root.iter(f"{space}rect") if r.get("opacity")]
    ticks = {t.text: float(t.get("x", "")) for t in root.iter(f"{space}text") if t.get("text-anchor") == "middle"}
    start = min(ticks.values())
    per_percent = (ticks["60"] - ticks["50"]) / 10
    assert len(bars) == 2
    assert start + bars[0] == pytest.approx(ticks["60"], abs=0.2)
    assert bars[0] - bars[1] == pytest.approx(9 * per_percent, abs=0.2)  # 60 and 51 percent
    assert len(list(root.iter(f"{space}circle"))) == 5


def test_curve_has_a_line_per_series_and_a_level() -> None:
    rows = [Row("level", "r"), *(Row(f"{s}{x}", "r", x=x, series=s) for s in "pq" for x in (1, 2))]
    lines = [Line(row.label, {0: {"mIoU": 0.3 + 0.1 * i}}, 1) for i, row in enumerate(rows)]
    root = ElementTree.fromstring(curve_svg("t & u", "x", rows, lines))
    paths = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("fill") == "none"]
    assert len(paths) == 2
    assert sum(path.get("stroke-dasharray") is not None for path in root.iter()) == 1


def test_plots_of_equal_values_are_finite(tmp_path: Path) -> None:
    equal = [Line("a", {0: {"mIoU": 0.0}, 1: {"mIoU": 0.0}}, 2)]
    assert "nan" not in bars_svg("t", equal, "mIoU")
