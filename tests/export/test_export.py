"""Exported models: the same numbers as the model from a video's first frame on, in ONNX Runtime and torch.export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import everyframe
from everyframe.cli import export as verb
from everyframe.data.synthetic import SyntheticVideos
from everyframe.data.synthetic_write import write
from everyframe.errors import InputError
from everyframe.export import export as exporting
from everyframe.export.check import Agreement, compare, scenes
from everyframe.export.export import export
from everyframe.export.traced import trace
from everyframe.inference.stream import Stream
from everyframe.inference.views import with_views
from everyframe.labels import LabelSpace
from everyframe.models.onnx_model import OnnxModel
from everyframe.models.segmenter import Segmenter
from everyframe.models.temporal.base import state_bytes
from everyframe.models.zoo import create_model
from everyframe.predict import predict

onnxruntime = pytest.importorskip("onnxruntime")

SPACE = LabelSpace(("sky", "road", "car"), raw_to_train={0: 255, 1: 0, 2: 1, 3: 2})
SIZE = (48, 64)


def lively(name: str, **options: object) -> Segmenter:
    """A model whose memory has a say: weights that training would start near 0 are large."""
    torch.manual_seed(3)
    model = create_model(name, SPACE, **options).eval()
    for key, parameter in model.named_parameters():
        if "gamma" in key:
            nn.init.constant_(parameter, 1.0)
        elif parameter.ndim > 1 and "classifier" in key:
            parameter.data *= 20
    return model


def has_memory(model: Segmenter) -> bool:
    """Whether the last frame of the made-up video is seen otherwise after those before it."""
    state = None
    with torch.no_grad():
        for frame in scenes(SIZE, 1, 6):
            logits, state = model.step(frame, state)
        return not torch.allclose(logits, model.step(frame)[0], atol=1e-3)


# -- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("fcn-tiny", False), ("segmenter-tiny", False), ("ocr-gru-tiny", True), ("tcb-psp-tiny", True),
        ("tcb-ocr-memory-tiny", True), ("ssltm-tiny", True),
    ],
)  # fmt: skip
def test_the_graph_gives_what_the_model_gives_from_the_first_frame_on(name: str, memory: bool) -> None:
    model = lively(name)
    assert has_memory(model) == memory
    traced = trace(model.requires_grad_(False), SIZE)
    agreement = compare(traced, traced.run, frames=14)
    assert agreement.difference is not None
    assert agreement.difference <= 1e-5 * agreement.scale
    assert agreement.same_labels == 1
    assert bool(traced.state) == memory


@pytest.mark.parametrize("name", ["ssltm-tiny", "mask2former-gru-tiny"])
def test_onnx_runtime_agrees_and_predicts(name: str, tmp_path: Path) -> None:
    model = lively(name)
    done = export(model, tmp_path / "model.onnx", size=SIZE)
    assert done.agreement.difference is not None
    assert done.agreement.difference < 1e-3 * done.agreement.scale
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]

    back = everyframe.load(tmp_path / "model.onnx")
    assert isinstance(back, OnnxModel)
    assert back.label_space == SPACE
    own = given = None
    with torch.no_grad():
        for frame in scenes(SIZE, 1, 5):
            (logits, own), (found, given) = model.step(frame, own), back.step(frame, given)
            torch.testing.assert_close(found, logits, rtol=0, atol=1e-3 * float(logits.abs().max()))
    assert state_bytes(given) == sum(x.numel() * x.element_size() for x in done.traced.state.values())

    video = write(SyntheticVideos(1, frames=5, size=SIZE), tmp_path / "data", "frames", "train") / "videos"
    folders = []
    for kind, predictor in (("torch", model), ("onnx", tmp_path / "model.onnx")):
        predict(predictor, f"{video}/*", out=tmp_path / kind, overlay=False, device="cpu")
        folders.append({path.name: np.asarray(path.read_bytes()) for path in (tmp_path / kind).rglob("*.png")})
    assert len(folders[0]) == 5
    assert all(np.array_equal(pixels, folders[1][name]) for name, pixels in folders[0].items())


def test_label_maps_as_the_output_and_several_streams(tmp_path: Path) -> None:
    model = lively("ssltm-tiny")
    export(model, tmp_path / "labels.onnx", size=SIZE, output="labels", batch=2)
    session = onnxruntime.InferenceSession(str(tmp_path / "labels.onnx"), providers=["CPUExecutionProvider"])
    inputs = {given.name: given for given in session.get_inputs()}
    assert list(inputs) == ["frame", "state_ring_frames", "state_ring_signature", "state_reference"]
    assert [out.name for out in session.get_outputs()] == [
        "labels", "next_ring_frames", "next_ring_signature", "next_reference",
    ]  # fmt: skip
    assert inputs["frame"].shape == [2, 3, *SIZE]
    frames = torch.cat([next(scenes(SIZE, 1, 2)), torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8)])
    zeros = {name: np.zeros(x.shape, np.float32) for name, x in inputs.items() if name != "frame"}
    labels = session.run(["labels"], {"frame": frames.numpy(), **zeros})[0]
    assert labels.dtype == np.uint8
    for frame, found in zip(frames, labels, strict=True):  # each stream as if alone
        with torch.no_grad():
            logits = nn.functional.interpolate(model.step(frame[None])[0], SIZE, mode="bilinear")
        assert (logits.argmax(1)[0].numpy() == found).mean() > 0.999
    with pytest.raises(InputError, match="came one with labels, which runs elsewhere alone"):
        everyframe.load(tmp_path / "labels.onnx")


def test_an_archive_of_torch_export(tmp_path: Path) -> None:
    model = lively("fcn-gru-tiny")
    export(model, tmp_path / "model.pt2", size=SIZE)
    extra = {"everyframe.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    described = json.loads(extra["everyframe.json"])
    assert LabelSpace.from_dict(described["label_space"]) == SPACE
    assert described["size"] == list(SIZE)
    frame = next(scenes(SIZE, 1, 2))
    hidden, signature = (torch.zeros_like(x) for x in program.example_inputs[0][1:])
    with torch.no_grad():
        logits, *state = program.module()(frame, hidden, signature)
        want, own = model.step(frame)
    torch.testing.assert_close(logits, want)
    torch.testing.assert_close(tuple(state), tuple(own))


# -- frames of other sizes, many streams -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "fcn.onnx"
    export(lively("fcn-tiny"), path, size=SIZE)
    return path


def test_frames_of_another_size_are_resized(exported: Path) -> None:
    model = OnnxModel(exported)
    frame = next(scenes((96, 128), 1, 2))
    small = nn.functional.interpolate(frame.float(), SIZE, mode="bilinear", antialias=True).round().to(torch.uint8)
    torch.testing.assert_close(model.step(frame)[0], model.step(small)[0])
    labels = Stream(model, "cpu").step(everyframe.Frame(frame[0], 0, 0.0, "0"))
    assert labels.shape == (96, 128)


def test_what_cannot_run_is_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected 1 streams, .* came 2; export it with --batch 2"):
        OnnxModel(exported).step(torch.zeros(2, 3, *SIZE, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"nowhere\.onnx: expected a file that `everyframe export` wrote, found none"):
        everyframe.load(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match=r"text\.onnx: expected an ONNX file, it cannot be opened"):
        everyframe.load(tmp_path / "text.onnx")
    with pytest.raises(InputError, match="came an exported one, which runs in predict"):
        export(exported, tmp_path / "again.onnx", size=SIZE)


def test_views_of_other_sizes_need_a_window(exported: Path) -> None:
    """Brought to the one size that the file knows, all scales would be the same view."""
    model = OnnxModel(exported)
    for views in ({"scales": (0.75, 1.0)}, {"short": 96}):
        with pytest.raises(InputError, match=r"came one exported for 48 x 64, .* or add --window 48 64"):
            with_views(model, **views)
    logits, _ = with_views(model, scales=(1.0, 2.0), window=SIZE).step(next(scenes(SIZE, 1, 2)))
    assert logits.shape[-2:] == (96, 128)
    assert isinstance(with_views(model, scales=(1.0,), short=0).step(next(scenes(SIZE, 1, 2)))[0], Tensor)


def test_an_archive_is_told_from_a_models_folder(tmp_path: Path) -> None:
    export(lively("fcn-tiny"), tmp_path / "model.pt2", size=SIZE)
    with pytest.raises(InputError, match=r"model\.pt2: .* came an archive for torch\.export; give the model's folder"):
        everyframe.load(tmp_path / "model.pt2")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"path": "model.trt"}, r"ends in \.onnx or \.pt2, came \.trt"),
        ({"size": (0, 64)}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"output": "masks"}, "expected an output of logits, labels, came 'masks'"),
        ({"frames": 1}, "at least 2 frames"),
        ({"model": "netwarp-ocr-tiny"}, "optical flow"),
        ({"model": "fcn-gru-tiny", "cut_threshold": 2.0}, "cut_threshold below 1"),
    ],
)
def test_mistakes_are_one_clear_line(options: dict[str, object], expected: str, tmp_path: Path) -> None:
    given = {"size": SIZE, **options}
    name = str(given.pop("model", "fcn-tiny"))
    threshold = given.pop("cut_threshold", None)
    model = lively(name, temporal={"cut_threshold": threshold}) if threshold else lively(name)
    with pytest.raises(InputError, match=expected) as raised:
        export(model, tmp_path / str(given.pop("path", "model.pt2")), **given)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Agreement(12, difference=0.5, scale=1.0, same_labels=1.0, seconds=1.0, model_seconds=1.0)
    monkeypatch.setattr(exporting, "compare", lambda *given: wrong)
    with pytest.raises(InputError, match=r"one that does not \(checked on 12 frames .* nothing was written"):
        export(lively("fcn-tiny"), tmp_path / "model.pt2", size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_sees_what_differs() -> None:
    traced = trace(lively("fcn-gru-tiny").requires_grad_(False), SIZE)

    def forgetful(frame: Tensor, state: object) -> object:
        return traced.run(frame, list(traced.state.values()))

    assert compare(traced, traced.run).holds()
    assert not compare(traced, forgetful).holds()


def test_numbers_that_are_none_do_not_agree() -> None:
    """The argmax of nothing but NaN is class 0, which may be right."""
    model = lively("fcn-tiny").requires_grad_(False)
    model.head.classifier.bias[0] = 1e3
    traced = trace(model, SIZE)

    def blind(frame: Tensor, state: Sequence[Tensor]) -> Sequence[Tensor]:
        return [torch.full_like(x, torch.nan) for x in traced.run(frame, state)]

    found = compare(traced, blind)
    assert found.same_labels == 1
    assert not found.holds()


def test_a_model_that_is_exported_stays_as_it_is(tmp_path: Path) -> None:
    """One in training, say: its weights are still to learn."""
    model = lively("fcn-tiny").train()
    export(model, tmp_path / "model.pt2", size=SIZE)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lively("fcn-gru-tiny")
    model.save_pretrained(str(tmp_path / "model"))
    assert verb.main([str(tmp_path / "model"), str(tmp_path / "m.pt2"), "--size", "48", "64", "--frames", "3"]) == 0
    said = capsys.readouterr().out
    assert "takes uint8 [1, 3, 48, 64] RGB and 2 state tensors" in said
    assert "checked on 3 frames beside PyTorch: logits differ by at most" in said
    assert "; a frame takes " in said
