"""Iterative self-training: labels on disk that the student reads, and a loop that goes on where it was stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from everyframe.cli import self_train as verb
from everyframe.data.datamodule import ClipDataModule
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import save
from everyframe.models.zoo import create_model
from everyframe.semi.iterative import Stage
from everyframe.training import round_labels, self_training
from everyframe.training.labelling import label_videos
from everyframe.training.propagation import goals_of
from everyframe.training.recipe import Config, read_recipe, resolve
from everyframe.training.self_training import advice, self_train
from everyframe.training.start import start

SIZE = (32, 48)


def options(videos: Path) -> Config:
    return {
        "data.data": f"vspw:{videos}", "data.crop": 24, "data.batch_size": 2, "data.workers": 0, "data.budget": 1,
        "steps": 3, "validate_every": 3, "trainer.accelerator": "cpu", "trainer.precision": "32-true",
        "trainer.enable_progress_bar": False,
    }  # fmt: skip


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Train in this process, which is quicker; returns the runs in order."""
    runs: list[str] = []

    def here(config: Config, path: Path, asked: Any, held: Any) -> None:
        runs.append(Path(config["out"]).parent.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        start(config, "auto")

    monkeypatch.setattr(self_training, "train_stage", here)
    return runs


# -- the loop --------------------------------------------------------------------------------------------------------


def test_what_went_wrong_without_an_error_is_said() -> None:
    def stages(coverage: float, *scores: float | None) -> list[Stage]:
        trained = [Stage(f"round{i}/train", "done", results={"mIoU": score}) for i, score in enumerate(scores)]
        return [trained[0], Stage("round1/label", "done", results={"coverage": coverage}), *trained[1:]]

    assert advice(stages(0.6, 0.4, 0.5), 0.9) == []
    assert advice(stages(0.6, None, None), 0.9) == []
    few, worse = advice(stages(0.0064, 0.4566, 0.1152), 0.9)
    assert few.startswith("round1/label: the model was sure of 0.6% of the pixels (threshold 0.9)")
    assert "below the model of round0/train on the validation videos (11.52 and 45.66 mIoU)" in worse
    assert worse.endswith("which lies in round0/run/model")


def test_two_rounds_with_videos_that_have_no_label_at_all(videos: Path, tmp_path: Path, trained: list[str]) -> None:
    extra = tmp_path / "more" / "yard"
    extra.mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", SIZE[::-1], (40 * i, 90, 90)).save(extra / f"{i}.png")
    changes = {**options(videos), "unlabeled": [str(extra.parent)]}
    out = tmp_path / "loop"
    stages = self_train(read_recipe("fcn-gru-tiny"), changes, out, rounds=2, threshold=0.1, scales=(1.0,))
    assert [stage.name for stage in stages] == [
        "round0/train", "round1/label", "round1/train", "round2/label", "round2/train",
    ]  # fmt: skip
    assert trained == ["round0", "round1", "round2"]
    record = json.loads((out / "self_training.json").read_text())
    assert record["hours"] == pytest.approx(sum(entry["seconds"] for entry in record["stages"]) / 3600)
    assert all(entry["bytes"] > 0 and entry["seconds"] > 0 for entry in record["stages"])
    label, train = stages[1], stages[2]
    assert label.results["frames"] == 3 * 3 + 2
    assert label.results["coverage"] > 0.99
    assert 0 <= label.results["precision"] <= 1
    assert train.results["steps"] == 3
    assert (out / "round1" / "labels" / "unlabeled0" / "yard" / "1.png").is_file()

    config = yaml.safe_load((out / "round1" / "run" / "config.yaml").read_text())
    assert config["data"]["pseudo_labels"] == str(out / "round1" / "labels")
    assert config["teacher"]["weight"] == 0
    data = ClipDataModule(**config["data"])
    assert [len(video.labelled) for video in data.labelled_videos] == [4, 4, 4, 2]
    assert [len(video.labelled) for video in data.train_videos] == [1, 1, 1]
    last, model = (p / "model.safetensors" for p in (out / "round2" / "run" / "model", out / "model"))
    assert last.read_bytes() == model.read_bytes()


def test_the_first_teacher_trains_on_moved_labels(videos: Path, tmp_path: Path, trained: list[str]) -> None:
    out, changes = tmp_path / "loop", options(videos)
    stages = self_train(read_recipe("fcn-tiny"), changes, out, rounds=0, propagate=1)
    assert [stage.name for stage in stages] == ["propagate", "round0/train"]
    assert stages[0].results["frames"] > 0
    config: Config = yaml.safe_load((out / "round0" / "run" / "config.yaml").read_text())
    assert config["data"]["pseudo_labels"] == str(out / "propagated" / "labels")
    labelled = sum(len(video.labelled) for video in ClipDataModule(**config["data"]).labelled_videos)
    assert labelled == 3 + stages[0].results["frames"]
    assert (out / "model" / "model.safetensors").is_file()
    with pytest.raises(InputError, match="either propagate or data"):
        self_train(read_recipe("fcn-tiny"), {**changes, "data.pseudo_labels": "x"}, out, propagate=1)


def test_rounds_may_carry_labels_to_the_frames_around(videos: Path, tmp_path: Path, trained: list[str]) -> None:
    """Of four frames with one label the neighbours are labelled, by flow and the first model."""
    out, changes = tmp_path / "loop", options(videos)
    given: dict[str, Any] = {"threshold": 0.0, "scales": (1.0,), "flip": False, "reach": 1, "refine_steps": 2}
    stages = self_train(read_recipe("fcn-tiny"), changes, out, labels="refined", **given)
    assert [stage.name for stage in stages] == ["round0/train", "round1/refine", "round1/label", "round1/train"]
    refine, label = stages[1:3]
    assert set(refine.results) == {"refined", "filled"}
    assert (out / "round1" / "refiner" / "refiner.safetensors").is_file()
    data = ClipDataModule(f"vspw:{videos}", budget=1)
    near = {video.name: goals_of(video.labelled, 4, 1)[video.labelled[0]] for video in data.train_videos}
    written = {
        path.relative_to(out / "round1" / "labels").as_posix() for path in (out / "round1").rglob("labels/*/*.png")
    }
    names = {video.name: [frame.name for frame in video.frames] for video in data.train_videos}
    assert written == {f"{name}/{names[name][index]}.png" for name, goals in near.items() for index in goals}
    assert label.results["frames"] == len(written)
    assert label.results["coverage"] == 1.0
    before = (out / "round1" / "refiner" / "refiner.safetensors").stat().st_mtime_ns
    trained.clear()
    self_train(read_recipe("fcn-tiny"), changes, out, labels="refined", **given)  # all of it is there
    assert trained == []
    assert (out / "round1" / "refiner" / "refiner.safetensors").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="labels 'refined' there, 'filled' now"):
        self_train(read_recipe("fcn-tiny"), changes, out, labels="filled", **given)
    filled = self_train(read_recipe("fcn-tiny"), changes, tmp_path / "filled", labels="filled", **given)
    assert [stage.name for stage in filled] == ["round0/train", "round1/label", "round1/train"]
    assert filled[1].results["frames"] == len(written)


def test_labels_that_reach_no_frame_are_said_before_anything_is_trained(
    videos: Path, tmp_path: Path, trained: list[str]
) -> None:
    changes = {**options(videos), "data.budget": "all"}
    with pytest.raises(InputError, match=r"without a label within 5 of a labelled one \(--reach\), came none"):
        self_train(read_recipe("fcn-tiny"), changes, tmp_path / "loop", labels="filled")
    assert trained == []
    assert not (tmp_path / "loop" / "self_training.json").exists()


def test_a_refiner_that_was_stopped_is_not_kept(
    videos: Path, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, changes, out = read_recipe("fcn-tiny"), options(videos), tmp_path / "loop"
    given: dict[str, Any] = {"labels": "refined", "scales": (1.0,), "flip": False, "reach": 1, "refine_steps": 2}
    given["threshold"] = 0.0
    train = round_labels.train_refiner

    def stopped_in_training(*arguments: Any, **more: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return train(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(round_labels, "train_refiner", stopped_in_training)
        with pytest.raises(self_training.LoopStopped) as stopped:
            self_train(recipe, changes, out, **given)
    assert stopped.value.stage == "round1/refine"
    assert not (out / "round1" / "refiner" / "refiner.safetensors").exists()
    record = json.loads((out / "self_training.json").read_text())["stages"]
    assert record[-1]["results"] == {}
    self_train(recipe, changes, out, **given)
    assert (out / "round1" / "refiner" / "refiner.safetensors").is_file()
    assert trained == ["round0", "round1"]


def test_a_stopped_loop_goes_on_with_what_is_missing(
    videos: Path, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, changes = read_recipe("fcn-tiny"), options(videos)
    views: dict[str, Any] = {"rounds": 1, "threshold": 0.1, "scales": (1.0,), "flip": False}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    self_train(recipe, changes, whole, **views)
    trained.clear()

    label = round_labels.label_videos

    def killed_in_the_second_video(model: Any, given: Any, out: Path, **more: Any) -> Any:
        seen = iter(range(100))

        def stop() -> bool:
            if next(seen) == 5:  # four frames of the first video, two of the second
                os.kill(os.getpid(), signal.SIGTERM)
            return more["stop"]()

        return label(model, given, out, **{**more, "stop": stop})

    with monkeypatch.context() as patch:
        patch.setattr(round_labels, "label_videos", killed_in_the_second_video)
        with pytest.raises(self_training.LoopStopped) as stopped:
            self_train(recipe, changes, parts, **views)
    assert (stopped.value.stage, stopped.value.signal) == ("round1/label", signal.SIGTERM)
    folder = parts / "round1" / "labels"
    (finished,) = json.loads((folder / "pseudo_labels.json").read_text())
    first = {path: path.stat().st_mtime_ns for path in (folder / finished).iterdir()}
    assert len(first) == 3
    assert trained == ["round0"]

    self_train(recipe, changes, parts, **views)
    assert trained == ["round0", "round1"]
    assert all(path.stat().st_mtime_ns == before for path, before in first.items())
    for a in sorted((whole / "round1" / "labels").rglob("*.png")):
        assert a.read_bytes() == (folder / a.relative_to(whole / "round1" / "labels")).read_bytes()
    a, b = (load_file(out / "model" / "model.safetensors") for out in (whole, parts))
    assert all(torch.equal(value, b[name]) for name, value in a.items())

    trained.clear()
    self_train(recipe, changes, parts, **{**views, "rounds": 2})  # rounds may grow
    assert trained == ["round2"]
    with pytest.raises(InputError, match=r"threshold 0\.1 there, 0\.5 now"):
        self_train(recipe, changes, parts, **{**views, "threshold": 0.5})


def test_a_trained_model_may_be_the_first_teacher(videos: Path, tmp_path: Path, trained: list[str]) -> None:
    changes, out = options(videos), tmp_path / "loop"
    views: dict[str, Any] = {"threshold": 0.1, "scales": (1.0,), "flip": False}
    data = ClipDataModule(**resolve(read_recipe("fcn-tiny"), {**changes, "out": "o"}, "recipe")["data"])
    teacher = create_model("psp-tiny", data.label_space)
    save(teacher, tmp_path / "teacher")
    stages = self_train(read_recipe("fcn-tiny"), changes, out, first_teacher=tmp_path / "teacher", **views)
    assert [stage.name for stage in stages] == ["round1/label", "round1/train"]
    assert trained == ["round1"]
    assert not (out / "round0").exists()
    label_videos(teacher, data.train_videos, tmp_path / "by-hand", **views, device="cpu")
    maps = sorted((tmp_path / "by-hand").rglob("*.png"))
    assert len(maps) == 9
    for path in maps:
        assert (out / "round1" / "labels" / path.relative_to(tmp_path / "by-hand")).read_bytes() == path.read_bytes()
    assert json.loads((out / "model" / "config.json").read_text())["name"] == "fcn-tiny"

    (tmp_path / "teacher").rename(tmp_path / "gone")  # it has done its part
    self_train(read_recipe("fcn-tiny"), changes, out, rounds=2, first_teacher=tmp_path / "teacher", **views)
    assert trained == ["round1", "round2"]
    label_videos(out / "round1" / "run" / "model", data.train_videos, tmp_path / "students", **views, device="cpu")
    maps = sorted((tmp_path / "students").rglob("*.png"))
    assert maps
    for path in maps:
        assert (out / "round2" / "labels" / path.relative_to(tmp_path / "students")).read_bytes() == path.read_bytes()
    with pytest.raises(InputError, match=r"first_teacher .* there, None now"):
        self_train(read_recipe("fcn-tiny"), changes, out, **views)


@pytest.mark.parametrize("given", [{"rounds": 0}, {"propagate": 2}])
def test_a_first_teacher_that_would_not_teach_is_refused(videos: Path, tmp_path: Path, given: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected rounds of at least 1 and no propagate beside first_teacher"):
        self_train(read_recipe("fcn-tiny"), options(videos), tmp_path / "loop", first_teacher=tmp_path, **given)
    changes = {**options(videos), "data.pseudo_labels": str(tmp_path)}
    with pytest.raises(InputError, match=r"expected either first_teacher or data\.pseudo_labels"):
        self_train(read_recipe("fcn-tiny"), changes, tmp_path / "loop", first_teacher=tmp_path)


@pytest.mark.parametrize("labels", ["predicted", "filled"])
def test_what_ids_of_a_first_teachers_own_files_mean_does_not_matter(
    videos: Path, tmp_path: Path, trained: list[str], labels: Any
) -> None:
    data = ClipDataModule(**resolve(read_recipe("fcn-tiny"), {**options(videos), "out": "o"}, "recipe")["data"])
    space = data.label_space
    teacher = create_model("psp-tiny", space)
    save(teacher, tmp_path / "same")
    other = LabelSpace(space.names, space.palette, {raw + 1: train for raw, train in space.raw_to_train.items()})
    teacher.label_space = other
    save(teacher, tmp_path / "other")
    views: dict[str, Any] = {"threshold": 0.0, "scales": (1.0,), "flip": False, "labels": labels, "reach": 1}
    label = [
        self_train(
            read_recipe("fcn-tiny"), options(videos), tmp_path / f"loop-{name}", first_teacher=tmp_path / name, **views
        )[0]
        for name in ("same", "other")
    ]
    assert label[0].results == label[1].results
    assert 0 < label[0].results["precision"] < 1


def test_a_first_teacher_of_other_classes_is_refused(videos: Path, tmp_path: Path) -> None:
    data = ClipDataModule(**resolve(read_recipe("fcn-tiny"), {**options(videos), "out": "o"}, "recipe")["data"])
    names = data.label_space.names
    save(create_model("psp-tiny", LabelSpace((names[0], "other", *names[2:]))), tmp_path / "teacher")
    with pytest.raises(
        InputError, match=rf"first teacher of the data's {len(names)} .*: train id 1 is 'other', not '{names[1]}';"
    ):
        self_train(read_recipe("fcn-tiny"), options(videos), tmp_path / "loop", first_teacher=tmp_path / "teacher")
    assert not (tmp_path / "loop" / "round1").exists()


def test_a_loop_does_not_begin_beside_a_training_that_a_killed_one_left(
    videos: Path, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, left = tmp_path / "loop", []

    def killed(config: Config, path: Path, asked: Any, held: Any) -> None:
        left.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=held))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(self_training, "train_stage", killed)
        with pytest.raises(KeyboardInterrupt):
            self_train(read_recipe("fcn-tiny"), options(videos), out, rounds=0)
    with left[0], pytest.raises(InputError, match="another `everyframe self-train`, or a command that one left behind"):
        self_train(read_recipe("fcn-tiny"), options(videos), out, rounds=0)
    assert trained == []
    self_train(read_recipe("fcn-tiny"), options(videos), out, rounds=0)
    assert trained == ["round0"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fcn-tiny", "--data", "x"], "add --out FOLDER"),
        (["fcn-tiny", "--data", "x", "--out", "{out}", "--rounds", "-1"], "rounds and propagate >= 0"),
        (["fcn-tiny", "--data", "x", "--out", "{out}", "--threshold", "2"], "threshold in 0..1"),
        (
            ["fcn-tiny", "--data", "x", "--out", "{out}", "--reach", "0"],
            "reach and refine_steps >= 1, came 1, 0, 0.9, 0 and 400",
        ),
        (["fcn-tiny", "--data", "x", "--out", "{out}", "--stepps", "2"], "--stepps is no option; did you mean steps"),
        (["fcn-tiny", "--data", "x", "--out", "{out}", "--rouns", "2"], "--rouns is no option; did you mean --rounds"),
        (["fcn-tny", "--out", "{out}"], "did you mean fcn-tiny"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected) as raised:
        verb.main([word.format(out=tmp_path / "loop") for word in arguments])
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "loop").exists()


def test_defaults_are_those_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    known, rest = verb.parser().parse_known_args(["fcn-tiny", "--unlabeled", "a", "b", "--no-flip"])
    assert (known.rounds, known.threshold, known.scales, known.flip) == (1, 0.9, (0.75, 1.0, 1.25), False)
    assert (known.propagate, known.labels, known.reach) == (0, "predicted", 5)
    assert rest == ["fcn-tiny", "--unlabeled", "a", "b"]
    assert verb.main([]) == 2


@pytest.mark.slow
def test_the_command_stops_in_training_and_goes_on(videos: Path, tmp_path: Path) -> None:
    """Real processes: the signal reaches the run, which writes its checkpoint."""
    out = tmp_path / "loop"
    quick = {**options(videos), "steps": 80, "validate_every": 80, "trainer.log_every_n_steps": 1}
    words = [w for k, v in quick.items() for w in (f"--{k}", str(v))]
    code = "import sys; from everyframe.cli.self_train import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "fcn-tiny", "--out", str(out), "--scales", "1", "--no-flip", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 100
    while not (out / "round0" / "run" / "logs" / "train.csv").exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "stopped by SIGTERM in stage round0/train; to go on: everyframe self-train fcn-tiny" in errors
    step = torch.load(out / "round0" / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < step < 80
    subprocess.run(command, check=True, env=environment, timeout=240)
    record = json.loads((out / "self_training.json").read_text())
    assert [entry["status"] for entry in record["stages"]] == ["done"] * 3
    assert (out / "model" / "model.safetensors").exists()
