"""`everyframe train`: one clear line for what is wrong, and a run folder that can be used and resumed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from everyframe.claim import claim
from everyframe.cli.__main__ import main
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write

QUICK = ["--data.workers", "0", "--data.crop", "32", "--data.batch_size", "2", "--trainer.accelerator", "cpu"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("data") / "videos"
    for split, count in (("train", 2), ("val", 1)):
        write(SyntheticVideos(count, frames=4, size=(48, 64)), root, "vspw", split)
    return f"vspw:{root}"


@pytest.mark.parametrize("arguments", [["--help"], ["ocr-tiny", "--help"], ["ocr-tiny", "--data", "a", "-h"]])
def test_help_stands_anywhere(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == 0
    assert "usage: everyframe train RECIPE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ocr-tny"], "did you mean ocr-tiny"),
        (["ocr-tiny", "--data.bach_size", "4"], "--data.bach_size is no option; did you mean data.batch_size"),
        (["ocr-tiny", "--lr", "4"], "did you mean optimizer.lr"),
        (["ocr-tiny", "--zzz.qqq", "4"], "--help"),
        (["ocr-tiny", "--device", "cuda"], "--device is no option; did you mean --trainer.accelerator gpu"),
        (["ocr-tiny"], "--data LAYOUT:ROOT, --out FOLDER"),
        (["ocr-tiny", "--data.batch_size", "many", "--data", "a", "--out", "b"], "expected int, came many"),
        (["ocr-tiny", "--optimizer.name", "adm", "--data", "a", "--out", "b"], "one of 'adamw', 'sgd', came adm"),
        (["ocr-tiny", "--optimizer.lr"], "--optimizer.lr: expected a value"),
        (["ocr-tiny", "data", "folder"], "expected --option value, came 'data'"),
        (["--data", "x"], "expected a recipe, came options alone"),
        (["--unlabeled", "a", "ocr-tiny"], "came options alone; --unlabeled took ocr-tiny: put the recipe first"),
        (["--steps=3"], "came options alone; `everyframe train --list` lists the recipes"),
        (["--data", "x", "ocr-tiny", "--print-config", "deeplab-tiny"], "expected --option value, came 'deeplab-tiny'"),
        (["ocr-tiny", "--data", "folder:/no/such/place", "--out", "b"], "check the path"),
        (["ocr-tiny", "--model", "ocr-tinny", "--data", "{videos}", "--out", "{tmp}"], "no model 'ocr-tinny'"),
        (["ocr-tiny", "--steps", "0", "--data", "{videos}", "--out", "{tmp}"], "steps: expected at least 1"),
        (
            ["ocr-tiny", "--seed", "-1", "--data", "{videos}", "--out", "{tmp}"],
            "train: seed: expected a whole number from 0",
        ),
        (["ocr-tiny", "--data.seed", "-1", "--data", "{videos}", "--out", "{tmp}"], "data.seed: expected a whole"),
        (
            ["ocr-tiny", "--objective.class_weights", "[1, 2]", "--data", "{videos}", "--out", "{tmp}"],
            "weights, one per class, came 2",
        ),
    ],
)
def test_mistakes_give_one_clear_line(
    arguments: list[str], expected: str, videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [word.format(videos=videos, tmp=tmp_path / "run") for word in arguments]
    assert main(["train", *arguments]) == 1
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith("everyframe train: ")
    assert expected in errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer: {lerning_rate: 1}", "'optimizer.lerning_rate' is no option"),
        ("optimiser: {lr: 1}", "'optimiser.lr' is no option; did you mean optimizer.lr"),
        ("data: {batch_size: [1]}", "data.batch_size: expected int, came [1]"),
        ("- a\n- b", "came list"),
        ("a: {", "expected YAML"),
        ("", "came NoneType"),
    ],
)
def test_mistakes_in_a_recipe_give_one_clear_line(
    text: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    assert main(["train", str(recipe), "--data", "a", "--out", "b", "--model", "ocr-tiny"]) == 1
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "mine.yaml: " in errors
    assert expected in errors


def test_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    assert "ocr-swin-small" in capsys.readouterr().out


def test_help_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--data.batch_size" in out
    assert "--optimizer.layer_decay" in out


def test_printed_configuration_is_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", "folder:x", "--out", "runs/a", "--optimizer.lr", "3e-4", "--print-config"]
    assert main(["train", "ocr-gru-tiny", *arguments]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["optimizer"]["lr"] == 3e-4
    assert (
        main(["train", *arguments[:-1], "ocr-gru-tiny", "--print-config"]) == 0
    )  # behind options, where it is none's value
    assert capsys.readouterr().out == printed
    (tmp_path / "again.yaml").write_text(printed)
    assert main(["train", str(tmp_path / "again.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_unlabelled_videos_bring_a_teacher(videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--unlabeled DIR...` and it works: folders of pictures, nothing else said."""
    for name in ("drive", "yard"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (64, 48), (20 * i, 90, 40)).save(tmp_path / name / f"{i}.png")
    out, folders = tmp_path / "run", [str(tmp_path / name) for name in ("drive", "yard")]
    arguments = ["ocr-tiny", "--data", videos, "--unlabeled", *folders, "--out", str(out), "--steps", "2", *QUICK]
    assert main(["train", *arguments, "--trainer.log_every_n_steps", "1"]) == 0
    assert "2 videos without labels" in capsys.readouterr().err
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"]["unlabeled"] == folders
    assert (config["teacher"]["weight"], config["data"]["unlabeled_batch_size"]) == (1.0, 2)
    with (out / "logs" / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [0 <= float(row["coverage"]) <= 1 for row in rows] == [True, True]
    assert {"pseudo_label", "pseudo_label_weight", "precision_labelled"} < rows[0].keys()
    with (out / "logs" / "val.csv").open() as file:
        assert "student_mIoU_in-ground-truth" in next(csv.DictReader(file))


def test_a_folder_in_which_a_run_is_at_work_is_left_alone(
    videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs in one folder would mix their checkpoints, and the second would replace what the first says it is."""
    pytest.importorskip("fcntl")
    out = tmp_path / "run"
    with claim(out, "train"):
        before = sorted(out.iterdir())
        assert main(["train", "ocr-tiny", "--data", videos, "--out", str(out), "--steps", "1", *QUICK]) == 1
        assert "another `everyframe train`" in capsys.readouterr().err
        assert sorted(out.iterdir()) == before
        (out / "checkpoints").mkdir()  # it has come further: "go on with --resume auto" would be no help
        (out / "checkpoints" / "last.ckpt").touch()
        assert main(["train", "ocr-tiny", "--data", videos, "--out", str(out), "--steps", "1", *QUICK]) == 1
        assert "another `everyframe train`" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_mask_that_would_end_the_run_is_found_before_it(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, count in (("train", 2), ("val", 1)):
        root = write(SyntheticVideos(count, frames=4, size=(48, 64)), tmp_path / "data", "vspw", name)
    video = (root / f"{split}.txt").read_text().split()[-1]
    mask = sorted((root / "data" / video / "mask").glob("*.png"))[-1]
    Image.new("L", (64, 48), 77).save(mask)
    assert main(["train", "fcn-tiny", "--data", f"vspw:{root}", "--out", str(tmp_path / "run"), *QUICK]) == 1
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert f"{mask.name}: " in errors
    assert "77" in errors
    assert not (tmp_path / "run").exists()


def test_one_class_leaves_nothing_to_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two ids of one name: loss 0 and 100 % mIoU, and not a word."""
    root = write(SyntheticVideos(2, frames=3, size=(32, 48)), tmp_path / "data", "frames", "train")
    (root / "classes.yaml").write_text("".join(f"{raw}: cat\n" for raw in range(9)))
    assert main(["train", "fcn-tiny", "--data", str(root), "--out", str(tmp_path / "run"), *QUICK]) == 1
    assert "expected two classes to tell apart, came cat alone" in capsys.readouterr().err
    assert main(["data", "check", str(root)]) == 1
    assert "a single class, cat" in " ".join(capsys.readouterr().out.split())


def test_train_then_resume_from_the_run_folder(videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = ["--data", videos, "--steps", "2", "--validate_every", "2", *QUICK, "--trainer.precision", "32-true"]
    assert main(["train", "ocr-gru-tiny", "--out", str(out), *arguments, "--data.budget", "1"]) == 0
    told = capsys.readouterr()
    assert "mIoU" in told.out
    assert "2 labelled frames (6 more hidden by data.budget 1)" in told.err
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["data"]["adjacent"] == [-2, -1]  # what the recurrent module asks for
    assert config["data"]["reference"] is None
    for name in ("train.csv", "val.csv", "val_classes.csv"):
        with (out / "logs" / name).open() as file:
            assert next(csv.DictReader(file))["step"]
    assert any((out / "logs").glob("events.out.tfevents*"))

    assert main(["train", "ocr-gru-tiny", "--out", str(out), *arguments]) == 1
    assert "--resume auto" in capsys.readouterr().err
    moved = out.rename(tmp_path / "moved")
    assert main(["train", str(moved), "--resume", "--steps", "3"]) == 0
    assert torch.load(moved / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


def test_diverging_run_stops_with_a_clear_line(videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", videos, "--out", str(tmp_path / "run"), *QUICK, "--optimizer.lr", "1e30"]
    assert main(["train", "fcn-tiny", *arguments, "--optimizer.warmup", "0", "--optimizer.name", "sgd"]) == 1
    errors = capsys.readouterr().err.splitlines()[-1]
    assert "not finite" in errors
    assert "--optimizer.lr" in errors
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_sigterm_says_how_to_go_on(videos: str, tmp_path: Path) -> None:
    out = tmp_path / "my run"
    command = [sys.executable, "-m", "everyframe.cli", "train", "fcn-tiny", "--data", videos, "--out", str(out), *QUICK]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 100
    while not (out / "logs" / "train.csv").exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0
    assert f"everyframe train '{out}' --resume auto" in errors.splitlines()[-1]
    assert (out / "checkpoints" / "last.ckpt").exists()


def test_run_starts_from_another_model_and_resumes_without_it(
    videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a learning rate of nearly nothing, the weights are those it started from."""
    common = ["--data", videos, "--steps", "1", "--validate_every", "1", *QUICK]
    assert main(["train", "fcn-tiny", *common, "--out", str(tmp_path / "first")]) == 0
    first, second = tmp_path / "first" / "model", tmp_path / "second"
    slow = ["--optimizer.lr", "1e-12", "--seed", "5", "--out", str(second), "--init", str(first.parent)]
    capsys.readouterr()
    assert main(["train", "fcn-tiny", *common, *slow]) == 0
    assert f"starts from {first.parent}: " in capsys.readouterr().err
    wanted, found = (load_file(folder / "model.safetensors") for folder in (first, second / "model"))
    for name in (name for name in wanted if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))):
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-6)
    shutil.rmtree(first)
    assert main(["train", str(second), "--steps", "2", "--resume", "auto"]) == 0


def test_a_folder_that_cannot_be_written(videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        assert main(["train", "fcn-tiny", "--data", videos, "--out", str(out), "--steps", "1", *QUICK]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"everyframe train: {out}: expected to write here, cannot (")
        assert line.endswith("choose another place")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_a_device_that_is_not_there(videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--data", videos, "--out", str(tmp_path / "run"), "--steps", "1", *QUICK[:-1], "cuda"]
    assert main(["train", "fcn-tiny", *where]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("everyframe train: trainer: expected options that fit this machine, came others: ")
    assert "CUDA" in line
    run = str(tmp_path / "run")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for model in (run, f"{run}/model"):  # what such a run leaves is no model
        assert main(["predict", str(tmp_path / "a.png"), "--model", model, "--out", str(tmp_path / "out")]) == 1
        told = f"this run has none yet (no validation was reached); go on with `everyframe train {run} --resume auto`"
        assert told in capsys.readouterr().err
    assert main(["train", "fcn-tiny", "--data", videos, "--out", f"{run}2", "--init", run, *QUICK]) == 1
    assert told in capsys.readouterr().err


def test_the_score_of_a_run_is_the_one_that_evaluate_gives(
    videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the last digit, although training computes in bfloat16."""
    from everyframe.evaluate import evaluate

    out = tmp_path / "run"
    precision = ["--trainer.precision", "bf16-mixed", "--optimizer.lr", "0.01"]
    assert main(["train", "ocr-tiny", "--data", videos, "--out", str(out), "--steps", "12", *QUICK, *precision]) == 0
    printed = capsys.readouterr()
    assert "1 validation video; 12 steps of 2 clips" in printed.err
    assert "logging interval" not in printed.err
    with (out / "logs" / "train.csv").open() as file:  # a run shorter than the usual interval
        assert [row["step"] for row in csv.DictReader(file)] == ["12"]
    score = json.loads((out / "outcome.json").read_text())["score"]
    measured = evaluate(data=videos, model=str(out), device="cpu", flow=None, bootstrap=0).score("mIoU")
    assert measured.value == pytest.approx(score, rel=1e-7)  # scores are logged in float32
    assert f"mIoU {100 * measured.value:.2f} %" in printed.out


def test_going_on_tells_what_differs_and_that_nothing_is_left(
    videos: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    arguments = ["train", "fcn-tiny", "--data", videos, "--out", out, *QUICK, "--validate_every", "9"]
    assert main([*arguments, "--steps", "1"]) == 0
    assert "goes on" not in capsys.readouterr().err
    assert main(["train", out, "--resume", "auto", "--trainer.log_every_n_steps", "1"]) == 0
    told = capsys.readouterr().err
    assert "already at step 1 of 1: no step is left to do; more with --steps N" in told
    assert "other options" not in told
    assert main(["train", out, "--resume", "auto", "--steps", "2", "--data.batch_size", "3"]) == 0
    told = capsys.readouterr().err
    assert "goes on with other options than it began with: data.batch_size 3 (was 2); the result is not that" in told
    assert "no step is left" not in told


def test_list_stands_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    width = max(len(line.split()[0]) for line in lines)
    assert all(line[width : width + 2] == "  " and line[width + 2] != " " for line in lines)
