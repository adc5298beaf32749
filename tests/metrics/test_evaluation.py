"""Evaluation: the numbers of the pure functions, frame by frame, with gaps, merges and bad input."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.metrics import functional as F
from everyframe.metrics.consistency import video_consistency
from everyframe.metrics.definitions import DEFINITIONS
from everyframe.metrics.evaluation import Evaluation
from everyframe.metrics.flicker import flicker_timeline
from everyframe.metrics.flow import FlowPair, GivenFlow
from everyframe.metrics.results import Results, Score
from everyframe.metrics.tc import temporal_consistency

SPACE = LabelSpace(("road", "car", "tree", "sky"))
K = len(SPACE)
Videos = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def videos() -> Videos:
    rng = np.random.default_rng(0)
    out = {}
    for name, frames, size in (("a", 12, (6, 9)), ("b", 9, (5, 5)), ("c", 3, (4, 8))):
        labels = np.repeat(rng.integers(0, 3, (1, *size)), frames, 0).astype(np.uint8)
        labels[rng.random(labels.shape) < 0.05] = 255
        preds = np.where(rng.random(labels.shape) < 0.2, rng.integers(0, K, labels.shape), labels).astype(np.uint8)
        out[name] = preds, labels
    return out


def feed(evaluation: Evaluation, videos: Videos, unlabelled: tuple[int, ...] = ()) -> Evaluation:
    for name, (preds, labels) in videos.items():
        for t, (pred, label) in enumerate(zip(preds, labels, strict=True)):
            evaluation.update(name, t, pred, None if t in unlabelled else label, name=f"{t:05d}")
    return evaluation


def test_overall_numbers_are_those_of_the_pure_functions(videos: Videos) -> None:
    results = feed(Evaluation(SPACE, windows=(2, 4), variants=("correct", "vspw-script")), videos).compute("test")
    matrices = [F.confusion_matrix(preds, labels, K) for preds, labels in videos.values()]
    total = np.sum(matrices, axis=0)
    assert results.confusion == total.tolist()
    assert results.score("mIoU").variant == "in-ground-truth"
    assert results.score("mIoU").value == F.mean_iou(total)
    assert results.score("mIoU", "union>0").value == F.mean_iou(total, "union>0")
    assert results.score("mIoU", "mean of videos").value == pytest.approx(np.mean([F.mean_iou(m) for m in matrices]))
    assert results.score("weighted IoU").value == pytest.approx(F.weighted_iou(total))
    assert results.score("pixel accuracy").value == F.pixel_accuracy(total)
    assert results.score("class accuracy").value == pytest.approx(F.mean_class_accuracy(total))
    for variant in ("correct", "vspw-script"):
        for n, want in video_consistency(list(videos.values()), (2, 4), variant).items():
            assert results.score(f"VC{n}", variant).value == want
    flickers = [np.mean(flicker_timeline(preds)[0][1:]) for preds, _ in videos.values()]
    assert results.score("flicker", "same pixel").value == pytest.approx(np.mean(flickers))


def test_intervals_hold_the_value_and_follow_the_seed(videos: Videos) -> None:
    results = feed(Evaluation(SPACE, windows=(2,), resamples=200), videos).compute()
    for score in results.overall:
        assert score.low is not None
        assert score.high is not None
        assert score.low <= score.value <= score.high
    again = feed(Evaluation(SPACE, windows=(2,), resamples=200), videos).compute()
    assert [s.low for s in again.overall] == [s.low for s in results.overall]
    without = feed(Evaluation(SPACE, windows=(2,), resamples=0), videos).compute()
    assert {s.low for s in without.overall} == {None}


def test_per_video_and_per_frame(videos: Videos) -> None:
    results = feed(Evaluation(SPACE, windows=(2,)), videos).compute()
    for video in results.videos:
        preds, labels = videos[video.name]
        assert video.frames == video.labelled == len(preds) == len(video.timeline)
        assert video.score("mIoU").value == F.mean_iou(F.confusion_matrix(preds, labels, K))
        assert video.score("VC2", "paper").value == video_consistency([(preds, labels)], (2,), "paper")[2]
        frames = [F.confusion_matrix(p, g, K) for p, g in zip(preds, labels, strict=True)]
        assert video.timeline.miou == [F.mean_iou(m) for m in frames]
        assert video.timeline.pixel_accuracy == [F.pixel_accuracy(m) for m in frames]
        assert video.timeline.flicker[1:] == flicker_timeline(preds)[0][1:]
        assert video.timeline.name == [f"{t:05d}" for t in range(len(preds))]
    name, frame, _, value = results.worst_frames(1)[0]
    assert value == min(v for video in results.videos for v in video.timeline.miou)
    assert results.videos[[v.name for v in results.videos].index(name)].timeline.miou[frame] == value


def test_classes(videos: Videos) -> None:
    results = feed(Evaluation(SPACE), videos).compute()
    total = np.array(results.confusion)
    assert [c.name for c in results.classes] == list(SPACE.names)
    assert [c.pixels for c in results.classes] == total.sum(1).tolist()
    assert [c.predicted for c in results.classes] == total[:, :K].sum(0).tolist()
    assert [c.iou for c in results.classes[:3]] == F.class_iou(total)[:3].tolist()
    assert results.classes[3].pixels == 0
    assert results.classes[3].iou == 0.0  # predicted, never true


def test_one_frame_in_four_labelled(videos: Videos) -> None:
    results = feed(Evaluation(SPACE, windows=(2,)), videos, unlabelled=tuple(t for t in range(12) if t % 4)).compute()
    assert [video.labelled for video in results.videos] == [3, 3, 1]
    assert math.isnan(results.score("VC2").value)
    assert any("VC is not defined" in note for note in results.notes)
    assert math.isnan(results.videos[0].timeline.miou[1])
    assert not math.isnan(results.videos[0].timeline.miou[4])


def test_windows_do_not_reach_across_unlabelled_frames(videos: Videos) -> None:
    preds, labels = videos["a"]
    results = feed(Evaluation(SPACE, windows=(3,), variants=("paper",)), {"a": (preds, labels)}, (5,)).compute()
    from everyframe.metrics.consistency import video_windows

    scores = [
        *video_windows(preds[:5], labels[:5], [3], "paper")[3],
        *video_windows(preds[6:], labels[6:], [3], "paper")[3],
    ]
    assert results.score("VC3").value == pytest.approx(np.mean(scores))


def test_missing_frames_break_flicker_and_windows(videos: Videos) -> None:
    preds, labels = videos["a"]
    evaluation = Evaluation(SPACE, windows=(2,))
    for t in (0, 1, 2, 5, 6):
        evaluation.update("a", t, preds[t], labels[t])
    timeline = evaluation.compute().videos[0].timeline
    assert [math.isnan(value) for value in timeline.flicker] == [True, False, False, True, False]
    assert timeline.flicker[4] == np.mean(preds[6] != preds[5])


def test_no_labels_at_all(videos: Videos) -> None:
    results = feed(Evaluation(SPACE), videos, unlabelled=tuple(range(12))).compute()
    assert [score.name for score in results.overall] == ["flicker", "flip-back"]
    assert results.worst_frames(1)[0][3] == max(v for video in results.videos for v in video.timeline.flicker[1:])
    assert "only scores that need none" in results.notes[-1]
    assert "flicker [same pixel]" in results.table()


def test_with_flow(videos: Videos) -> None:
    preds, labels = videos["a"]
    rng = np.random.default_rng(1)
    ahead = rng.normal(0, 1, (11, 2, 6, 9)).astype(np.float32)
    evaluation = Evaluation(SPACE, flow=GivenFlow(ahead))
    for t in range(12):
        evaluation.update("a", t, preds[t], labels[t], image=torch.zeros(3, 6, 9, dtype=torch.uint8))
    results = evaluation.compute()
    for variant in ("strict", "vspw-script"):
        assert results.score("TC", variant).value == temporal_consistency([(preds, ahead)], K, variant)
    along = flicker_timeline(preds, [FlowPair(field) for field in ahead])[0]
    assert results.videos[0].timeline.flicker[1:] == along[1:]
    assert results.score("flicker").variant == "along flow"
    with pytest.raises(InputError, match="expected the frame's picture for optical flow, came none"):
        evaluation.update("b", 0, preds[0], labels[0])


def test_merge_equals_one_evaluation(videos: Videos) -> None:
    whole = feed(Evaluation(SPACE, windows=(2,)), videos).compute()
    parts = [feed(Evaluation(SPACE, windows=(2,)), {name: video}) for name, video in videos.items()]
    parts = pickle.loads(pickle.dumps(parts))  # as they come from other processes
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.compute().to_dict() == whole.to_dict()
    with pytest.raises(InputError, match="came twice: a"):
        merged.merge(feed(Evaluation(SPACE), {"a": videos["a"]}))


def test_tensors_are_taken(videos: Videos) -> None:
    as_tensors = {name: tuple(map(torch.from_numpy, video)) for name, video in videos.items()}
    assert (
        feed(Evaluation(SPACE), as_tensors).compute().to_dict() == feed(Evaluation(SPACE), videos).compute().to_dict()
    )


def test_misses_are_noted() -> None:
    evaluation = Evaluation(SPACE)
    evaluation.update("a", 0, np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    results = evaluation.compute()
    assert results.score("pixel accuracy").value == 0
    assert any(
        "4 labelled pixels predicted as no class (an id outside the table): counted as wrong" in note
        for note in results.notes
    )


def test_bad_input() -> None:
    label = np.zeros((4, 6), np.uint8)
    evaluation = Evaluation(SPACE)
    with pytest.raises(InputError, match="at least one frame"):
        evaluation.compute()
    with pytest.raises(InputError, match=r"street, frame 7: expected a prediction and a label map .* came 3x2 and 6x4"):
        evaluation.update("street", 7, np.zeros((2, 3), np.uint8), label)
    with pytest.raises(InputError, match=r"street, frame f1: .*expected labels 0\.\.3 or 255 .*came 9"):
        evaluation.update("street", 1, label, np.full((4, 6), 9, np.uint8), name="f1")
    with pytest.raises(InputError, match=r"label map \[H, W\], came \[1, 4, 6\]"):
        evaluation.update("street", 0, label[None], label)
    evaluation = Evaluation(SPACE)
    evaluation.update("a", 0, label, label)
    evaluation.update("b", 0, label, label)
    with pytest.raises(InputError, match="a second time"):
        evaluation.update("a", 1, label, label)
    with pytest.raises(InputError, match="VC: expected a variant"):
        Evaluation(SPACE, variants=("official",))  # type: ignore[arg-type]


def test_every_number_has_a_definition(videos: Videos) -> None:
    results = feed(Evaluation(SPACE, variants=("correct", "paper", "vspw-script", "dvis-pooled")), videos).compute()
    assert all(score.definition for score in results.overall)
    assert all(DEFINITIONS.values())


def test_json_round_trip(videos: Videos, tmp_path: Path) -> None:
    results = feed(Evaluation(SPACE), videos, unlabelled=(2,)).compute("demo")
    text = results.to_json(tmp_path / "results.json")
    assert "NaN" not in text
    for again in (Results.from_json(text), Results.from_json(tmp_path / "results.json")):
        assert again.to_dict() == results.to_dict()
        assert again.table() == results.table()
        assert again.classes[0] == results.classes[0]
        assert math.isnan(again.videos[0].timeline.miou[2])


def test_a_definition_of_ones_own_is_kept(monkeypatch: pytest.MonkeyPatch, videos: Videos) -> None:
    """In the file, for a process that does not know the metric; a name that ends in a digit is looked up whole."""
    results = feed(Evaluation(SPACE), videos).compute()
    results.overall.append(Score("F1", "borders", 0.5))
    results.videos[0].scores.append(Score("F1", "borders", 0.25))
    with monkeypatch.context() as context:
        context.setitem(DEFINITIONS, ("F1", "borders"), "F1 of the borders of classes.")
        assert results.score("F1").definition == "F1 of the borders of classes."
        text = results.to_json()
    again = Results.from_json(text)
    assert Score("F1", "borders", 0.5).definition == ""
    assert again.score("F1").definition == again.videos[0].score("F1").definition == "F1 of the borders of classes."
    assert again.score("F1") == results.score("F1")
    assert again.to_json() == text
    assert again.score("VC8").definition == DEFINITIONS["VC", "correct"]


def test_json_of_something_else() -> None:
    with pytest.raises(InputError, match="format None"):
        Results.from_json("{}")
    with pytest.raises(InputError, match="format None"):
        Results.from_json("[1]")
    with pytest.raises(InputError, match="whole, came KeyError"):
        Results.from_json('{"format": 1}')
    with pytest.raises(InputError, match="no JSON"):
        Results.from_json("mIoU 0.5")


def test_table_names_the_variant_beside_every_number(videos: Videos) -> None:
    table = feed(Evaluation(SPACE), videos).compute("three videos").table()
    assert table.startswith("three videos\n")
    for title in ("mIoU [in-ground-truth]", "VC8 [correct]", "flip-back [same pixel]"):
        assert title in table
    assert "road" in table
    assert "  VC8 [vspw-script], VC16 [vspw-script]: as the authors'" in table


def test_no_window_reaches_across_a_change_of_size() -> None:
    """Frames of 2x3 and of 3x2 have equally many pixels, which are not the same ones; neither are those of 2x2."""
    evaluation = Evaluation(LabelSpace(("road", "car")), windows=(2,), resamples=0)
    sizes = [(2, 3), (2, 3), (3, 2), (2, 2), (2, 2)]
    for frame, size in enumerate(sizes):
        label = np.zeros(size, np.uint8)
        right = label if frame != 1 else label + 1
        evaluation.update("street", frame, right, label)
    # Two windows of two frames: the first one has a wrong frame, the second is right.
    assert evaluation.compute().score("VC2", "correct").value == 0.5
    assert evaluation.compute().score("VC2", "paper").value == 0.5


def test_a_score_of_another_spelling_is_named() -> None:
    results = Results([Score("mIoU", "union>0", 0.5), Score("VC8", "correct", 0.5)], [], [], [])
    with pytest.raises(KeyError, match=r"no score 'miou'; did you mean 'mIoU'\?; there are mIoU \[union>0\], VC8"):
        results.score("miou")
    with pytest.raises(KeyError, match=r"no score 'mIoU' \[paper\]; there are"):
        results.score("mIoU", "paper")
