"""A few classes and "rest": which, how labels are read, and what is joined, pseudo-labelled, counted and validated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sets import CAR, PERSON, SIZE, TREE, write_coco, write_vspw

from everyframe.cli.__main__ import main
from everyframe.data.datamodule import ClipDataModule
from everyframe.data.focus import REST, Focus, expand_focus, weak_classes
from everyframe.data.layouts import load_split
from everyframe.data.reading import read_labels
from everyframe.errors import InputError
from everyframe.evaluate import evaluate
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import load, save
from everyframe.models.zoo import create_model
from everyframe.training.labelling import label_videos
from everyframe.training.recipe import read_recipe, resolve

WHOLE = LabelSpace(("sky", "car", "van"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), {0: 255, 7: 0, 8: 1, 9: 2})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EVERYFRAME_CACHE", str(tmp_path / "cache"))
    write_vspw(tmp_path / "vspw")
    write_coco(tmp_path / "coco")
    return tmp_path


def module(home: Path, *focus: str, **options: object) -> ClipDataModule:
    settings = {"batch_size": 2, "crop": 16, "adjacent": (), "reference": None, "workers": 0, **options}
    return ClipDataModule(f"vspw:{home / 'vspw'}", focus=focus, **settings)


def test_the_others_are_rest_and_ignored_pixels_stay_ignored() -> None:
    focus = Focus.on(WHOLE, ("van",))
    assert focus.space.names == ("van", REST)
    assert focus.space.palette[0] == (3, 3, 3)
    assert focus.space.encode(np.array([[0, 7, 8, 9]])).tolist() == [[255, 1, 1, 0]]
    order = Focus.on(WHOLE, ("van", "sky")).space
    assert order.encode(np.array([[0, 7, 8, 9]])).tolist() == [[255, 1, 2, 0]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["vans"], "came 'vans'; did you mean van"),
        (["no/such/report"], "classes of the data, or a report, came 'no/such/report'; there are sky, car, van"),
        (["van", "van"], "each once, came van twice"),
        (["sky", "car", "van"], "some of the classes, each once, came all 3"),
    ],
)
def test_refusals(classes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Focus.on(WHOLE, classes)
    with pytest.raises(InputError, match="no class called 'rest'"):
        Focus.on(LabelSpace(("rest", "car", "van")), ["car"])


def test_weak_classes_of_a_report(tmp_path: Path) -> None:
    """IoU by hand: half of ten sky pixels and one of eight cars are found; no van is labelled."""
    truth, found = np.zeros((1, 18), np.uint8), np.zeros((1, 18), np.uint8)
    truth[0, 10:], found[0, 5:] = 1, 0
    found[0, 5:10], found[0, 17] = 2, 1
    root = tmp_path / "set"
    for folder, labels in (("videos/a", truth), ("masks/a", truth)):
        (root / folder).mkdir(parents=True)
        Image.fromarray(labels).save(root / folder / "0.png")
    (root / "classes.yaml").write_text("0: sky\n1: car\n2: van\n")
    (tmp_path / "labels" / "a").mkdir(parents=True)
    Image.fromarray(found).save(tmp_path / "labels" / "a" / "0.png")
    report = tmp_path / "report"
    results = evaluate(data=f"folder:{root}", pred=tmp_path / "labels", split="all", flow=None, out=report)
    assert [round(entry.iou, 3) for entry in results.classes] == [round(5 / 17, 3), round(1 / 8, 3), 0.0]
    assert weak_classes(report) == weak_classes(report / "results.json") == ["car", "sky"]
    assert weak_classes(report, 0.2) == ["car"]
    assert expand_focus([str(report), "van", "car"]) == ["car", "sky", "van"]
    with pytest.raises(InputError, match=r"IoU below 10%, came none \(the lowest is car with 12\.5%\)"):
        weak_classes(report, 0.1)
    with pytest.raises(InputError, match=r"report of `everyframe evaluate --out`, found no results\.json"):
        weak_classes(tmp_path)


def test_a_recipe_keeps_the_names_not_the_report(home: Path) -> None:
    report = home / "report"
    labels = home / "labels" / "val0"
    labels.mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.full(SIZE, PERSON, np.uint8)).save(labels / f"{i:08d}.png")
    evaluate(data=f"vspw:{home / 'vspw'}", pred=home / "labels", split="val", flow=None, out=report)
    options = {"data.data": "vspw:d", "out": "o", "data.focus": str(report)}
    kept = resolve(read_recipe("fcn-tiny"), options)["data"]["focus"]
    assert sorted(kept) == ["car", "tree"]  # both at 0: nothing but person was found
    assert resolve(read_recipe("fcn-tiny"), {**options, "data.focus": "person"})["data"]["focus"] == ["person"]
    assert resolve(read_recipe("fcn-tiny"), {**options, "data.focus": "[person, car]"})["data"]["focus"][1] == "car"


def test_training_validation_and_counts_are_read_in_the_few(home: Path) -> None:
    data = module(home, "car", "tree")
    assert data.label_space.names == ("car", "tree", REST)
    rows = np.asarray(read_labels(data.train_videos[-1], 0, data.label_space))[:, 0]
    assert [int((rows == k).sum()) for k in range(3)] == [2, 8, 10]
    rows = np.asarray(read_labels(data.val_videos[0], 0, data.label_space))[:, 0]
    assert [int((rows == k).sum()) for k in range(3)] == [2, 8, 10]
    width = SIZE[1]
    assert data.class_counts.pixels.tolist() == [3 * 2 * width, (9 * 10 + 3 * 8) * width, 12 * 10 * width]
    clips = list(data.train_dataloader())
    seen = {int(v) for clip in clips for v in clip.labels.unique()}
    assert seen <= {0, 1, 2, 255}
    assert len(seen) > 1
    assert module(home).label_space.names == load_split(f"vspw:{home / 'vspw'}", "train")[1].names


def test_joined_data_go_through_all_classes_first(home: Path) -> None:
    """COCO-Stuff is mapped onto VSPW's classes and filtered there; then its cars are cars and its people the rest."""
    data = module(home, "car", also=[f"coco_stuff:{home / 'coco'}"])
    assert [source.kept for source in data.joined] == [2]
    rows = np.asarray(read_labels(data.joined[0].videos[1], 0, data.label_space))[:, 0]
    assert [int((rows == k).sum()) for k in (0, 1, 255)] == [7, 10, 3]


def test_pseudo_labels_of_all_classes_are_read_in_the_few(home: Path) -> None:
    _, whole = load_split(f"vspw:{home / 'vspw'}", "train")
    folder = home / "pseudo"
    (folder / "train0").mkdir(parents=True)
    mask = np.full(SIZE, TREE, np.uint8)
    mask[:4] = CAR
    for i in range(3):
        Image.fromarray(mask).save(folder / "train0" / f"{i:08d}.png")
    whole.save(folder / "labels.json")
    data = module(home, "car", budget=1, pseudo_labels=str(folder))
    video = data.labelled_videos[0]
    ours = set(data.train_videos[0].labelled)
    (pseudo, *_) = [i for i in video.labelled if i not in ours]
    rows = np.asarray(read_labels(video, pseudo, data.label_space))[:, 0]
    assert [int((rows == k).sum()) for k in range(2)] == [4, 16]


def test_a_teacher_of_the_few_labels_for_its_student(home: Path) -> None:
    """What iterative self-training writes holds the few classes and "rest" already."""
    data = module(home, "car", budget=1)
    teacher = create_model("fcn-tiny", data.label_space)
    found = label_videos(teacher, data.train_videos, home / "made", threshold=0.0, scales=(), flip=False, device="cpu")
    assert found["frames"] == 8
    student = module(home, "car", budget=1, pseudo_labels=str(home / "made"))
    video = student.labelled_videos[0]
    assert video.labelled == (0, 1, 2)
    made = {int(v) for i in video.labelled for v in np.unique(np.asarray(read_labels(video, i, student.label_space)))}
    assert made <= {0, 1}


def test_a_specialist_from_the_report_to_the_fusion(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The documented way, from the command line; a run that goes on keeps its classes when the report is gone."""
    data, space = f"vspw:{home / 'vspw'}", load_split(f"vspw:{home / 'vspw'}", "train")[1]
    torch.manual_seed(0)
    save(create_model("fcn-tiny", space), home / "plain")
    evaluate(data=data, model=home / "plain", split="val", flow=None, out=home / "report", device="cpu")
    weak = weak_classes(home / "report")
    assert set(weak) <= {"person", "car", "tree"}
    train = ["train", "fcn-tiny", "--data", data, "--init", str(home / "plain"), "--data.focus", str(home / "report")]
    train += ["--out", str(home / "rare"), "--data.crop", "16", "--data.batch_size", "2", "--data.workers", "0"]
    train += ["--validate_every", "2", "--trainer.accelerator", "cpu"]
    assert main([*train, "--steps", "2"]) == 0
    assert load(home / "rare" / "model").label_space.names == (*weak, REST)
    shutil.rmtree(home / "report")
    assert main(["train", str(home / "rare"), "--resume", "auto", "--steps", "4"]) == 0
    choose = ["ensemble", "specialists", str(home / "plain"), str(home / "rare"), "--data", data, "--split", "val"]
    assert main([*choose, "--out", str(home / "special"), "--quiet", "--device", "cpu"]) == 0
    assert set(json.loads((home / "special" / "specialists.json").read_text())["alphas"]) == set(weak)
    capsys.readouterr()
