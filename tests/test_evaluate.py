"""Folders and models to numbers: against counts made by hand with nothing but numpy."""

from __future__ import annotations

import json
import math
import threading
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from everyframe import flow
from everyframe.data.decoding import DecodingThreads
from everyframe.data.layout import FrameRef, VideoRef
from everyframe.errors import InputError
from everyframe.evaluate import evaluate
from everyframe.flow import FlowPair
from everyframe.io.label_png import read_raw
from everyframe.labels import LabelSpace
from everyframe.metrics.results import Results
from everyframe.models.checkpoint import save as save_model
from everyframe.models.zoo import create_model
from everyframe.pairs import LivePairs

NAMES = ("road", "car", "sky")
SIZE = (12, 17)


def save(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two videos of 6 and 4 frames in VSPW layout; video b lacks the label map of frame 2. Raw id = train id + 1."""
    rng = np.random.default_rng(0)
    root = tmp_path / "camera"
    for video, frames in (("a", 6), ("b", 4)):
        for i in range(frames):
            # The grey of a pixel is its class, so that a model can read it off the frame.
            truth = rng.integers(0, 3, SIZE)
            picture = np.repeat((truth * 80 + 20)[..., None], 3, 2)
            save(root / "data" / video / "origin" / f"{i:03d}.png", picture)
            if (video, i) != ("b", 2):
                void = rng.random(SIZE) < 0.1
                save(root / "data" / video / "mask" / f"{i:03d}.png", np.where(void, 0, truth + 1))
    (root / "val.txt").write_text("a\nb\n")
    (root / "classes.json").write_text(json.dumps({"0": "void", **{str(i + 1): n for i, n in enumerate(NAMES)}}))
    return root


@pytest.fixture
def pred(data: Path, tmp_path: Path) -> Path:
    """Predictions of all frames in raw ids, a fifth of the pixels wrong."""
    rng = np.random.default_rng(1)
    for path in sorted((data / "data").glob("*/origin/*.png")):
        truth = (np.array(Image.open(path))[..., 0].astype(int) - 20) // 80
        guess = np.where(rng.random(SIZE) < 0.2, rng.integers(0, 3, SIZE), truth)
        save(tmp_path / "pred" / path.parts[-3] / path.name, guess + 1)
    return tmp_path / "pred"


def truth_and_guess(data: Path, pred: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labelled pixels of all labelled frames as train ids: (truth, guess)."""
    pairs = []
    for path in sorted((data / "data").glob("*/mask/*.png")):
        mask, guess = np.array(Image.open(path)), np.array(Image.open(pred / path.parts[-3] / path.name))
        pairs.append((mask[mask > 0].astype(int) - 1, guess[mask > 0].astype(int) - 1))
    return pairs


def run(data: Path, pred: Path | None = None, **options: object) -> Results:
    return evaluate(pred, f"vspw:{data}", **{"flow": None, "bootstrap": 0, **options})  # type: ignore[arg-type]


class ReadsGrey:
    """A predictor that reads the class off the grey of the frame, with one pixel in the corner wrong."""

    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        self.label_space = LabelSpace(names)
        self.order = [names.index(name) for name in NAMES if name in names]

    def step(self, frame: Tensor, state: object) -> tuple[Tensor, object]:
        classes = (frame[:, 0].long() - 20) // 80
        classes[:, 0, 0] = (classes[:, 0, 0] + 1) % 3
        logits = torch.zeros(frame.shape[0], len(self.label_space), *frame.shape[-2:])
        return logits.scatter(1, torch.tensor(self.order)[classes][:, None], 1.0), state


def test_saved_predictions_give_the_numbers_of_a_count_by_hand(data: Path, pred: Path) -> None:
    results = run(data, pred)
    truth, guess = (np.concatenate(part) for part in zip(*truth_and_guess(data, pred), strict=True))
    matrix = np.zeros((3, 4), int)
    np.add.at(matrix, (truth, guess), 1)
    assert results.confusion == matrix.tolist()
    iou = [((truth == k) & (guess == k)).sum() / ((truth == k) | (guess == k)).sum() for k in range(3)]
    assert results.score("mIoU", "in-ground-truth").value == pytest.approx(np.mean(iou))
    assert results.score("pixel accuracy").value == pytest.approx((truth == guess).mean())
    assert [c.name for c in results.classes] == list(NAMES)
    assert [(v.name, v.frames, v.labelled) for v in results.videos] == [("a", 6, 6), ("b", 4, 3)]


def test_unlabelled_frames_count_for_flicker_only(data: Path, pred: Path) -> None:
    maps = [np.array(Image.open(path)) for path in sorted((pred / "b").iterdir())]
    changes = [(now != before).mean() for before, now in pairwise(maps)]
    line = run(data, pred).videos[1].timeline
    assert line.flicker[1:] == pytest.approx(changes)
    assert math.isnan(line.pixel_accuracy[2])
    assert line.name == ["000", "001", "002", "003"]


def test_vc_says_in_how_many_videos_it_is_defined(data: Path, pred: Path) -> None:
    results = run(data, pred, windows=[3])
    assert not math.isnan(results.videos[0].score("VC3").value)
    assert math.isnan(results.videos[1].score("VC3").value), "frame 2 of 4 is not labelled"
    assert "VC3: 1 of 2 videos; the others have no 3 consecutive labelled frames" in results.notes
    assert results.score("VC3").value == results.videos[0].score("VC3").value


def test_model_and_its_saved_label_maps_give_the_same_numbers(data: Path, tmp_path: Path) -> None:
    live = run(data, model=ReadsGrey(), save=tmp_path / "maps")
    saved = run(data, tmp_path / "maps")
    assert saved.to_dict() | {"title": ""} == live.to_dict() | {"title": ""}
    wrong = sum(row[k] for i, row in enumerate(live.confusion) for k in range(4) if k != i)
    assert 0 < wrong <= 9, "the corner pixel of at most 9 labelled frames"


def test_classes_of_another_order_are_matched_by_name(data: Path, tmp_path: Path) -> None:
    straight = run(data, model=ReadsGrey())
    turned = run(data, model=ReadsGrey(("sky", "road", "car")), save=tmp_path / "maps")
    assert turned.to_dict() == straight.to_dict()
    assert run(data, tmp_path / "maps").confusion == straight.confusion
    assert set(np.unique(read_raw(tmp_path / "maps" / "a" / "000.png"))) <= {0, 1, 2}, "written in the model's own ids"


def test_a_class_that_the_data_lack_counts_as_wrong_and_is_named(data: Path) -> None:
    names = ("road", "bus", "sky")

    class Bus(ReadsGrey):
        def __init__(self) -> None:
            super().__init__(names)
            self.order = [0, 1, 2]  # says "bus" where it is a car

    results = run(data, model=Bus())
    assert results.confusion[1][:3] <= [1, 0, 9]
    assert results.confusion[1][3] > 0
    wrong = sum(row[3] for row in results.confusion)
    assert f"{wrong} labelled pixels predicted as bus, which model Bus has and the data do not: counted as wrong" in (
        results.notes
    )
    assert sum("bus" in note or "no class (" in note for note in results.notes) == 1
    assert any("car" in note and "never predicted" in note for note in results.notes)


def test_model_of_other_classes_is_refused_in_one_line(data: Path) -> None:
    with pytest.raises(InputError, match=r"model ReadsGrey: expected classes of the data \(road, car, sky\), came 2"):
        run(data, model=ReadsGrey(("cat", "dog")))


def test_missing_predictions_are_refused_counted_and_left_out_on_request(data: Path, pred: Path) -> None:
    (pred / "a" / "001.png").unlink()
    (pred / "b" / "002.png").unlink()  # not labelled: no mIoU hangs on it
    with pytest.raises(InputError, match=r"9 labelled frames, 1 are missing: a \(001\).*--allow-missing"):
        run(data, pred)
    results = run(data, pred, allow_missing=True)
    assert any(note.startswith("1 of 9 labelled frames have no prediction") for note in results.notes)
    assert sum(map(sum, results.confusion)) == sum(len(t) for t, _ in _without(data, pred, ("a", "001.png")))


def _without(data: Path, pred: Path, lost: tuple[str, str]) -> list[tuple[np.ndarray, np.ndarray]]:
    save(pred / lost[0] / lost[1], np.ones(SIZE))  # put back for the count by hand
    every = truth_and_guess(data, pred)
    at = [path.parts[-3:] for path in sorted((data / "data").glob("*/mask/*.png"))].index((lost[0], "mask", lost[1]))
    return every[:at] + every[at + 1 :]


def test_a_gap_in_the_predictions_breaks_the_chain_of_frames(data: Path, pred: Path) -> None:
    maps = {path.stem: np.array(Image.open(path)) for path in (pred / "a").iterdir()}
    (pred / "a" / "002.png").unlink()
    line = run(data, pred, allow_missing=True).videos[0].timeline
    assert line.name == ["000", "001", "003", "004", "005"]
    assert line.flicker[1] == pytest.approx((maps["001"] != maps["000"]).mean())
    assert math.isnan(line.flicker[2]), "001 and 003 are no neighbours"


def test_a_folder_without_any_prediction_says_where_it_looked(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"found none of 9 labelled frames .*empty/a/000\.png"):
        run(data, tmp_path / "empty", allow_missing=True)


def test_size_and_ids_that_do_not_fit_are_refused(data: Path, pred: Path) -> None:
    save(pred / "a" / "003.png", np.ones((12, 16)))
    with pytest.raises(InputError, match=r"003: expected a prediction and a label map .*came 16x12 and 17x12"):
        run(data, pred)
    save(pred / "a" / "003.png", np.full(SIZE, 9))
    with pytest.raises(InputError, match=r"003\.png: id 9 not in the class table"):
        run(data, pred)
    (pred / "a" / "003.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"003\.png: expected a picture, came an empty file"):
        run(data, pred)


def test_no_thread_outlives_a_refusal(data: Path, pred: Path) -> None:
    (pred / "a" / "003.png").write_bytes(b"")
    with pytest.raises(InputError):
        run(data, pred)
    assert not [t for t in threading.enumerate() if t.name.startswith("everyframe-decode")]


def test_train_ids_are_read_on_request(data: Path, pred: Path) -> None:
    expected = run(data, pred).confusion
    for path in pred.glob("*/*.png"):
        save(path, np.array(Image.open(path)) - 1)
    assert run(data, pred, pred_ids="train").confusion == expected


def test_the_word_none_and_a_single_video(data: Path, pred: Path, tmp_path: Path) -> None:
    assert run(data, pred, flow="none").to_dict() == run(data, pred, flow=None).to_dict()
    with pytest.raises(InputError, match=r"flow: expected dis, raft .*none too\), came 'rafft'"):
        run(data, pred, flow="rafft")
    (data / "val.txt").write_text("a\n")
    results = run(data, pred, flow="none", out=tmp_path / "report")
    assert results.notes[0] == "1 video, 6 frames, 6 of them with a label map"
    assert "6 of them with a label map" not in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_the_model_of_a_run_is_a_setting_and_no_note(data: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "runs" / "s"
    save_model(create_model("fcn-tiny", LabelSpace(NAMES)), run_folder / "model")
    results = run(data, model=run_folder, out=tmp_path / "report", windows=[2])
    assert not any("folder of a run" in note for note in results.notes)
    assert results.title.startswith("s on camera")
    assert str(run_folder / "model") in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("flow", [None, "dis"])
def test_out_holds_json_and_report_with_the_worst_frames(
    data: Path, pred: Path, tmp_path: Path, flow: str | None
) -> None:
    save(pred / "a" / "004.png", np.full(SIZE, 3))
    results = run(data, pred, out=tmp_path / "report", flow=flow)
    assert Results.from_json(tmp_path / "report" / "results.json").to_dict() == results.to_dict()
    html = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "pred on camera, val" in html
    assert html.index("a / 004") == html.index('<figure class="strip"><figcaption><b>') + 37


def test_frames_inside_a_video_file_serve_the_flow(data: Path, pred: Path, tmp_path: Path) -> None:
    from everyframe.io.video import VideoWriter

    root = tmp_path / "own"
    (root / "videos").mkdir(parents=True)
    size = (48, 64)
    with VideoWriter(root / "videos" / "v.mp4", size=size, rate=Fraction(25)) as writer:
        for i in range(4):
            writer.write(torch.full((3, *size), 20 + 50 * i, dtype=torch.uint8), None)
    (root / "classes.yaml").write_text("0: road\n1: car\n")
    for i in range(4):
        save(root / "masks" / "v" / f"{i:06d}.png", np.zeros(size))
        save(tmp_path / "maps" / "v" / f"{i:08d}.png", np.full(size, i == 3))
    results = evaluate(tmp_path / "maps", f"folder:{root}", "all", flow="dis", bootstrap=0, out=tmp_path / "out")
    assert results.score("pixel accuracy").value == 0.75
    assert results.videos[0].timeline.flicker[1:] == [0, 0, 1]
    assert not math.isnan(results.score("TC").value)


def test_either_predictions_or_a_model(data: Path, pred: Path) -> None:
    with pytest.raises(InputError, match="came both"):
        run(data, pred, model=ReadsGrey())
    with pytest.raises(InputError, match="came neither"):
        run(data)
    with pytest.raises(InputError, match="save, flip belongs to a model"):
        run(data, pred, save="x", flip=True)


def test_progress_counts_frames(data: Path, pred: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    run(data, pred, progress=lambda *now: seen.append(now))
    assert seen[0] == ("a", 1, 10)
    assert seen[-1] == ("b", 10, 10)


def test_raft_runs_where_the_model_does(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Still:
        """No motion."""

        def __init__(self, weights: str, device: torch.device, backward: bool) -> None:
            assert backward, "TC tells what is hidden by the flow back"
            made.append((weights, device))

        def between(self, first: Tensor, second: Tensor) -> FlowPair:
            return FlowPair(np.zeros((2, *first.shape[1:]), np.float32))

    made: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(flow, "RAFTFlow", Still)
    assert run(data, model=ReadsGrey(), flow="raft:mine.pth", device="cpu").score("TC").value > 0
    run(data, model=ReadsGrey(), flow="raft")
    anywhere = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert made == [("mine.pth", torch.device("cpu")), ("download", anywhere)]


def test_masks_in_deep_folders_are_not_replaced_by_what_a_model_saves(data: Path, tmp_path: Path) -> None:
    mask = tmp_path / "maps" / "val" / "a" / "000.png"
    mask.parent.mkdir(parents=True)
    save(mask, np.full((4, 4), 7))
    videos = [VideoRef("val/a", (FrameRef(0, "000", data / "data" / "a" / "origin" / "000.png"),))]
    source = LivePairs(ReadsGrey(), LabelSpace(NAMES), tmp_path / "maps", {})
    with DecodingThreads(1) as pool, pytest.raises(InputError, match=r"val/a/000\.png, which no job wrote"):
        next(source.pairs(videos, pool, images=False))
    assert (read_raw(mask) == 7).all()


class TrainsAndReads(torch.nn.Module, ReadsGrey):
    def __init__(self, names: tuple[str, ...] = NAMES) -> None:
        torch.nn.Module.__init__(self)
        ReadsGrey.__init__(self, names)


def test_a_model_in_training_mode_is_in_it_again_afterwards(data: Path) -> None:
    model, seen = TrainsAndReads().train(), []
    run(data, model=model, progress=lambda *_: seen.append(model.training))
    assert model.training
    assert set(seen) == {False}
    model.label_space = LabelSpace((*NAMES, "bus"))
    model.step = lambda frame, state: (torch.zeros(1, 3, *frame.shape[-2:]), state)  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"expected logits \[B, 4, h, w\]"):
        run(data, model=model)
    assert model.training


def test_flow_that_is_none_is_refused(data: Path) -> None:
    class Bare:
        def between(self, first: Tensor, second: Tensor) -> np.ndarray:
            return np.zeros((2, *SIZE), np.float32)

    with pytest.raises(InputError, match="expected a FlowPair from between, came ndarray"):
        run(data, model=ReadsGrey(), flow=Bare())
    with pytest.raises(InputError, match=r"between\(first, second\), came object without it"):
        run(data, model=ReadsGrey(), flow=object())
