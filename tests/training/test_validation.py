"""Validation runs whole videos through a stream, and writes tables that can be read while a run goes on."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from tiny_run import SPACE, TinyData, run, tiny_model, write_video
from torch import Tensor

from everyframe.data.layout import VideoRef
from everyframe.data.reading import iter_frames, read_labels
from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.inference.stream import Stream
from everyframe.metrics.functional import class_iou
from everyframe.metrics.stateful import ConfusionMatrix
from everyframe.models.checkpoint import load
from everyframe.models.segmenter import Prediction, Segmenter
from everyframe.training import validation
from everyframe.training.callbacks import SeedEachStep, StopOnNonFiniteLoss
from everyframe.training.logs import CsvTable
from everyframe.training.objective import Objective, pixel_objective
from everyframe.training.optim import Optimization
from everyframe.training.run import train
from everyframe.training.validation import MONITOR, logged_scores, observe


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_predictions_by_hand(tmp_path: Path) -> None:
    video, model = write_video(tmp_path, 3), tiny_model()
    confusion = ConfusionMatrix(len(SPACE))
    observe(confusion, model, video, torch.device("cpu"))
    counts = np.zeros((2, 2))
    stream = Stream(model, "cpu")
    for frame in iter_frames(video):
        predicted, labels = stream.step(frame), read_labels(video, frame.index, SPACE)
        assert labels is not None
        for truth in (0, 1):
            for guess in (0, 1):
                counts[truth, guess] += ((labels == truth) & (predicted == guess)).sum()
    iou = [counts[k, k] / (counts[k].sum() + counts[:, k].sum() - counts[k, k]) for k in (0, 1)]
    computed = logged_scores(confusion.compute())
    assert computed[MONITOR] == pytest.approx(np.mean(iou))
    assert class_iou(confusion.compute()) == pytest.approx(iou)
    assert computed["val/pixel_accuracy"] == pytest.approx(np.trace(counts) / counts.sum())


def test_frames_without_label_maps_are_seen_and_not_counted(tmp_path: Path) -> None:
    """A memory needs every frame up to the last labelled one; what comes after cannot count."""
    video = write_video(tmp_path, 1, frames=4).keep_labels({2})
    seen = []
    model = tiny_model()
    model.register_forward_pre_hook(lambda *_: pytest.fail("validation must run `step`, not `forward`"))
    step = model.step
    model.step = lambda frame, state=None: seen.append(frame) or step(frame, state)  # type: ignore[method-assign]
    confusion = ConfusionMatrix(len(SPACE))
    observe(confusion, model, video, torch.device("cpu"))
    assert len(seen) == 3
    labels = read_labels(video, 2, SPACE)
    assert labels is not None
    assert confusion.confusion.sum() == (labels != 255).sum()


def test_model_of_the_best_validation_is_exported(tmp_path: Path) -> None:
    result = run(tmp_path, 15, data=TinyData(tmp_path / "videos"), validate_every=3)
    table = {int(row["step"]): float(row["mIoU_in-ground-truth"]) for row in rows(tmp_path / "logs" / "val.csv")}
    assert list(table) == [3, 6, 9, 12, 15]
    assert table[result.best_step] == max(table.values()) == pytest.approx(result.score, abs=1e-5)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == result.best_step
    exported = load_file(tmp_path / "model" / "model.safetensors")
    for name, value in exported.items():
        assert torch.equal(best["state_dict"][f"model.{name}"], value), name
    classes = rows(tmp_path / "logs" / "val_classes.csv")
    assert list(classes[0]) == ["step", "dark", "bright"]
    last = classes[-1]
    assert (float(last["dark"]) + float(last["bright"])) / 2 == pytest.approx(table[15], abs=1e-5)


def test_run_learns(tmp_path: Path) -> None:
    """Brightness is the class: the loss falls and the score rises."""
    result = run(tmp_path, 60, data=TinyData(tmp_path / "videos"), validate_every=60, enable_progress_bar=False)
    losses = [float(row["loss"]) for row in rows(tmp_path / "logs" / "train.csv")]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert result.score is not None
    assert result.score > 0.45


def test_validation_at_the_end_when_the_steps_do_not_divide(tmp_path: Path) -> None:
    assert run(tmp_path, 7, data=TinyData(tmp_path / "videos"), validate_every=5).best_step in (5, 7)
    assert [row["step"] for row in rows(tmp_path / "logs" / "val.csv")] == ["5", "7"]


@pytest.mark.parametrize("steps", [7, 10], ids=["outside of the steps", "with the last step"])
def test_the_model_of_the_last_validation_has_to_be_beaten_when_the_run_goes_on(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {5: 0.3, steps: 0.6, 15: 0.4, 17: 0.5}
    logged = cast("property", Trainer.callback_metrics).fget
    assert logged is not None
    scored = property(lambda trainer: {**logged(trainer), MONITOR: scores.get(trainer.global_step, 0.0)})
    monkeypatch.setattr(Trainer, "callback_metrics", scored)

    def best() -> tuple[int, float]:
        saved = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
        assert saved["optimizer_states"][0]["state"]
        assert saved["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"position": 4 * saved["global_step"]}]
        exported = load_file(tmp_path / "model" / "model.safetensors")
        assert all(torch.equal(saved["state_dict"][f"model.{name}"], value) for name, value in exported.items())
        return saved["global_step"], saved["callbacks"]["BestModel"]["score"]

    first = run(tmp_path, steps, data=TinyData(tmp_path / "videos"), validate_every=5)
    assert (first.best_step, best()) == (steps, (steps, 0.6))
    more = run(tmp_path, 17, data=TinyData(tmp_path / "videos"), validate_every=5, resume="auto")
    assert (more.best_step, more.score, best()) == (steps, 0.6, (steps, 0.6))
    assert [int(row["step"]) for row in rows(tmp_path / "logs" / "val.csv")] == sorted({5, steps, 10, 15, 17})
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"position": 4 * 17}]


def test_without_validation_videos_the_last_model_is_exported(tmp_path: Path) -> None:
    result = run(tmp_path, 3, data=TinyData())
    assert result.score is None
    assert (tmp_path / "model" / "model.safetensors").exists()
    with pytest.raises(InputError):  # a model of the tests: no name of the zoo, but a readable folder
        load(tmp_path / "model")


def test_bf16_and_accumulation_run(tmp_path: Path) -> None:
    result = run(tmp_path, 3, data=TinyData(), precision="bf16-mixed", accumulate_grad_batches=2)
    assert result.steps == 3
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.dtype == torch.float32 for value in state.values())


def test_validation_computes_in_float32_whatever_training_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, forward = Segmenter.step, Segmenter.forward
    seen: dict[str, list[bool]] = {"step": [], "forward": []}

    def watched_step(*args: Any) -> Any:
        seen["step"].append(torch.is_autocast_enabled("cpu"))
        assert torch.get_float32_matmul_precision() == "highest"
        return step(*args)

    def watched_forward(*args: Any) -> Any:
        seen["forward"].append(torch.is_autocast_enabled("cpu"))
        return forward(*args)

    monkeypatch.setattr(Segmenter, "step", watched_step)
    monkeypatch.setattr(Segmenter, "forward", watched_forward)
    run(tmp_path, 2, data=TinyData(tmp_path / "videos"), precision="bf16-mixed", validate_every=1)
    assert seen == {"step": [False] * 6, "forward": [True] * 2}


def test_gradients_are_clipped_in_mixed_precision(tmp_path: Path) -> None:
    """Lightning refuses that for the fused optimiser, which is the faster one on a CPU; then it is not taken."""
    result = run(tmp_path, 2, data=TinyData(), precision="bf16-mixed", gradient_clip_val=1.0)
    assert result.steps == 2
    params = [{"params": [torch.nn.Parameter(torch.zeros(1))]}]
    model = torch.nn.ParameterDict({"weight": params[0]["params"][0]})
    assert Optimization().optimizer(model).defaults["fused"] is True
    assert Optimization().optimizer(model, fused=False).defaults["fused"] is None


@pytest.mark.parametrize(("limit", "seen"), [(1, 1), (0, 0), (None, 2)])
def test_validation_may_be_limited(
    limit: int | None, seen: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos: list[str] = []
    observe = validation.observe

    def counted(scores: ConfusionMatrix, model: Segmenter, video: VideoRef, device: torch.device) -> None:
        videos.append(video.name)
        observe(scores, model, video, device)

    monkeypatch.setattr("everyframe.training.supervised.observe", counted)
    options = {} if limit is None else {"limit_val_batches": limit}
    result = run(tmp_path, 2, data=TinyData(tmp_path / "videos", videos=2), validate_every=2, **options)
    assert len(videos) == seen
    assert (result.score is None) == (seen == 0)
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_validation_without_a_label_gives_no_score_and_the_last_model(tmp_path: Path) -> None:
    data = TinyData(tmp_path / "videos")
    data.val_videos = [video.keep_labels(set()) for video in data.val_videos]
    result = run(tmp_path, 4, data=data, validate_every=2)
    assert (result.score, result.best_step) == (None, 4)
    assert json.loads((tmp_path / "outcome.json").read_text())["score"] is None


# -- tables ----------------------------------------------------------------------------------------------------------


def test_table_grows_by_rows_and_columns(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    table.append(1, {"loss": 0.5})
    table.append(2, {"loss": 0.25, "lr": 1e-4})
    assert (tmp_path / "t.csv").read_text().split() == ["step,loss,lr", "1,0.5,", "2,0.25,0.0001"]


def test_rows_of_a_life_that_was_lost_are_replaced(tmp_path: Path) -> None:
    table = CsvTable(tmp_path / "t.csv")
    for step in (1, 2, 3):
        table.append(step, {"loss": float(step)})
    resumed = CsvTable(tmp_path / "t.csv")
    resumed.append(2, {"loss": 9.0})
    assert (tmp_path / "t.csv").read_text().split() == ["step,loss", "1,1", "2,9"]


@pytest.mark.parametrize("left", ["3", "3,0.12", "\0\0\0"])
def test_a_row_that_a_crash_cut_off_is_dropped(tmp_path: Path, left: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"step,loss,lr\r\n1,0.5,1\r\n2,0.25,1\r\n" + left.encode())
    table = CsvTable(path)
    table.append(4, {"loss": 0.1, "lr": 1})
    table.append(5, {"loss": 0.2, "lr": 1})
    assert path.read_bytes() == b"step,loss,lr\r\n1,0.5,1\r\n2,0.25,1\r\n4,0.1,1\r\n5,0.2,1\r\n"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize("left", ["", "ste", "step,loss\r\n", "step,loss\r\n1,0.53,0.1\r\n2\r\n"])
def test_a_table_without_a_whole_row_starts_anew(tmp_path: Path, left: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(left.encode())
    CsvTable(path).append(3, {"loss": 0.5})
    assert path.read_bytes() == b"step,loss\r\n3,0.5\r\n"


def test_rows_after_the_first_are_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written anew when it is opened, when a column comes and when steps are repeated."""
    written = []
    rewrite = CsvTable._rewrite
    monkeypatch.setattr(CsvTable, "_rewrite", lambda table: (written.append(len(table._rows)), rewrite(table)))
    table = CsvTable(tmp_path / "t.csv")
    for step in range(1, 101):
        table.append(step, {"loss": 0.5} if step < 50 else {"loss": 0.5, "lr": 1.0})
    table.append(90, {"loss": 0.25})
    assert written == [1, 50, 90]
    assert [row["step"] for row in rows(tmp_path / "t.csv")] == [str(step) for step in range(1, 91)]
    resumed = CsvTable(tmp_path / "t.csv")
    resumed.append(91, {"loss": 0.5})
    resumed.append(92, {"loss": 0.5})
    assert written == [1, 50, 90, 91]
    assert len(rows(tmp_path / "t.csv")) == 92


# -- callbacks -------------------------------------------------------------------------------------------------------


class FakeTrainer:
    """As much of a trainer as the callbacks look at."""

    def __init__(self, batches: int, rank: int = 0) -> None:
        self.global_rank, self.global_step = rank, batches
        self.fit_loop = self.epoch_loop = self
        self.total_batch_idx = batches


def test_random_numbers_are_a_function_of_seed_step_and_rank() -> None:
    def draws(seed: int, step: int, rank: int = 0) -> tuple[float, float]:
        SeedEachStep(seed).on_train_batch_start(FakeTrainer(step, rank), None, None, 0)  # type: ignore[arg-type]
        return torch.rand(()).item(), float(np.random.rand())

    assert draws(0, 5) == draws(0, 5)
    assert len({draws(0, 5), draws(1, 5), draws(0, 6), draws(0, 5, 1)}) == 4


class BrokenLoss(Objective):
    """Loss of the first term is `value` from step `at` on, with sound gradients."""

    def __init__(self, value: float, at: int) -> None:
        super().__init__(pixel_objective().terms)
        self.value, self.at, self.calls = value, at, 0

    def forward(self, prediction: Prediction, clip: Clip, step: int | None = None) -> dict[str, Tensor]:
        self.calls += 1
        costs = super().forward(prediction, clip, step)
        more = self.value if self.calls == self.at else 0.0
        return {**costs, "cross_entropy": costs["cross_entropy"] + more, "loss": costs["loss"] + more}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_change(tmp_path: Path, value: float) -> None:
    """Of two batches per step the first of step 3 is broken."""
    options = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "accumulate_grad_batches": 2}
    with pytest.raises(InputError, match=r"the loss of step 3 is not finite \(cross_entropy .*--optimizer\.lr"):
        train(
            tiny_model(), TinyData(), tmp_path, BrokenLoss(value, 5), Optimization(lr=0.01), steps=4, save_every=1,
            trainer={**options, "enable_progress_bar": False},
        )  # fmt: skip
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_a_gradient_that_is_no_number_stops_the_run_before_the_weights_change(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the gradient of step 4 is not finite \(cross_entropy 0\.\d+"):
        run(tmp_path, 6, data=TinyData(), save_every=1, broken=(4, 0), precision="bf16-mixed")
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


class FakeStep(FakeTrainer):
    """A trainer of one process before the optimiser's step, with a gradient scaler or without."""

    def __init__(self, scaler: object | None) -> None:
        super().__init__(6)
        self.world_size = 1
        self.precision_plugin = SimpleNamespace(scaler=scaler)
        self.strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
        self.callback_metrics = {"train/loss": torch.tensor(0.5), "time/clips_per_second": torch.tensor(3.0)}


def test_infinite_gradients_are_left_to_the_gradient_scaler() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, float("inf")])
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def look(scaler: object | None, loss: float) -> None:
        stop = StopOnNonFiniteLoss()
        stop.on_before_backward(FakeStep(scaler), None, torch.tensor(loss))  # type: ignore[arg-type]
        stop.on_before_optimizer_step(FakeStep(scaler), None, optimizer)  # type: ignore[arg-type]

    look(object(), 0.5)
    with pytest.raises(InputError, match=r"the gradient of step 7 is not finite \(loss 0\.5\)"):
        look(None, 0.5)
    with pytest.raises(InputError, match="the loss of step 7"):
        look(object(), float("nan"))
    weight.grad = torch.tensor([1e15, -1e15])
    look(None, 0.5)  # large, but a number
