"""What `predict` makes of a model's name and options, and what it refuses to mix in one folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.predictors import Remember, video
from PIL import Image

from everyframe.errors import InputError
from everyframe.inference.member_text import member_views
from everyframe.inference.predictor import scores_of
from everyframe.inference.prior import LogitAdjustment
from everyframe.inference.smoothing import FlowSmoothing
from everyframe.inference.specialist_choice import SpecialistChoice
from everyframe.inference.specialists import Specialists
from everyframe.inference.tta import Flip, Scales
from everyframe.inference.views import view_settings
from everyframe.inference.window import Window
from everyframe.io.label_png import read_raw
from everyframe.io.sources import ArraySource
from everyframe.labels import LabelSpace
from everyframe.models.checkpoint import load, save
from everyframe.models.zoo import create_model
from everyframe.predict import predict, stream, with_views

SPACE = LabelSpace(("road", "car", "bike"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run: RUN/model, and a specialist of bikes beside it."""
    root = tmp_path_factory.mktemp("run")
    save(create_model("fcn-tiny", SPACE), root / "model")
    save(create_model("fcn-tiny", LabelSpace(("bike", "rest"))), root / "bike")
    (root / "config.yaml").write_text("steps: 1")
    return root


def test_the_folder_of_a_run_stands_for_its_model(run: Path, tmp_path: Path) -> None:
    clip = video(2)
    summary = predict(run, ArraySource(clip, "shot"), tmp_path / "a", overlay=False)
    assert summary.notes == [f"{run} is the folder of a run: its model, {run / 'model'}, was taken"]
    assert summary.notes[0] in str(summary)
    plain = predict(run / "model", ArraySource(clip, "shot"), tmp_path / "b", overlay=False)
    assert plain.notes == []
    assert plain.settings == summary.settings
    with pytest.raises(InputError, match="expected a model folder"):
        with_views(tmp_path)


def test_wrappers_from_the_inside_out(run: Path, tmp_path: Path) -> None:
    (tmp_path / "prior.json").write_text(json.dumps({"road": 90, "car": 9, "bike": 1}))
    choice = SpecialistChoice(("", str(run / "bike")), "d", "l1", 0.0, (0.0,), {}, {"bike": 0.5}, None)
    choice.save(tmp_path / "specialists.json")
    options = {"flip": True, "window": 16, "specialists": tmp_path / "specialists.json"}
    model = with_views(run, **options, prior=tmp_path / "prior.json", logit_adjustment=0.5, smooth=0.4)
    assert isinstance(model, FlowSmoothing)
    assert model.alpha == 0.4
    assert isinstance(model.predictor, LogitAdjustment)
    fused = model.predictor.predictor
    assert isinstance(fused, Specialists)
    assert fused.score_norm == "l1"
    for member in fused.members:
        assert isinstance(member, Flip)
        assert isinstance(member.predictor, Window)
    assert [len(member.label_space) for member in fused.members] == [3, 2]
    settings = view_settings(**options, smooth=0.4)
    assert settings["specialists"] == str(tmp_path / "specialists.json")
    assert settings["smooth_flow"] == "dis"
    assert set(view_settings()) == {"window", "stride", "flip", "scales"}


def test_members_of_a_choice_look_at_frames_as_they_did_when_it_was_made(run: Path, tmp_path: Path) -> None:
    members = (f"{run}@window=16,flip=no", f"{run / 'bike'}@short=64")
    SpecialistChoice(members, "d", "softmax", 0.0, (0.0,), {}, {"bike": 0.5}, None).save(tmp_path / "specialists.json")
    model = with_views(run, specialists=tmp_path / "specialists.json", flip=True, score_norm="softmax")
    assert isinstance(model, Specialists)
    general, special = model.members
    assert isinstance(general, Window)
    assert general.size == (16, 16)
    assert isinstance(special, Flip)
    assert isinstance(special.predictor, Scales)
    assert special.predictor.short == 64


def test_a_window_of_a_members_own_has_the_stride_of_its_own() -> None:
    common = {"window": 480, "stride": 320, "flip": False}
    assert member_views(common, {"window": 256})["stride"] is None  # type: ignore[arg-type]
    assert member_views(common, {"window": 256, "stride": 128})["stride"] == 128  # type: ignore[arg-type]
    assert member_views(common, {"short": 256})["stride"] == 320  # type: ignore[arg-type]
    small = with_views(Remember(), **member_views(common, {"window": 256}))  # type: ignore[arg-type]
    assert isinstance(small, Window)
    assert small.stride == (170, 170)


def test_specialists_of_another_model_are_refused(run: Path, tmp_path: Path) -> None:
    choice = SpecialistChoice(("models/other", str(run / "bike")), "d", "l1", 0.0, (0.0,), {}, {"bike": 0.5}, None)
    choice.save(tmp_path / "specialists.json")
    with pytest.raises(InputError, match="expected the model models/other, beside which these specialists were chosen"):
        with_views(run, specialists=tmp_path / "specialists.json")
    with pytest.raises(InputError, match="expected the model models/other, beside which these specialists were chosen"):
        predict(run, "street.mp4", tmp_path / "out", specialists=tmp_path / "specialists.json")


def test_rare_classes_of_heads_that_predict_masks(tmp_path: Path) -> None:
    """The logarithm of the classes' shares is adjusted, and not the sums of masks, whatever is averaged before."""
    (tmp_path / "prior.json").write_text(json.dumps({"road": 90, "car": 9, "bike": 1}))
    model = create_model("mask2former-tiny", SPACE).eval()
    frame = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    adjusted = with_views(model, flip=True, prior=tmp_path / "prior.json", logit_adjustment=1.0)
    with torch.no_grad():
        both = [model.step(frame)[0], model.step(frame.flip(-1))[0].flip(-1)]
        mean = sum(both) / 2
        shares = mean / mean.sum(1, keepdim=True)
        got, _ = adjusted.step(frame)
    prior = torch.tensor([0.9, 0.09, 0.01])[:, None, None]
    torch.testing.assert_close(got.softmax(1), (shares / prior) / (shares / prior).sum(1, keepdim=True))


def test_views_average_what_the_head_means_unless_told_otherwise() -> None:
    """Also where another wrapper stands between the head and the average."""
    masks = create_model("mask2former-ssltm-tiny", SPACE)
    offline = with_views(masks, offline=True, window=32, flip=True)
    assert (scores_of(offline), offline.score_norm) == ("masks", "none")  # type: ignore[attr-defined]
    told = with_views(masks, scales=(0.5, 1.0), flip=True, score_norm="softmax")
    assert (told.score_norm, told.predictor.score_norm) == ("softmax", "softmax")  # type: ignore[attr-defined]
    assert view_settings(flip=True, score_norm="softmax")["score_norm"] == "softmax"
    assert "score_norm" not in view_settings(flip=True)
    logits = with_views(create_model("fcn-tiny", SPACE), flip=True)
    assert (scores_of(logits), logits.score_norm) == ("logits", "softmax")  # type: ignore[attr-defined]


def test_options_that_need_each_other(tmp_path: Path) -> None:
    for options in ({"logit_adjustment": 1.0}, {"prior": tmp_path / "prior.json"}):
        with pytest.raises(InputError, match="say both --logit-adjustment and --prior"):
            with_views(Remember(), **options)
    with pytest.raises(InputError, match="came l1 alone; add --flip or --scales"):
        with_views(Remember(), score_norm="l1")
    with pytest.raises(InputError, match=r"came --smooth 0\.4 and --smooth-window 1; leave one out"):
        with_views(Remember(), smooth=0.4, smooth_window=1)
    with pytest.raises(InputError, match="frames that vote, came none; add --smooth-window 1"):
        with_views(Remember(), smooth_vote=True)
    with pytest.raises(InputError, match=r"came flow raft alone; add --smooth 0\.4"):
        with_views(Remember(), smooth_flow="raft")
    with pytest.raises(InputError, match="from 0 up to but not 1"):
        with_views(Remember(), smooth=1.5)


def test_specialists_and_prior_are_part_of_the_settings(run: Path, tmp_path: Path) -> None:
    clip, prior = video(3), tmp_path / "prior.json"
    prior.write_text(json.dumps({"road": 90, "car": 9, "bike": 1}))
    options = {"overlay": False, "logit_adjustment": 1.0, "prior": prior}
    predict(run, ArraySource(clip, "shot"), tmp_path / "out", **options)
    labels = [read_raw(tmp_path / "out" / "shot" / f"{frame.name}.png") for frame in clip]
    expected = LogitAdjustment(load(run / "model"), {"road": 90, "car": 9, "bike": 1})
    for got, (_, want) in zip(labels, stream(expected, clip), strict=True):
        np.testing.assert_array_equal(got, want)
    prior.write_text(json.dumps({"road": 1, "car": 1, "bike": 1}))
    with pytest.raises(InputError, match="expected the settings of the interrupted job"):
        predict(run, ArraySource(clip, "shot"), tmp_path / "out", resume=True, **options)


def test_label_maps_of_other_classes_are_not_mixed(tmp_path: Path) -> None:
    three, four = Remember(3), Remember(4)
    predict(three, ArraySource(video(2), "first"), tmp_path, overlay=False)
    before = (tmp_path / "labels.json").read_bytes()
    for resume in (False, True):
        with pytest.raises(InputError, match=r"labels.json: expected the 4 classes .* earlier one \(3: .*--overwrite"):
            predict(four, ArraySource(video(2), "second"), tmp_path, overlay=False, resume=resume)
    assert (tmp_path / "labels.json").read_bytes() == before
    assert json.loads((tmp_path / "summary.json").read_text())["videos"][0]["name"] == "first", "its record stays"
    predict(Remember(3), ArraySource(video(2), "second"), tmp_path, overlay=False)  # the same classes
    assert len(list((tmp_path / "first").iterdir())) == 2

    (tmp_path / "mine.png").write_bytes(b"")
    (tmp_path / "other").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "other" / "0.png")
    predict(four, ArraySource(video(2), "third"), tmp_path, overlay=False, overwrite=True)
    assert len(LabelSpace.load(tmp_path / "labels.json")) == 4
    assert not list((tmp_path / "second").glob("*.png")), "what labels.json no longer describes is gone"
    assert len(list((tmp_path / "third").glob("*.png"))) == 2
    assert (tmp_path / "mine.png").exists()
    assert (tmp_path / "other" / "0.png").exists(), "what no job wrote stays"


def test_raw_ids_belong_to_the_classes(tmp_path: Path) -> None:
    """The same names under other raw ids are other classes in the files."""
    first, second = Remember(2), Remember(2)
    second.label_space = LabelSpace(first.label_space.names, raw_to_train={0: 255, 1: 0, 2: 1})
    predict(first, ArraySource(video(1), "shot"), tmp_path, overlay=False)
    with pytest.raises(InputError, match="choose another folder"):
        predict(second, ArraySource(video(1), "shot"), tmp_path, overlay=False)


def test_a_single_query_is_not_copied() -> None:
    model = create_model("fcn-tiny", SPACE).eval()
    clip = torch.randint(0, 256, (2, 1, 3, 32, 48), dtype=torch.uint8)
    with torch.no_grad():
        made = []
        predict_head = model.head.predict
        model.head.predict = lambda embedding: made.append(predict_head(embedding)) or made[-1]  # type: ignore[method-assign]
        logits = model(clip).logits
    assert logits.shape[:3] == (2, 1, 3)
    assert logits.data_ptr() == made[0]["logits"].data_ptr()


def test_offline_names_the_models_that_look_ahead() -> None:
    with pytest.raises(InputError, match=r"of .* those named ssltm or tcb look at later frames"):
        with_views(create_model("fcn-tiny", SPACE), offline=True)


@pytest.mark.parametrize("inside", ["dog", "street/dog", "val/city/street/dog"])
def test_pictures_that_no_job_wrote_are_not_replaced(inside: str, tmp_path: Path) -> None:
    mask = tmp_path / "masks" / inside / "00000000.png"
    mask.parent.mkdir(parents=True)
    Image.new("L", (4, 4), 2).save(mask)
    before = mask.read_bytes()
    for more in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(InputError, match=r"expected a new folder.*00000000\.png, which no job wrote"):
            predict(Remember(3), ArraySource(video(2), inside), tmp_path / "masks", overlay=False, **more)
    assert mask.read_bytes() == before
    assert [path.name for path in mask.parent.iterdir()] == [mask.name]
