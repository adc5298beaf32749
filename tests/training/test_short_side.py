"""What training resizes by `data.base`, validation and prediction resize too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from inference.predictors import sizes_seen
from PIL import Image
from torch import Tensor

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.layouts import load_split
from everyframe.data.transforms import Window, cut_images
from everyframe.evaluate import evaluate
from everyframe.inference.tta import Scales
from everyframe.inference.views import view_notes, with_views
from everyframe.labels import LabelSpace
from everyframe.metrics.stateful import ConfusionMatrix
from everyframe.models.checkpoint import load_segmenter
from everyframe.models.zoo import create_model
from everyframe.training.run import train
from everyframe.training.validation import observe

SPACE = LabelSpace(("sky", "road"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Two labelled videos of one frame of 90x60 pixels, a road under the sky."""
    labels = np.repeat(np.arange(60) > 30, 90).reshape(60, 90).astype(np.uint8)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    for name in ("a", "b"):
        for kind, picture in (("videos", pixels), ("masks", labels)):
            (tmp_path / kind / name).mkdir(parents=True)
            Image.fromarray(picture).save(tmp_path / kind / name / "0.png")
    (tmp_path / "classes.yaml").write_text("0: sky\n1: road\n")
    return str(tmp_path)


def test_a_run_validates_saves_and_scores_at_the_size_of_training(data: str, tmp_path: Path) -> None:
    module = ClipDataModule(data, base=48, crop=(32, 32), batch_size=2, workers=0, adjacent=(), reference=None)
    model = create_model("fcn-tiny", module.label_space, head={"width": 8})
    run = train(model, module, tmp_path / "run", steps=2, trainer={"accelerator": "cpu", "enable_progress_bar": False})
    saved = load_segmenter(run.folder.root)
    assert saved.short_side == 48
    assert evaluate(data=data, model=run.folder.model, split="val").score("mIoU").value == pytest.approx(run.score)
    seen = sizes_seen(saved)
    (video,) = load_split(data, "val")[0]
    observe(ConfusionMatrix(2), saved, video, torch.device("cpu"))
    assert seen == [(48, 72)]


def test_the_size_of_training_can_be_set_aside() -> None:
    model = create_model("fcn-tiny", SPACE).eval()
    frame = torch.zeros(1, 3, 60, 90, dtype=torch.uint8)
    assert with_views(model) is model
    model.short_side = 50
    seen = sizes_seen(model)
    for short in (None, 0, 64):
        with_views(model, short=short).step(frame)
    assert seen == [(50, 75), (60, 90), (64, 96)]  # of 64: given, so rounded to what published tests have
    with_views(model, scales=(0.5, 2.0)).step(frame)
    assert seen[3:] == [(25, 38), (100, 150)]


def test_a_job_says_at_which_size_it_looks() -> None:
    model = create_model("fcn-tiny", SPACE).eval()
    model.short_side = 50
    (note,) = view_notes(model, with_views(model))
    assert "short side of 50 pixels" in note
    assert view_notes(model, with_views(model, short=0)) == []
    assert isinstance(with_views(model, short=70), Scales)
    assert view_notes(model, with_views(model, short=70)) == []


def test_pictures_are_shrunk_as_in_training() -> None:
    """Fine texture, which a bilinear picture without antialiasing would keep as noise."""
    model = create_model("fcn-tiny", SPACE).eval()
    model.short_side = 40
    frame = torch.randint(0, 256, (1, 3, 90, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    encode = model.encode
    model.encode = lambda images: (seen.append(images), encode(images))[1]  # type: ignore[method-assign, func-returns-value]
    with_views(model).step(frame)
    window = Window(0, 0, 90, 120, (40, 53), flip=False)
    expected = cut_images(frame, window, (40, 53))
    assert (seen[0].int() - expected.int()).abs().max() <= 1  # torchvision may round a half the other way
