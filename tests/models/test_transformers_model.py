"""Models of transformers against the library's own processors and post-processing, on tiny random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import everyframe
from everyframe.cli.__main__ import main
from everyframe.errors import InputError
from everyframe.evaluate import evaluate
from everyframe.frames import Frame
from everyframe.inference.state_file import snapshot
from everyframe.inference.stream import Stream
from everyframe.io.label_png import read_raw
from everyframe.models.checkpoint import load
from everyframe.models.heads.mask2former.head import semantic_scores
from everyframe.models.transformers_files import MINIMUM
from everyframe.models.transformers_model import FAMILIES, TransformersModel

tf = pytest.importorskip("transformers", minversion=MINIMUM)

from tiny_transformers import SIDE, SIZES, by_the_library, edit, picture  # noqa: E402

Saved = Callable[[str], Path]


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_label_maps_are_the_librarys(saved: Saved, kind: str) -> None:
    model = load(saved(kind))
    assert isinstance(model, TransformersModel)
    assert not model.training
    classes = set()
    for size in SIZES:
        image = picture(size)
        got, want = Stream(model, "cpu").step(Frame(image, 0, 0.0, "0")), by_the_library(model, image)
        classes |= set(want.flat)
        # Pixels where two classes tie to the last bits of float32 may differ.
        assert (got == want).mean() >= 0.999, size
    assert len(classes) > 1


@pytest.mark.parametrize("kind", ["segformer", "mask2former", "eomt", "padded", "videomt"])
def test_a_batch_is_its_frames(saved: Saved, kind: str) -> None:
    model = load(saved(kind))
    frames = torch.stack([picture((45, 70), seed) for seed in range(2)])
    with torch.no_grad():
        both = model.step(frames)[0]
        alone = torch.cat([model.step(frame[None])[0] for frame in frames])
    torch.testing.assert_close(both, alone, rtol=1e-3, atol=1e-3)


# -- EoMT: squares -----------------------------------------------------------------------------------------------------


def test_padding_is_cut_off(saved: Saved) -> None:
    """The oracle is the library's `unpad_image`, which its panoptic post-processing uses, on semantic scores."""
    model = load(saved("padded"))
    classes = set()
    for size in [(37, 97), (97, 37)]:
        image = picture(size)
        with torch.no_grad():
            outputs = model.network(**model.processor(image.permute(1, 2, 0).numpy(), return_tensors="pt"))
            scores = semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits, (SIDE, SIDE))
        want = model.processor.unpad_image(scores, [size], model.processor.size)[0].argmax(0).numpy()
        assert (Stream(model, "cpu").step(Frame(image, 0, 0.0, "0")) == want).mean() >= 0.999, size
        classes |= set(want.flat)
    assert len(classes) > 1


def test_squares_average_where_they_overlap(saved: Saved) -> None:
    """67 x 150 becomes 64 x 143, so three squares start at 0, 39 (39.5 cut) and 79."""
    model: Any = load(saved("eomt"))
    squares: list[Tensor] = []
    model.network.register_forward_hook(
        lambda network, args, outputs: squares.append(
            semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits, (SIDE, SIDE))
        )
    )
    with torch.no_grad():
        scores = model.step(picture((67, 150))[None])[0][0]
    first, second, third = squares[0]
    assert scores.shape == (5, 64, 143)
    torch.testing.assert_close(scores[..., :39], first[..., :39])
    torch.testing.assert_close(scores[..., 39:64], (first[..., 39:] + second[..., :25]) / 2)
    torch.testing.assert_close(scores[..., 103:], third[..., 24:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"shortest_edge": 32, "longest_edge": None}}, "expected a size of 64x64, .* came 32x32"),
        ({"do_split_image": False}, "expected do_split_image or do_pad"),
        ({"do_center_crop": True}, "came do_center_crop, which leaves the borders"),
    ],
)
def test_settings_that_do_not_fit(copied: Saved, changes: dict[str, Any], message: str) -> None:
    folder = copied("eomt")
    edit(folder / "preprocessor_config.json", **changes)
    with pytest.raises(InputError, match=message):
        load(folder)


# -- VidEoMT: queries travel -------------------------------------------------------------------------------------------


def test_stream_is_the_clip(saved: Saved) -> None:
    model = load(saved("videomt"))
    clip = torch.stack([torch.stack([picture((40, 60), 10 * b + t) for t in range(4)]) for b in range(2)])  # B T C H W
    options = {"input_data_format": "channels_first", "do_sample_frames": False, "return_tensors": "pt"}
    with torch.no_grad():
        outputs = model.network(**model.processor(list(clip), **options))
        whole = semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits).unflatten(0, (4, 2))
        state = None
        for t in range(4):
            scores, state = model.step(clip[:, t], state)
            torch.testing.assert_close(scores, whole[t], rtol=1e-5, atol=1e-6)
        alone = model.step(clip[:, 3])[0]
    assert state.shape == (2, 6, 16)
    assert not torch.allclose(alone, whole[3], atol=1e-3)  # the past matters
    snapshot(state)  # so that an interrupted job can go on


def test_streams_do_not_mix(saved: Saved) -> None:
    model = load(saved("videomt"))
    frames = [picture((40, 60), seed)[None] for seed in range(4)]
    with torch.no_grad():
        first, second = model.step(frames[0])[1], model.step(frames[1])[1]
        mixed = [model.step(frames[2], first)[0], model.step(frames[3], second)[0]]
        for start, end, got in zip(frames[:2], frames[2:], mixed, strict=True):
            assert torch.equal(got, model.step(end, model.step(start)[1])[0])


# -- through predict and evaluate --------------------------------------------------------------------------------------


def test_predict_and_evaluate(saved: Saved, tmp_path: Path) -> None:
    """Files hold raw ids, 1 above the library's classes; scored by name against other classes, all is right."""
    folder, shot = str(saved("segformer")), tmp_path / "own" / "videos" / "shot"
    shot.mkdir(parents=True)
    for k in range(2):
        Image.fromarray(picture((51, 77), k).permute(1, 2, 0).numpy()).save(shot / f"{k}.png")
    assert main(["predict", str(shot), "--model", folder, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    model, masks = load(folder), tmp_path / "own" / "masks" / "shot"
    masks.mkdir(parents=True)
    to_other = np.array([3, 9, 7, 5, 4], np.uint8)  # the data's raw ids of the model's classes
    for k in range(2):
        want = by_the_library(model, picture((51, 77), k))
        got = read_raw(tmp_path / "out" / "shot" / f"{k}.png")
        assert (got == want + 1).mean() >= 0.999
        Image.fromarray(to_other[got - 1]).save(masks / f"{k}.png")
    classes = {3: "Road", 4: "tree", 5: "car_(3)", 7: "sky", 9: "car (1)"}
    (tmp_path / "own" / "classes.json").write_text(json.dumps(classes))
    results = evaluate(
        data=f"folder:{tmp_path / 'own'}", split="all", model=folder, flow=None, bootstrap=0, windows=[2]
    )
    assert results.score("mIoU").value == 1.0

    (tmp_path / "own" / "classes.json").write_text(json.dumps({k: f"thing {k}" for k in classes}))
    with pytest.raises(InputError, match="expected classes of the data"):
        evaluate(data=f"folder:{tmp_path / 'own'}", split="all", model=folder, flow=None, bootstrap=0)


def test_saves_what_it_loads(saved: Saved, tmp_path: Path) -> None:
    model = load(saved("maskformer"))
    model.save_pretrained(tmp_path / "again")
    again, image = everyframe.load(tmp_path / "again"), picture((40, 60))[None]
    with torch.no_grad():
        assert torch.equal(again.step(image)[0], model.step(image)[0])
