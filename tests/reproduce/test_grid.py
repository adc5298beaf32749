"""Every cell of every grid names a recipe, options that exist, and a model that can be built."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from everyframe.cli.ensemble import parser
from everyframe.cli.evaluate import _parser
from everyframe.errors import InputError
from everyframe.evaluate import evaluate
from everyframe.labels import LabelSpace
from everyframe.models.temporal.ssltm import SSLTM
from everyframe.models.zoo import create_model
from everyframe.reproduce.experiment import BEST_MEMBER, SCALES, Row
from everyframe.reproduce.grid import EXPERIMENTS, find
from everyframe.reproduce.plan import Setting, cell_key, check, overrides_of, pick, plan
from everyframe.reproduce.ssltm_grids import SSLTM_DEFAULTS
from everyframe.training.recipe import read_recipe, resolve
from everyframe.training.recipe_files import recipes
from everyframe.training.self_training import self_train

ROWS = [
    (name, scale, row)
    for name in EXPERIMENTS
    for scale in SCALES
    for row in Setting(name, "d", Path(), scale).rows
    if not row.members
]
IDS = [f"{name}-{scale}-{row.slug}" for name, scale, row in ROWS]


@pytest.mark.parametrize(("name", "scale", "row"), ROWS, ids=IDS)
def test_row_names_a_recipe_and_options_that_exist(name: str, scale: str, row: Row) -> None:
    assert row.recipe in recipes()
    options = {**overrides_of(Setting(name, "d", Path("out"), scale), row), "data.data": "vspw:/videos", "out": "out"}
    config = resolve(read_recipe(row.recipe), options, row.recipe)
    assert config["data"]["budget"] == row.overrides["data.budget"]
    if scale == "small":
        crop = row.overrides.get("data.crop", (96, 128))
        assert (config["steps"], tuple(config["data"]["crop"])) == (1200, crop)


@pytest.mark.parametrize(("name", "row"), [(n, row) for n, s, row in ROWS if s == "small"],
                         ids=[i for i, (_, s, _) in zip(IDS, ROWS, strict=True) if s == "small"])  # fmt: skip
def test_row_builds_a_model(name: str, row: Row) -> None:
    config = resolve(read_recipe(row.recipe), {**row.overrides, "data.data": "d", "out": "o"})
    with torch.device("meta"):
        model = create_model(label_space=LabelSpace(("a", "b")), **config["model"])
    if "model.temporal.prototypes" in row.overrides:
        count = row.overrides["model.temporal.prototypes"]
        assert (model.temporal.prototypes is not None) == bool(count)


@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("scale", SCALES)
def test_labels_and_folders_are_unique_and_differences_name_rows(name: str, scale: str) -> None:
    rows = find(name).rows(SCALES[scale].backbone)
    labels = [row.label for row in rows]
    assert len(set(labels)) == len({row.slug for row in rows}) == len(rows)
    assert {label for pair in find(name).pairs(rows) for label in pair} <= {*labels, BEST_MEMBER}
    anywhere = {row.label for scale in SCALES.values() for row in find(name).rows(scale.backbone)}
    assert {label for pair in find(name).differences for label in pair} <= anywhere
    assert set(find(name).video or ()) <= set(labels)


def test_table1_has_every_system_twice_and_the_ceiling() -> None:
    rows = find("table1").rows("tiny")
    assert len(rows) == 24
    taught = [row for row in rows if row.overrides.get("teacher.weight")]
    assert len(taught) == 11
    assert all(row.overrides["data.budget"] == 1 for row in taught)
    assert [row.label for row in rows if row.overrides["data.budget"] == "all"] == [
        "OCRNet, all labels",
        "SSLTM, all labels",
    ]


def test_rows_of_ssltm_as_it_is_share_the_cells_of_table1() -> None:
    signature = inspect.signature(SSLTM).parameters
    assert {f"model.temporal.{name}": signature[name].default for name in ("context", "prototypes", "update")} == (
        SSLTM_DEFAULTS
    )
    whole = next(row for row in find("table1").rows("tiny") if row.label == "SSLTM")
    for experiment, label in (("gcc", "K=3, MSE"), ("noisy-reference", "RFCE+GCC"), ("stt", "with STT")):
        same = next(row for row in find(experiment).rows("tiny") if row.label == label)
        assert (same.recipe, same.overrides) == (whole.recipe, whole.overrides)


def test_cells_that_are_one_have_one_key(tmp_path: Path) -> None:
    def key(name: str, label: str) -> str:
        cells = plan(Setting(name, "vspw:videos", tmp_path / name, seeds=2))
        return next(cell_key(cell) for cell in cells if (cell.row.label, cell.seed) == (label, 1))

    whole = key("table1", "SSLTM")
    assert key("gcc", "K=3, MSE") == key("stt", "with STT") == key("temporal", "OCRNet, SSLTM") == whole
    assert key("mean-teacher-vs-iterative", "SSLTM, labels alone") == whole
    assert key("noisy-reference", "RFCE+GCC") != whole  # scored on noisy and clean frames as well


def test_gcc_is_five_counts_by_two_rules() -> None:
    points = {(row.x, row.series) for row in find("gcc").rows("tiny") if row.x is not None}
    assert points == {(count, rule) for count in range(1, 6) for rule in ("MSE", "EMA")}


def test_label_sources_are_loops_beside_trainings_of_other_experiments(tmp_path: Path) -> None:
    def keys(name: str) -> dict[str, str]:
        return {cell.row.label: cell_key(cell) for cell in plan(Setting(name, "vspw:videos", tmp_path / name, seeds=1))}

    sources, table1, iterative = keys("label-sources"), keys("table1"), keys("mean-teacher-vs-iterative")
    assert sources["labels alone"] == table1["OCRNet"]
    assert sources["Mean Teacher"] == table1["OCRNet, Mean Teacher"]
    assert sources["predicted"] == iterative["OCRNet, iterative, 1 round, every pixel"]
    assert sources["moved and refined"] == keys("table2")["OCRNet, Warp-Refine"]
    loops = {row.label: row.loop for row in find("label-sources").rows("tiny") if row.loop}
    named = inspect.signature(self_train).parameters
    assert all(set(loop) <= set(named) for loop in loops.values())
    assert [label for label, loop in loops.items() if loop.get("labels")] == ["moved and filled", "moved and refined"]


def test_table2_trains_each_method_by_its_own_options() -> None:
    rows = {row.label: row for row in find("table2").rows("tiny")}
    zhu = rows["DeepLabv3+, moved labels, relaxed borders"]
    assert (zhu.loop, zhu.overrides["objective.cross_entropy_form"]) == ({"rounds": 0, "propagate": 5}, "relaxed")
    assert rows["Panoptic-DeepLab, Naive-Student"].loop == {"rounds": 1, "threshold": 0.0}
    assert all(row.overrides["data.budget"] == 1 for row in rows.values())


def test_reference_distances() -> None:
    rows = find("reference-distance").rows("tiny")
    assert [row.overrides["data.reference"] for row in rows] == [0, 10, 20, 30, 40, 50, 60, 70, 80]


def test_options_of_the_caller_win_and_reach_the_command(tmp_path: Path) -> None:
    setting = Setting("stt", "vspw:/videos", tmp_path, extra={"steps": "7", "data.per": "frame"})
    words = plan(setting)[0].steps[0].words
    assert words[words.index("--steps") + 1] == "7"
    assert words[words.index("--data.crop") + 1] == "[96, 128]"
    assert words[words.index("--model.temporal.depth") + 1] == "0"


def test_iterative_rows_run_the_loop(tmp_path: Path) -> None:
    steps = {cell.row.label: cell.steps[0] for cell in plan(Setting("mean-teacher-vs-iterative", "d", tmp_path))}
    words = steps["OCRNet, iterative, 2 rounds"].words
    assert words[:2] == ("self-train", "ocr-tiny")
    assert words[words.index("--rounds") + 1] == "2"
    assert "--resume" not in words
    assert steps["OCRNet, Mean Teacher"].words[0] == "train"


def test_more_data_reach_the_rows_that_join_them_and_only_those(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"multi-dataset: expected --data[.]also, came none; add --data"):
        check(Setting("multi-dataset", "vspw:/videos", tmp_path))
    other = '[{"data": "vspw:/other", "mapping": "names"}]'
    setting = Setting("multi-dataset", "vspw:/videos", tmp_path, extra={"data.also": other})
    check(setting)
    trained = {cell.row.label: cell.steps[0].words for cell in plan(setting) if cell.seed == 0}
    assert {label for label, words in trained.items() if "--data.also" in words} == {
        "one label, joined",
        "all labels, joined",
    }
    words = trained["one label, joined"]
    assert words[words.index("--data.also") + 1] == other


def test_a_single_member_is_scored_once_more_with_other_views(tmp_path: Path) -> None:
    cells = {cell.row.label: cell for cell in plan(Setting("other-attempts", "vspw:/videos", tmp_path, seeds=1))}
    step = cells["flow smoothing 0.4"].steps[0]
    model = str(cells["as it is"].folder / "run" / "model")
    assert step.words[:3] == ("evaluate", "--model", model)
    assert step.words[step.words.index("--smooth") + 1] == "0.4"
    assert len(cells["flow smoothing 0.4"].steps) == 1
    _parser(evaluate).parse_args(step.words[1:])  # exits on an option that `everyframe evaluate` does not have


def test_a_specialist_of_its_own_starts_from_the_plain_model_and_its_report(tmp_path: Path) -> None:
    setting = Setting("other-attempts", "vspw:/videos", tmp_path, seeds=1, extra={"init": "pretrained"})
    check(setting)
    cells = {cell.row.label: cell for cell in plan(setting)}
    plain, cell = cells["as it is"], cells["specialist of weak classes and rest"]
    assert [step.name for step in cell.steps] == [
        "train", "choose first", "choose second", "join second", "join first", "evaluate",
    ]  # fmt: skip
    words = cell.steps[0].words
    model = str(plain.folder / "run" / "model")
    assert words[words.index("--init") + 1] == model
    assert words[words.index("--data.focus") + 1] == str(plain.folder / "report")
    assert words[words.index("--data.rare_class_temperature") + 1] == "0.01"
    assert cell.steps[1].words[:4] == ("ensemble", "specialists", model, str(cell.folder / "run" / "model"))
    assert cell.asks == (plain,)


def test_a_row_imitates_the_model_of_its_own_seed(tmp_path: Path) -> None:
    cells = plan(Setting("distillation", "vspw:/videos", tmp_path, seeds=2))
    assert [cell.row.label for cell in pick(cells, ["ETC, distillation alone"])] == [
        "UperNet",
        "ETC, distillation alone",
    ] * 2
    for cell in cells:
        words = cell.steps[0].words
        assert ("--objective.distill_from" in words) == bool(cell.row.imitates)
        if cell.row.imitates:
            teacher = tmp_path / "cells" / "upernet" / f"seed{cell.seed}"
            assert words[words.index("--objective.distill_from") + 1] == str(teacher / "run" / "model")
            assert [member.folder for member in cell.asks] == [teacher]


def test_whom_rows_imitate_is_not_for_the_caller_to_say(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"choose whom they imitate; leave out --objective\.distill_from"):
        check(Setting("distillation", "vspw:/videos", tmp_path, extra={"objective.distill_from": "x"}))
    with pytest.raises(ValueError, match="expected members or a row to imitate, came both"):
        Row("a", "fcn-tiny", members=("b",), imitates="b")


def test_logit_adjustment_reads_the_training_splits_pixels(tmp_path: Path) -> None:
    cells = {cell.row.label: cell for cell in plan(Setting("other-attempts", "vspw:/videos", tmp_path, seeds=1))}
    count, scored = cells["logit adjustment 0.5"].steps
    assert count.words == ("data", "check", "vspw:/videos", "--split", "train", "--json", str(count.produces))
    assert scored.words[scored.words.index("--prior") + 1] == str(count.produces)
    _parser(evaluate).parse_args(scored.words[1:])


@pytest.mark.parametrize(
    ("experiment", "label", "action", "option", "file"),
    [
        ("ensemble", "soft sum of 2", "sweep", "--tau-from", "sweep.json"),
        ("other-attempts", "specialist of rare classes", "specialists", "--specialists-from", "specialists.json"),
    ],
)
def test_what_is_chosen_on_one_half_is_scored_on_the_other(
    experiment: str, label: str, action: str, option: str, file: str, tmp_path: Path
) -> None:
    cells = {cell.row.label: cell for cell in plan(Setting(experiment, "vspw:/videos", tmp_path, seeds=1))}
    cell = cells[label]
    models = [str(cells[name].folder / "run" / "model") for name in cell.row.members]
    *halves, scored = cell.steps
    options = [parser().parse_args(step.words[1:]) for step in halves]  # exits on an option that does not exist
    assert [(o.action, o.half) for o in options] == [
        (action, "first"), (action, "second"), ("run", "second"), ("run", "first"),
    ]  # fmt: skip
    assert all(o.members == models and (o.data, o.split) == ("vspw:/videos", "val") for o in options)
    chosen = {o.half: o.out / file for o in options[:2]}
    assert [step.produces for step in halves[:2]] == list(chosen.values())
    used = {o.half: getattr(o, option[2:].replace("-", "_")) for o in options[2:]}
    assert used == {"first": chosen["second"], "second": chosen["first"]}
    assert {o.out for o in options[2:]} == {Path(scored.words[2])}  # one folder of label maps, scored as a whole
    assert scored.words[:2] == ("evaluate", "--pred")
    assert "--half" not in scored.words
    if action == "specialists":
        assert options[0].below == 0.3
    assert len({step.produces for step in cell.steps}) == len({step.name for step in cell.steps}) == 5


def test_heads_of_masks_keep_their_learning_rate_at_the_small_scale(tmp_path: Path) -> None:
    for name in ("dropout", "backbones"):
        setting = Setting(name, "vspw:/videos", tmp_path)
        rates = {row.label: overrides_of(setting, row)["optimizer.lr"] for row in setting.rows}
        masks = {row.label for row in setting.rows if row.recipe.startswith("mask2former")}
        assert masks
        assert all((rate == 0.003) == (label not in masks) for label, rate in rates.items())


def test_rows_are_picked_by_pattern_and_bring_their_members(tmp_path: Path) -> None:
    table1 = plan(Setting("table1", "vspw:/videos", tmp_path, seeds=2))
    picked = pick(table1, ["SSLTM*", "OCRNet"])
    assert [(cell.row.label, cell.seed) for cell in picked] == [
        (label, seed) for seed in (0, 1) for label in ("OCRNet", "SSLTM", "SSLTM, Mean Teacher", "SSLTM, all labels")
    ]
    joined = plan(Setting("ensemble", "vspw:/videos", tmp_path, seeds=1))
    assert [cell.row.label for cell in pick(joined, ["mean of 2"])] == ["OCRNet", "UperNet", "mean of 2"]
    with pytest.raises(InputError, match="rows: expected a row or a pattern of one, came 'SSLTN'; there are DeepLab"):
        pick(table1, ["SSLTM*", "SSLTN"])


def test_joined_rows_name_models_of_their_seed(tmp_path: Path) -> None:
    cells = plan(Setting("ensemble", "vspw:/videos", tmp_path, seeds=2))
    labels = {row.label for row in find("ensemble").rows("tiny")}
    mean = next(cell for cell in cells if cell.row.join == "mean" and cell.seed == 1)
    assert all(set(cell.row.members) <= labels for cell in cells)
    assert [step.words[:2] for step in mean.steps] == [("ensemble", "run"), ("evaluate", "--pred")]
    folders = [str(tmp_path / "cells" / slug / "seed1" / "run" / "model") for slug in ("ocrnet", "upernet")]
    assert list(mean.steps[0].words[2:4]) == folders
    check(Setting("ensemble", "vspw:/videos", tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "table3"}, "no experiment 'table3'; expected one of table1, table2, gcc"),
        ({"scale": "huge"}, "scale: expected one of small, full, came 'huge'"),
        ({"seeds": 0}, "seeds: expected at least 1, came 0"),
        ({"extra": {"seed": "3"}}, "--seed is chosen for each cell"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        Setting(**{"name": "stt", "data": "d", "out": tmp_path, **options})


def test_check_names_the_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stt, without STT: --stebs is no option; did you mean steps"):
        check(Setting("stt", "vspw:/videos", tmp_path, extra={"stebs": "7"}))
