"""Mean Teacher: what a step costs, what is logged, and that runs resume and split over processes exactly."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_distributed import launch
from test_resume import assert_same, checkpoint, columns
from tiny_run import TinyData, TinyLoader, make_clip, make_unlabelled_clip, run, tiny_model
from torch.nn import functional as F

from everyframe.data.sampling import ClipSampling
from everyframe.errors import InputError
from everyframe.frames import Clip
from everyframe.labels import LabelSpace
from everyframe.models.zoo import MODELS, create_model
from everyframe.semi.pseudo import Teaching
from everyframe.training.last_checkpoint import Interrupted
from everyframe.training.mean_teacher import STUDENT_MONITOR, MeanTeacher, query_logits
from everyframe.training.objective import pixel_objective
from everyframe.training.objectives_mask import MaskOptions
from everyframe.training.objectives_temporal import video_objective
from everyframe.training.run import train
from everyframe.training.validation import MONITOR

TEACHING = {"weight": 1.0, "threshold": 0.6, "ramp": 0.5}


class FakeTrainer:
    """As much of a trainer as a step looks at."""

    def __init__(self, step: int = 0, every: int = 1) -> None:
        self.global_step, self.log_every_n_steps = step, every
        self.precision, self.gradient_clip_val = "32-true", None


def module(step: int = 0, every: int = 1, **teaching: Any) -> MeanTeacher:
    """A module outside a run, at some step of 10, that keeps what it logs in `.logged`."""
    made = MeanTeacher(
        tiny_model(dropout=0.0), Teaching(**{**TEACHING, **teaching}), objective=pixel_objective(), steps=10
    )
    made._trainer = FakeTrainer(step, every)  # type: ignore[assignment]
    made.logged = {}
    made.log_dict = lambda values, **_: made.logged.update(values)  # type: ignore[method-assign]
    return made


def batch(unlabelled: int = 3) -> dict[str, Clip]:
    return {
        "labelled": Clip.stack([make_clip(2), make_clip(3)]),
        "unlabelled": Clip.stack([make_unlabelled_clip(n) for n in range(unlabelled)]),
    }


def test_data_without_unlabelled_clips_are_refused(tmp_path: Path) -> None:
    data = TinyData()
    data.unlabeled_batch_size = 0
    with pytest.raises(InputError, match=r"teacher: expected clips without labels .* unlabeled_batch_size=8"):
        train(tiny_model(), data, tmp_path / "run", teacher=Teaching(weight=1.0), steps=1)


# -- one step --------------------------------------------------------------------------------------------------------


def test_running_statistics_are_those_of_the_labelled_batch() -> None:
    """The strongly changed pictures of the student do not move what the teacher normalises by."""
    made, clips = module(), batch()
    made.model = create_model("fcn-tiny", made.model.label_space).train()
    alone = copy.deepcopy(made.model)
    alone(clips["labelled"].images, clips["labelled"].roles)
    made.training_step(clips, 0)
    buffers = dict(made.model.named_buffers())
    assert any(name.endswith("running_mean") for name in buffers)
    for name, value in alone.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_cost_of_a_step_by_hand() -> None:
    """Supervised terms, plus the ramped weight times the student's cross entropy on what the teacher is sure of."""
    made, clips = module(step=2, threshold=0.77), batch()
    with torch.no_grad():  # a teacher that is not the student
        made.teacher.model.head.classifier.bias += torch.tensor([0.3, -0.2])
    supervised = made.objective(made.model(clips["labelled"].images, clips["labelled"].roles), clips["labelled"])
    unlabelled = clips["unlabelled"]
    seen = made.teacher.model(unlabelled.images, unlabelled.roles).logits[:, 0]
    probability = F.interpolate(seen, size=(12, 16), mode="bilinear").softmax(1)
    kept = (probability.amax(1) >= 0.77) & unlabelled.inside
    assert 0 < kept.sum() < unlabelled.inside.sum()
    strong, _, _ = made.student_view(unlabelled, torch.zeros(3, 1, 12, 16, dtype=torch.uint8))
    student = F.interpolate(made.model(strong, unlabelled.roles).logits[:, 0], size=(12, 16), mode="bilinear")
    own = F.cross_entropy(student, probability.argmax(1), reduction="none")
    expected = (own * kept).sum() / unlabelled.inside.sum()

    costs = made.training_step(clips, 0)
    assert set(costs) == {"cross_entropy", "auxiliary", "pseudo_label", "loss"}
    torch.testing.assert_close(costs["pseudo_label"], expected)
    weight = math.exp(-5 * (1 - 2 / 5) ** 2)
    torch.testing.assert_close(costs["loss"], supervised["loss"] + weight * expected)
    assert made.logged["train/pseudo_label_weight"].item() == pytest.approx(weight)
    torch.testing.assert_close(made.logged["train/coverage"], kept.sum() / unlabelled.inside.sum())
    truth = unlabelled.hidden[:, 0]
    known = kept & (truth != 255)
    right = (probability.argmax(1) == truth)[known].float().mean()
    torch.testing.assert_close(made.logged["train/precision_hidden"], right)


def test_no_gradient_reaches_the_teacher_or_the_hidden_labels() -> None:
    made, clips = module(), batch()
    made.training_step(clips, 0)["loss"].backward()
    assert all(p.grad is not None for p in made.model.parameters())
    assert all(p.grad is None for p in made.teacher.parameters())
    gradients = [p.grad.clone() for p in made.model.parameters()]
    other = module()
    clips["unlabelled"].hidden = 1 - clips["unlabelled"].hidden.clamp(max=1)
    other.training_step(clips, 0)["loss"].backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, other.model.parameters(), strict=True))
    trained = {id(p) for group in made.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert trained == {id(p) for p in made.model.parameters()}


def test_a_teacher_that_is_sure_of_nothing_changes_nothing() -> None:
    made, clips = module(threshold=1.0), batch()
    costs = made.training_step(clips, 0)
    assert costs["pseudo_label"].item() == 0
    supervised = made.objective(made.model(clips["labelled"].images, clips["labelled"].roles), clips["labelled"])
    assert torch.equal(costs["loss"], supervised["loss"])
    costs["loss"].backward()
    alone = module()
    alone.objective(alone.model(clips["labelled"].images, clips["labelled"].roles), clips["labelled"])[
        "loss"
    ].backward()
    for a, b in zip(made.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_thresholds_by_class_are_those_of_the_steps_before() -> None:
    made, clip = module(threshold=0.9, class_thresholds=True), batch()["unlabelled"]
    with torch.no_grad():  # a teacher that takes both classes
        made.teacher.model.head.classifier.bias += torch.tensor([-0.4, 0.4])
    scores = made.teacher.model(clip.images, clip.roles).logits[:, 0]
    best, winner = F.interpolate(scores, size=(12, 16), mode="bilinear").softmax(1).max(1)
    assert winner.unique().tolist() == [0, 1]
    made.thresholds.sureness.copy_(torch.tensor([0.45, 0.9]))  # 0.45 of the one class, 0.9 of the other
    kept = torch.where(winner == 0, best >= 0.45, best >= 0.9)
    assert 0 < kept.sum() < kept.numel()
    expected = winner.where(kept, 255).to(torch.uint8)[:, None]
    assert torch.equal(made.targets(clip), expected)
    assert torch.equal(made.targets(clip, learn=True), expected)
    seen, own = scores.softmax(1).max(1)
    inside = F.interpolate(clip.inside[:, None].float(), seen.shape[-2:], mode="nearest-exact")[:, 0] > 0
    means = torch.stack([seen[inside & (own == k)].mean() for k in range(2)])
    moved = 0.99 * torch.tensor([0.45, 0.9]) + 0.01 * means
    torch.testing.assert_close(made.thresholds.sureness, moved)
    made.targets(clip)  # looking alone moves nothing
    torch.testing.assert_close(made.thresholds.sureness, moved)


def test_student_sees_the_same_crop_in_other_colours() -> None:
    made, clip = module(), batch(4)["unlabelled"]
    targets = made.targets(clip)
    images, same, inside = made.student_view(clip, targets)
    assert images.dtype == torch.uint8
    assert images.shape == clip.images.shape
    assert not torch.equal(images, clip.images)
    assert same is targets
    assert inside is clip.inside
    # Alike for all frames of a clip: equal frames stay equal.
    clip.images[:, 0] = clip.images[:, 1]
    images, _, _ = made.student_view(clip, targets)
    assert torch.equal(images[:, 0], images[:, 1])
    # A function of seed, step and clip: not of the place in the batch.
    turned = Clip.stack([make_unlabelled_clip(n) for n in (3, 2, 1, 0)])
    turned.images[:, 0] = turned.images[:, 1]
    assert torch.equal(made.student_view(turned, targets)[0], images.flip(0))
    assert not torch.equal(module(step=1).student_view(clip, targets)[0], images)


def test_cutmix_moves_pictures_labels_and_padding_together() -> None:
    made, clip = module(cutmix=1.0), batch(3)["unlabelled"]
    made.change_colors = lambda images, rng: images  # type: ignore[assignment]
    targets = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 12, 16)
    clip.images = targets[:, :, None].expand(3, 2, 3, 12, 16) * 10
    images, mixed, inside = made.student_view(clip, targets)
    assert torch.equal(images[:, 1, 0], mixed[:, 0] * 10)
    assert (mixed != targets).float().mean().item() == pytest.approx(0.5, abs=0.1)
    pasted = (mixed != targets)[:, 0]
    assert torch.equal(inside, torch.where(pasted, clip.inside.roll(-1, 0), clip.inside))


def test_without_hidden_labels_precision_is_that_on_the_labelled_clips() -> None:
    """It costs a pass of the teacher, so only the steps that are logged pay it."""
    made, clips = module(every=2), batch()
    clips["unlabelled"].hidden = None
    made.training_step(clips, 0)
    assert "train/precision_hidden" not in made.logged
    assert "train/precision_labelled" not in made.logged
    made._trainer.global_step = 1  # type: ignore[union-attr]
    made.training_step(clips, 1)
    labelled = clips["labelled"]
    guess, truth = made.targets(labelled), labelled.query_labels
    known = (guess != 255) & (truth != 255)
    expected = (guess == truth)[known].float().mean()
    torch.testing.assert_close(made.logged["train/precision_labelled"], expected)


def test_logits_of_all_queries_in_order() -> None:
    model, clip = tiny_model(0.0), make_clip(1)
    prediction = model(clip.images[None].repeat(2, 1, 1, 1, 1))  # both frames are queries
    logits = query_logits(model, prediction)
    assert logits.shape == (4, 2, 6, 8)
    torch.testing.assert_close(logits[1], prediction.logits[0, 1])


def zoo_models() -> list[str]:
    """Every head alone, and every temporal module with a head it works with, on the smallest backbone."""
    tiny = [name for name, parts in MODELS.items() if parts.backbone == "tiny"]
    timeless = [name for name in tiny if not MODELS[name].temporal]
    of_time = {MODELS[name].temporal: name for name in tiny if MODELS[name].temporal}
    return [*timeless, *of_time.values()]


@pytest.mark.parametrize("name", zoo_models())
def test_every_model_learns_from_a_teacher(name: str) -> None:
    """Clips bring the frames that the temporal module looks at; the gradient reaches what labels alone reach."""
    model = create_model(name, LabelSpace(("a", "b", "c")))
    sampling = ClipSampling(model.temporal.adjacent, "far_end" if model.temporal.reference else None)
    t = len(sampling.roles)
    objective = video_objective(model, MaskOptions(points=64), prototypes=0.0)
    teaching = Teaching(weight=1.0, threshold=0.0, ramp=0.0, class_thresholds=True)
    made = MeanTeacher(model, teaching, objective=objective, steps=10)
    made._trainer, made.log_dict = FakeTrainer(), lambda *_, **__: None  # type: ignore[assignment, method-assign]

    def clips(count: int, labelled: bool) -> Clip:
        shape = (count, t, 32, 48)
        labels = torch.randint(0, 3, shape, dtype=torch.uint8) if labelled else torch.full(shape, 255).byte()
        images = torch.randint(0, 256, (count, t, 3, 32, 48), dtype=torch.uint8)
        known = torch.full((count, t), labelled)
        names = tuple(f"v{n}" for n in range(count))
        return Clip(images, labels, known, sampling.roles, torch.arange(t).expand(count, t), names)

    labelled = clips(2, True)
    made.objective(made.model(labelled.images, labelled.roles), labelled)["loss"].backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {n for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    costs = made.training_step({"labelled": labelled, "unlabelled": clips(3, False)}, 0)
    costs["loss"].backward()
    assert costs["pseudo_label"] > 0
    assert torch.isfinite(costs["loss"])
    assert 0 < made.thresholds.sureness.max() <= 1
    assert {n for n, p in model.named_parameters() if p.grad is not None} == reached
    with torch.no_grad():  # a student that has moved
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    made.teacher.update(model, step=0)
    for (n, own), (_, new) in zip(made.exported.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(own, new), n


# -- runs ------------------------------------------------------------------------------------------------------------


class Follow:
    """Recomputes the teacher from the students of all steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.students: list[torch.Tensor] = []
        step = MeanTeacher.optimizer_step

        def spied(module: MeanTeacher, *args: Any, **kwargs: Any) -> None:
            step(module, *args, **kwargs)
            self.students.append(module.model.head.classifier.weight.detach().clone())

        monkeypatch.setattr(MeanTeacher, "optimizer_step", spied)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_teacher_of_a_run_is_the_average_of_its_students(
    accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = Follow(monkeypatch)
    run(tmp_path, 4, teacher=TEACHING, unlabelled=2, accumulate_grad_batches=accumulate)
    assert len(follow.students) == 4
    state = checkpoint(tmp_path)["state_dict"]
    torch.testing.assert_close(state["teacher.model.head.classifier.weight"], torch.stack(follow.students).mean(0))
    assert torch.equal(state["model.head.classifier.weight"], follow.students[-1])
    # The teacher is what is exported.
    exported = load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(value, state[f"teacher.model.{name}"]) for name, value in exported.items())


def test_all_terms_and_both_curves_are_logged(tmp_path: Path) -> None:
    result = run(tmp_path, 10, teacher=TEACHING, unlabelled=3)
    rows = columns(tmp_path / "logs" / "train.csv")
    assert {"loss", "cross_entropy", "auxiliary", "pseudo_label", "pseudo_label_weight"} < rows[0].keys()
    assert {"coverage", "precision_hidden"} < rows[0].keys()
    for row in rows:
        total = float(row["cross_entropy"]) + 0.4 * float(row["auxiliary"]) + 0.1 * float(row["dice"])
        total += float(row["pseudo_label_weight"]) * float(row["pseudo_label"])
        assert float(row["loss"]) == pytest.approx(total, rel=1e-4)
        assert 0 <= float(row["coverage"]) <= 1
    assert [float(row["pseudo_label_weight"]) for row in rows][4:] == pytest.approx([math.exp(-0.2), *[1.0] * 5])
    scores = columns(tmp_path / "logs" / "val.csv")
    assert [row["step"] for row in scores] == ["5", "10"]
    best = max(float(row["mIoU_in-ground-truth"]) for row in scores)
    assert result.score == pytest.approx(best, abs=1e-5)
    assert all(0 < float(row["student_mIoU_in-ground-truth"]) <= 1 for row in scores)
    only = run(tmp_path / "only", 5, teacher={**TEACHING, "validate_student": False}, unlabelled=3)
    assert only.score is not None
    assert "student_mIoU_in-ground-truth" not in columns(tmp_path / "only" / "logs" / "val.csv")[0]


@pytest.mark.parametrize("stop_at", [5, 7])
def test_resumed_equals_uninterrupted(stop_at: int, tmp_path: Path) -> None:
    """Student, teacher, optimiser and both streams of clips; a run with CutMix, dropout and a ramp under way."""
    options: dict[str, Any] = {"teacher": {**TEACHING, "cutmix": 0.5, "ramp": 1.0, "class_thresholds": True}}

    class Stopping(TinyData):
        def train_dataloader(self) -> Any:
            loaders = super().train_dataloader()
            position = stop_at * self.batch_size

            class Loader(TinyLoader):
                def __iter__(self) -> Any:
                    import os
                    import signal

                    for clip in super().__iter__():
                        if self.position == position:
                            os.kill(os.getpid(), signal.SIGTERM)
                        yield clip

            loaders.iterables["labelled"].__class__ = Loader
            return loaders

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole, 12, data=TinyData(whole / "videos", unlabelled=3), **options)
    with pytest.raises(Interrupted) as stopped:
        run(parts, 12, data=Stopping(parts / "videos", unlabelled=3), **options)
    assert stopped.value.step == stop_at
    run(parts, 12, data=TinyData(parts / "videos", unlabelled=3), resume="auto", **options)
    a, b = checkpoint(whole), checkpoint(parts)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(a[part], b[part], part)
    assert any(name.startswith("teacher.model.") for name in a["state_dict"])
    assert a["state_dict"]["thresholds.sureness"].any()
    assert columns(whole / "logs" / "train.csv") == columns(parts / "logs" / "train.csv")
    # A stop at step 5 comes before the validation of that step, which is not made up for.
    assert columns(whole / "logs" / "val.csv")[-2:] == columns(parts / "logs" / "val.csv")[-2:]
    assert (whole / "model" / "model.safetensors").read_bytes() == (parts / "model" / "model.safetensors").read_bytes()


def test_two_processes_equal_one_with_the_joint_batch(tmp_path: Path) -> None:
    """Clips hold different amounts of padding and of sure pixels, so averaging per-process means would not do."""
    options: dict[str, Any] = {
        "teacher": TEACHING, "dropout": 0.0, "dice": 0.0, "optimizer": "sgd", "videos": 2, "validate_every": 3,
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    process = launch(two, steps=6, batch_size=2, unlabelled=1, **options)
    run(one, 6, batch_size=4, unlabelled=2, **options)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    a, b = (torch.load(p / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for p in (one, two))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-4, atol=1e-6, msg=name)
    rows = [columns(p / "logs" / "val.csv") for p in (one, two)]
    assert rows[0] == rows[1]


def test_a_teacher_that_fails_is_told_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "unsure", 2, teacher={**TEACHING, "threshold": 1.0}, unlabelled=3)
    assert "at most 0.0% of the pixels reached teacher.threshold 1: next to nothing" in capsys.readouterr().err
    run(tmp_path / "sure", 2, teacher={**TEACHING, "threshold": 0.0}, unlabelled=3)
    assert "next to nothing" not in capsys.readouterr().err
    run(tmp_path / "unsure", 2, teacher={**TEACHING, "threshold": 1.0}, unlabelled=3, resume="auto")
    assert "next to nothing" not in capsys.readouterr().err, "no step was taken"


def test_a_teacher_behind_its_student_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MeanTeacher(tiny_model(), Teaching(weight=1.0, momentum=0.99), objective=pixel_objective(), steps=10)
    for student, said in ((0.49, False), (0.568, True)):
        metrics = {MONITOR: torch.tensor(0.4851), STUDENT_MONITOR: torch.tensor(student)}
        monkeypatch.setattr(MeanTeacher, "trainer", SimpleNamespace(callback_metrics=metrics))
        told = made.failings()
        assert len(told) == said
    assert "it scores 48.51 mIoU in the last validation, its student 56.80" in told[0]
    assert "= 100 steps" in told[0]
