"""`everyframe bench stream` in small: what it counts, and that its three ways are the model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from everyframe.cli.__main__ import main
from everyframe.cli.bench_stream import _Runner, measure
from everyframe.errors import InputError
from everyframe.inference.views import Views
from everyframe.labels import LabelSpace
from everyframe.models.cost import count_macs
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model
from everyframe.testing import moving_scene, settle

SPACE = LabelSpace(("a", "b", "c"))


def test_ratios_are_those_of_the_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stream.json"
    small = ["--model", "ssltm-tiny", "--classes", "3", "--size", "32", "48", "--frames", "2", "--device", "cpu"]
    assert main(["bench", "stream", *small, "--json", str(file)]) == 0
    numbers = json.loads(file.read_text())
    seconds = numbers["seconds"]
    assert numbers["ratio_stream_to_frame"] == pytest.approx(seconds["stream"] / seconds["frame"])
    assert numbers["ratio_clip_to_frame"] == pytest.approx(seconds["clip"] / seconds["frame"])
    assert numbers["state_is_constant"] is True
    assert f"{numbers['state_bytes']:,} bytes per stream, constant" in capsys.readouterr().out


def test_state_is_the_ring_and_the_regions() -> None:
    model = create_model("ssltm-tiny", SPACE)
    numbers = measure(model, (32, 48), 1, ("stream",), "cpu")
    width, reach = model.head.channels, 6  # SSLTM looks 6 frames back and keeps keys and values, at stride 8
    ring = reach * 2 * width * (32 // 8) * (48 // 8)
    regions = len(SPACE) * width
    signature = model.backbone.channels[0] * 8 * 8  # the finest map on a grid of 8 by 8 tells scene cuts
    assert numbers["state_bytes"] == 4 * (ring + regions + signature)
    assert set(numbers["seconds"]) == {"stream"}
    assert "ratio_stream_to_frame" not in numbers


def test_ways_without_memory_agree() -> None:
    model = create_model("ocr-tiny", SPACE).eval()
    video = [torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8) for _ in range(3)]
    runner = _Runner(model, Segmenter(model.backbone, model.head, SPACE).eval(), video)
    with torch.inference_mode():
        alone = runner.frame(2)
        torch.testing.assert_close(runner.stream(2), alone)
        torch.testing.assert_close(runner.clip(2), alone)


def test_each_way_encodes_what_its_name_says() -> None:
    """One frame alone, one frame beside a memory, or the clip anew: reference, both adjacent frames, itself."""
    model = settle(create_model("ssltm-tiny", SPACE))
    video = list(moving_scene(8, size=(32, 48)).unbind(1))
    encoded: list[int] = []
    timed: list[str] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    model.temporal.register_forward_pre_hook(lambda *_: timed.append("temporal"))
    runner = _Runner(model, Segmenter(model.backbone, model.head, SPACE).eval(), video)
    with torch.inference_mode():
        runner.frame(7)
        assert (encoded, timed) == ([1], [])
        streamed = [runner.stream(index) for index in range(8)][-1]
        assert (encoded, timed) == ([1] * 9, ["temporal"] * 8)
        clip = runner.clip(7)
    assert sum(encoded[9:]) == 1 + len(model.temporal.adjacent) + 1 == 4
    assert len(timed) == 9
    torch.testing.assert_close(clip, streamed, rtol=1e-5, atol=1e-5 * streamed.abs().max().item())


@pytest.mark.parametrize("prototypes", [0, 2])
def test_models_without_contexts_are_measured_all_three_ways(prototypes: int) -> None:
    model = create_model("ssltm-tiny", SPACE, temporal={"context": "none", "prototypes": prototypes})
    assert set(measure(model, (32, 48), 1, device="cpu")["seconds"]) == {"frame", "stream", "clip"}


def test_saved_folder_is_measured(tmp_path: Path) -> None:
    create_model("fcn-tiny", SPACE).save_pretrained(str(tmp_path / "model"))
    file = tmp_path / "cost.json"
    words = ["--model", str(tmp_path / "model"), "--size", "32", "48", "--ways", "stream", "--frames", "1"]
    assert main(["bench", "stream", *words, "--json", str(file)]) == 0
    assert json.loads(file.read_text())["classes"] == 3


def test_frames_are_looked_at_as_for_the_scores() -> None:
    """80x96 at a short side of 64 is 64x96 (77 rounded up to 32s): three windows of 64x64, 16 apart."""
    model = create_model("fcn-tiny", SPACE).eval()
    seen: list[tuple[int, int]] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[-2:])))
    look: Views = {"short": 64, "window": 64, "stride": 16}
    numbers = measure(model, (80, 96), 2, ("stream",), "cpu", look=look)
    assert set(seen) == {(64, 64)}
    assert len(seen) % 3 == 0
    assert numbers["gmacs"] == pytest.approx(3 * count_macs(model, (64, 64)) / 1e9, abs=6e-4)
    model.short_side = 40  # that of training, as `data.base` leaves it
    seen.clear()
    assert measure(model, (80, 96), 2, ("stream",), "cpu")["gmacs"] == pytest.approx(
        count_macs(model, (40, 48)) / 1e9, abs=6e-4
    )
    assert (80, 96) not in seen
    with pytest.raises(InputError, match=r"the stream alone where frames are resized .* came frame, stream, clip; add"):
        measure(model, (80, 96), 2, device="cpu")
    assert set(measure(model, (80, 96), 1, device="cpu", look={"short": 0})["seconds"]) == {"frame", "stream", "clip"}


def test_look_reaches_the_stream(tmp_path: Path) -> None:
    words = ["--model", "fcn-tiny", "--size", "80", "96", "--ways", "stream", "--frames", "1", "--device", "cpu"]
    macs = []
    for look in ([], ["--short", "64", "--window", "64", "--stride", "16"]):
        assert main(["bench", "stream", *words, *look, "--json", str(tmp_path / "cost.json")]) == 0
        macs.append(json.loads((tmp_path / "cost.json").read_text())["gmacs"])
    assert macs[1] / macs[0] == pytest.approx(3 * 64 * 64 / (80 * 96), rel=0.05)


def test_no_frames_is_refused() -> None:
    from everyframe.cli.bench_stream import main as bench

    with pytest.raises(InputError, match="at least one frame"):
        bench(["--model", "fcn-tiny", "--frames", "0"])
