"""Pseudo-labels on disk: which pixels a model is sure of, and label maps that people have corrected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from everyframe.data.datamodule import ClipDataModule
from everyframe.data.reading import read_frame, read_labels
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.frames import Frame
from everyframe.inference.stream import Stream
from everyframe.io.label_png import read_label, read_raw, write_label
from everyframe.labels import LabelSpace
from everyframe.models.zoo import create_model
from everyframe.predict import predict
from everyframe.training.labelling import _sure_labels, label_videos, with_ignore

SIZE = (32, 48)


def test_labels_are_the_sure_pixels_of_the_average_over_views(videos: Path, tmp_path: Path) -> None:
    """Against an average of probabilities at full resolution, for a model without memory."""
    data = ClipDataModule(f"vspw:{videos}", budget=1)
    torch.manual_seed(5)
    model = create_model("fcn-tiny", data.label_space).eval()
    for parameter in model.head.parameters():
        parameter.data *= 3  # surer than a new network is
    truth = {video.name: video for video in data.hidden_videos or ()}
    views: dict[str, Any] = {"scales": [1.0], "flip": True}
    results = label_videos(model, data.train_videos, tmp_path, threshold=0.4, truth=truth, device="cpu", **views)

    space = LabelSpace.load(tmp_path / "labels.json")
    kept = right = pixels = frames = close = 0
    for video in data.train_videos:
        for frame in video.frames:
            file = tmp_path / video.name / f"{frame.name}.png"
            assert file.exists() == (frame.label is None)
            if frame.label is not None:
                continue
            image = read_frame(video, frame.index).image[None]
            with torch.no_grad():
                both = torch.stack([model.step(image)[0], model.step(image.flip(-1))[0].flip(-1)])
            logits = both.softmax(2).mean(0).log()  # averaged at the stride of the head, then upsampled as logits
            p = F.interpolate(logits, SIZE, mode="bilinear").softmax(1)[0]
            expected = torch.where(p.amax(0) >= 0.4, p.argmax(0), 255).numpy()
            written = read_label(file, space, SIZE)
            close += int((written == expected).sum())
            known = read_labels(truth[video.name], frame.index, data.label_space)
            assert known is not None
            frames, pixels = frames + 1, pixels + written.size
            kept += int((written != 255).sum())
            right += int(((written == known) & (written != 255)).sum())
            assert (known != 255).all()
    assert close >= pixels - 2  # but for float ties
    assert frames == results["frames"] == 9
    assert 0 < kept < pixels
    assert results["coverage"] == pytest.approx(kept / pixels)
    assert results["precision"] == pytest.approx(right / kept)


def test_threshold_zero_keeps_every_pixel(videos: Path, tmp_path: Path) -> None:
    data = ClipDataModule(f"vspw:{videos}", budget=1)
    model = create_model("fcn-gru-tiny", data.label_space)
    results = label_videos(model, data.train_videos[:1], tmp_path, threshold=0, scales=(), flip=False, device="cpu")
    assert results == {"frames": 3, "coverage": 1.0}


def test_frames_of_which_nothing_is_sure_get_no_label_map(videos: Path, tmp_path: Path) -> None:
    """An empty map would be trained on as a labelled frame."""
    data = ClipDataModule(f"vspw:{videos}", budget=1)
    model = create_model("fcn-gru-tiny", data.label_space)
    results = label_videos(model, data.train_videos, tmp_path, threshold=1, scales=(), flip=False, device="cpu")
    assert results == {"frames": 0, "coverage": 0.0}
    assert list(tmp_path.glob("*/*.png")) == []


def test_masks_are_held_against_the_threshold_by_what_is_missing_to_one(videos: Path, tmp_path: Path) -> None:
    data = ClipDataModule(f"vspw:{videos}", budget=1)
    model = create_model("mask2former-tiny", data.label_space).eval()
    with torch.no_grad():
        model.head.cls_embed.weight.zero_()
        model.head.cls_embed.bias.zero_()[0] = 20.0  # all queries are sure of the first class
    results = label_videos(model, data.train_videos[:1], tmp_path, scales=(1.0, 1.5), device="cpu")
    assert results["coverage"] == 1


def test_a_score_that_is_no_number_is_not_sure() -> None:
    scores = torch.tensor([[9.0, 9.0, float("nan")], [0.0, 0.0, 0.0]])[None, :, None]  # 2 classes, 1 x 3 cells

    class Given:
        label_space = LabelSpace(("a", "b"))

        def step(self, frame: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            return scores, state

    frame = Frame(torch.zeros(3, 1, 3, dtype=torch.uint8), 0, 0.0, "0")
    assert _sure_labels(Stream(Given(), "cpu"), frame, 0.9).tolist() == [
        [0, 255, 255]
    ]  # the cell beside it has a share of it


def test_files_can_hold_ignored_pixels_whatever_the_classes_are() -> None:
    plain = LabelSpace(("a", "b"))
    assert with_ignore(plain) is plain
    void = LabelSpace(("a", "b"), raw_to_train={0: 255, 1: 0, 2: 1})
    assert with_ignore(void) is void
    labels = np.array([[0, 1, 255]], np.uint8)
    for space in (
        LabelSpace(("a", "b"), raw_to_train={3: 0, 5: 1}),
        LabelSpace(("a", "b"), raw_to_train={1: 0, 255: 1}),
    ):
        full = with_ignore(space)
        assert full.encode(full.decode(labels)).tolist() == labels.tolist()
        assert full.names == space.names


def test_predictions_come_back_as_labels_once_people_have_corrected_them(tmp_path: Path) -> None:
    """predict --confidence -> look at the dark places -> paint -> --data.pseudo_labels."""
    root = write(SyntheticVideos(2, frames=3, size=SIZE), tmp_path / "mine", "frames", "train")
    settings: dict[str, Any] = {"val_split": None, "train_split": "all", "budget": 1, "workers": 0, "crop": 16}
    data = ClipDataModule(f"folder:{root}", **settings)
    model = create_model("fcn-tiny", data.label_space)
    sources = [str(root / "videos" / video.name) for video in data.train_videos]
    summary = predict(model, sources, tmp_path / "out", overlay=False, areas=False, confidence=True, device="cpu")
    assert not summary.failed

    video = data.train_videos[0]
    frame = next(f for f in video.frames if f.label is None)
    confidence = read_raw(tmp_path / "out" / f"{video.name}.confidence" / f"{frame.name}.png")
    assert confidence.shape == SIZE
    file = tmp_path / "out" / video.name / f"{frame.name}.png"
    painted = read_label(file, LabelSpace.load(tmp_path / "out" / "labels.json"), SIZE)
    painted[confidence < np.median(confidence)] = 3
    write_label(file, painted, data.label_space)

    corrected = ClipDataModule(f"folder:{root}", **settings, pseudo_labels=str(tmp_path / "out"))
    given = corrected.labelled_videos[0]
    assert given.labelled == (0, 1, 2)
    assert (read_labels(given, frame.index, data.label_space) == painted).all()
    mine = video.labelled[0]
    assert given.frames[mine] == video.frames[mine]  # a label made by hand stays
