"""Models that are wrapped or joined by hand look at frames at their training's size, as from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.predictors import sizes_seen, video
from PIL import Image

from everyframe.errors import InputError
from everyframe.evaluate import evaluate
from everyframe.inference.ensemble import Ensemble
from everyframe.inference.members import LiveMember
from everyframe.inference.predictor import Predictor
from everyframe.inference.tta import Flip, Scales
from everyframe.inference.views import view_notes
from everyframe.inference.window import Window
from everyframe.labels import LabelSpace
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model
from everyframe.predict import stream, with_views

SPACE = LabelSpace(("sky", "road", "car"))
FRAME = torch.randint(0, 256, (1, 3, 60, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def trained_at(side: int | None, seed: int = 0) -> Segmenter:
    torch.manual_seed(seed)
    model = create_model("fcn-tiny", SPACE).eval()
    model.short_side = side
    return model


@pytest.mark.parametrize(
    ("by_hand", "options"),
    [
        (Flip, {"flip": True}),
        (lambda model: Window(model, 32, 16), {"window": 32, "stride": 16}),
        (lambda model: Flip(Window(model, 32, 16)), {"window": 32, "stride": 16, "flip": True}),
        (lambda model: Ensemble([model, model]), {}),
    ],
)
@torch.no_grad()
def test_wrapped_by_hand_a_model_gives_what_the_options_give(
    by_hand: Callable[[Predictor], Predictor], options: dict[str, object]
) -> None:
    model = trained_at(50)
    expected, _ = with_views(model, **options).step(FRAME)  # type: ignore[arg-type]
    got, _ = with_views(by_hand(model)).step(FRAME)
    torch.testing.assert_close(
        got.softmax(1), expected.softmax(1), atol=1e-3, rtol=0
    )  # pixels of a mirrored frame round apart
    as_is, _ = with_views(by_hand(model), short=0).step(FRAME)
    assert as_is.shape != got.shape


@torch.no_grad()
def test_frames_are_brought_to_a_side_once() -> None:
    model = trained_at(48)
    seen = sizes_seen(model)
    for options in ({}, {"flip": True}, {"short": 0}):
        with_views(with_views(model, **options)).step(FRAME)  # type: ignore[arg-type]
    with_views(Scales(model, (1,), short=32)).step(FRAME)
    assert seen == [(48, 72), (48, 72), (48, 72), (60, 90), (32, 48)]
    list(stream(Flip(model), video(1, (60, 90)), device="cpu"))
    LiveMember("a", model, "cpu").logits("0", video(1, (60, 90))[0])
    assert seen[5:] == [(48, 72)] * 3


@torch.no_grad()
def test_members_of_several_sides_are_made_one_by_one() -> None:
    one, two, plain = trained_at(48), trained_at(64, seed=1), trained_at(None, seed=2)
    with pytest.raises(InputError, match=r"came short sides of 48, 64; make each member by .*with_views\(MODEL\)"):
        with_views(Ensemble([one, two]))
    with pytest.raises(InputError, match="came short sides of the frames themselves, 48"):
        with_views(Flip(Ensemble([plain, one])))
    seen = sizes_seen(one), sizes_seen(two)
    with_views(Ensemble([with_views(one), with_views(two), plain])).step(FRAME)
    assert seen == ([(48, 72)], [(64, 96)])
    with_views(Ensemble([one, two]), short=0).step(FRAME)
    with_views(Ensemble([one, two]), short=32).step(FRAME)
    assert [pair[1:] for pair in seen] == [[(60, 90), (32, 64)]] * 2


def test_evaluate_looks_at_frames_as_they_are_when_told_so(tmp_path: Path) -> None:
    for kind, picture in (("videos", FRAME[0].permute(1, 2, 0).numpy()), ("masks", np.zeros((60, 90), np.uint8))):
        (tmp_path / kind / "a").mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / kind / "a" / "0.png")
    (tmp_path / "classes.yaml").write_text("0: sky\n1: road\n2: car\n")
    model = trained_at(48)
    seen = sizes_seen(model)
    for short in (0, None, 40):
        evaluate(data=f"folder:{tmp_path}", split="all", model=model, short=short, flow=None, bootstrap=0, device="cpu")
    assert seen == [(60, 90), (48, 72), (64, 64)]


def test_only_a_side_that_nobody_said_is_told_of() -> None:
    model = trained_at(50)
    assert len(view_notes(model, with_views(Flip(model)))) == 1
    assert view_notes(model, with_views(model, short=50)) == []  # rounded up to 64, so not that of training
