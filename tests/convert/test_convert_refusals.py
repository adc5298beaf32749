"""What is missing, left over, unreadable or dangerous is told in one line, and nothing is written."""

from __future__ import annotations

import json
import os
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from published_names import RESNET, config_text, published, resnet_table
from torch import Tensor

import everyframe
from everyframe.cli.__main__ import main
from everyframe.convert.convert import convert
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.convert.config_text import parse_config, read_config_file
from everyframe.models.convert.source import read_source
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("road", "car"))


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    model = create_model("psp-resnet18", SPACE, backbone=RESNET, head={"width": 8, "auxiliary": None})
    return published(model.state_dict(), resnet_table("PSPHead"))


def file(tmp_path: Path, content: object) -> str:
    torch.save(content, tmp_path / "a.pth")
    return str(tmp_path / "a.pth")


# -- partial loads ----------------------------------------------------------------------------------------------------


def test_partial_loads_are_refused(
    tmp_path: Path, state: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = "backbone.layer2.0.conv1.weight"
    path = file(tmp_path, {**{k: x for k, x in state.items() if k != gone}, "decode_head.extra": torch.zeros(1)})
    target, report = tmp_path / "m", tmp_path / "report.json"
    command = ["convert", path, "--to", str(target), "--report", str(report)]
    assert main(command) == 1
    line = capsys.readouterr().err
    assert (
        "1 weights are missing: backbone.layer2.0.conv1.weight; 1 keys have no place in the model: decode_head.extra"
        in line
    )
    assert "--allow-missing --allow-unused goes on" in line
    assert line.count("\n") == 1
    assert not target.exists()
    told = json.loads(report.read_text())
    assert told["missing"] == [gone]
    assert told["unused"] == ["decode_head.extra"]
    assert main([*command, "--allow-unused"]) == 1
    assert "--allow-missing goes on" in capsys.readouterr().err
    assert main([*command, "--allow-unused", "--allow-missing"]) == 0
    assert "1 weights are missing" in capsys.readouterr().out
    loaded = everyframe.load(target).state_dict()
    assert torch.equal(loaded["backbone.layer2.0.conv2.weight"], state["backbone.layer2.0.conv2.weight"])


def test_another_shape_needs_both_permissions(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = file(tmp_path, {**state, "decode_head.conv_seg.bias": torch.zeros(3)})
    for flags in ({}, {"allow_missing": True}, {"allow_unused": True}):
        with pytest.raises(
            InputError, match=r"1 weights have another shape: head\.classifier\.bias \[2\] here, \[3\] there"
        ):
            convert(path, tmp_path / "m", **flags)
    done = convert(path, tmp_path / "m", allow_missing=True, allow_unused=True)
    assert done.mismatched == {"head.classifier.bias": ((2,), (3,))}


def test_batch_counters_of_old_files_are_not_missed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    old = {key: x for key, x in state.items() if not key.endswith("num_batches_tracked")}
    done = convert(file(tmp_path, old), tmp_path / "m")
    assert len(done.fresh) == len(state) - len(old) > 0
    assert set(done.fresh.values()) == {"a counter that nothing depends on"}


# -- kinds ------------------------------------------------------------------------------------------------------------


def test_unknown_keys_list_the_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file(tmp_path, {"transformer.wte.weight": torch.zeros(2)})
    assert main(["convert", path, "--to", str(tmp_path / "m")]) == 1
    line = capsys.readouterr().err
    for kind in ("vit-adapter", "internimage", "focalnet", "mmseg", "vspw", "transformers", "raft", "backbone"):
        assert f"{kind} (" in line
    assert "transformer.wte.weight" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mmsegg"}, "no kind 'mmsegg', did you mean mmseg"),
        ({"kind": "vspw"}, "expected the weights of one of NetWarp on OCRNet"),
        ({"model": "psp-tiny"}, "--model is for a backbone alone"),
        ({"image_size": 64}, "learned no positions"),
        ({"mapping": "ade20k_to_vspw"}, "give --classes"),
        ({"classes": "nowhere.yaml"}, "expected a file of classes, or one of vspw"),
        ({"source_classes": "vspw"}, "expected names for its 2 classes, came 124"),
        ({"classes": "vspw"}, "give --mapping FILE.csv, and --source-classes"),
    ],
)
def test_wrong_options(tmp_path: Path, state: dict[str, Tensor], options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(file(tmp_path, state), tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


def test_settings_without_counterpart_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    backbone = {"type": "ResNetV1c", "depth": 18, "base_channels": 8, "stem_channels": 16, "strides": (1, 2, 1, 1),
                "dilations": (1, 1, 2, 4), "contract_dilation": True}  # fmt: skip
    head = {"type": "PSPHead", "in_channels": 64, "in_index": 3, "channels": 8, "num_classes": 2,
            "norm_cfg": {"type": "BN"}}  # fmt: skip
    for change, message in (
        ({"backbone": {**backbone, "style": "caffe"}}, "style='caffe' is not supported"),
        ({"backbone": {**backbone, "norm_cfg": {"type": "BN", "eps": 0.001}}}, "eps=0.001 of the backbone"),
        ({"backbone": {**backbone, "strides": (1, 1, 1, 1)}}, "coarsest stride of 8, 16 or 32"),
        ({"backbone": {**backbone, "type": "MobileNetV2"}}, "no backbone here for the published 'MobileNetV2'"),
        ({"decode_head": {**head, "type": "DMHead"}}, "mmseg head DMHead is not built yet"),
        ({"neck": {"type": "FPN"}}, "with a neck"),
        ({"decode_head": {"type": "PSPHead", "num_classes": 2}}, "lacks the setting 'channels'"),
        ({"backbone": {**backbone, "depth": 20}}, "depth=20 is not supported, only 18, 34, 50, 101, 152"),
        ({"data_preprocessor": {"bgr_to_rgb": False}}, "BGR"),
        ({"data_preprocessor": {"mean": [1, 2, 3], "std": [1, 2, 3]}}, "BGR"),  # False is what mmseg takes
        ({"data_preprocessor": {"bgr_to_rgb": True}}, "frames as they are"),
    ):
        text = config_text({"backbone": backbone, "decode_head": head, **change})
        path = file(tmp_path, {"meta": {"config": text}, "state_dict": state})
        with pytest.raises(InputError, match=message):
            convert(path, tmp_path / "m")
    assert convert(path, tmp_path / "m", config="shapes").model == "psp-resnet18"
    (tmp_path / "model.json").write_text(json.dumps({"backbone": backbone, "decode_head": head}))
    assert convert(path, tmp_path / "m", config=tmp_path / "model.json").model == "psp-resnet18"


# -- files ------------------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch unpickled",))


def test_code_in_a_file_never_runs(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = file(tmp_path, {"state_dict": state, "meta": {"hook": Evil()}})
    with zipfile.ZipFile("a.zip", "w") as archive:
        archive.write(path, "release/model.pth")
    for name in (path, "a.zip"):
        assert main(["convert", name, "--to", "m"]) == 1
        line = capsys.readouterr().err
        assert "cannot read it safely" in line
        assert "it would run posix.system" in line or "it would run os.system" in line or "nt.system" in line
    assert not Path("unpickled").exists()
    assert not Path("m").exists()


def test_logs_of_training_programs_are_no_danger(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """mmengine keeps `HistoryBuffer`s with arrays and methods beside the weights, others their arguments."""
    from argparse import Namespace

    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self.values, self.scalar = np.arange(3.0), np.float64(2)
            self.methods = {"mean": HistoryBuffer.mean}

        def mean(self) -> float:
            return 0.0

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = module.__name__, "HistoryBuffer.mean"
    module.HistoryBuffer = HistoryBuffer
    names = ("mmengine", "mmengine.logging", module.__name__)
    sys.modules.update({name: types.ModuleType(name) for name in names[:2]} | {module.__name__: module})
    try:
        path = file(tmp_path, {"state_dict": state, "message_hub": {"loss": HistoryBuffer()}, "args": Namespace(lr=1)})
    finally:
        for name in names:
            del sys.modules[name]
    assert read_source(path).state.keys() == state.keys()


def test_archives(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = file(tmp_path, state)
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.write(path, "../release/model.pth")
        archive.writestr("release/log.json", "{}")
    assert read_source(tmp_path / "one.zip").state.keys() == state.keys()
    assert not (tmp_path.parent / "release").exists()
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(path, "a.pth")
        archive.write(path, "b.pth")
    with pytest.raises(InputError, match=r"expected an archive with one file of weights .*, came 2"):
        read_source(tmp_path / "two.zip")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None])
def test_unreadable_files(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pth: expected a"):
        read_source(tmp_path / "a.pth")


def test_folders(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="expected a folder of transformers"):
        read_source(tmp_path)
    convert(file(tmp_path, state), tmp_path / "m")
    with pytest.raises(InputError, match="a model of everyframe already"):
        read_source(tmp_path / "m")


def test_two_files_must_be_encoder_and_decoder(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = file(tmp_path, state)
    with pytest.raises(InputError, match="of which 0 hold an encoder"):
        convert([path, path], tmp_path / "m")


# -- configurations ---------------------------------------------------------------------------------------------------


def test_configurations_are_read_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = """
import os
os.system('touch ran')
crop = (64, 64)
norm = dict(type='BN', requires_grad=True)
model = dict(backbone=dict(type='Swin', norm_cfg=norm, depths=[2, 2], rate=-0.5, size=crop, ratio=8 / 2 + 1),
    decode_head=[dict(num_classes=3, **{}), {'type': 'A', 'on': None}] if False else [dict(k=True), {'type': 'A'}])
plain = dict(a=[1, (2, 3)], b='x')
evil = __import__('os').system('touch ran')
"""
    settings = parse_config(text)
    assert settings.keys() == {"crop", "norm", "plain"}  # `model` has a condition in it, which is no plain value
    assert settings["plain"] == {"a": [1, (2, 3)], "b": "x"}
    got = parse_config(text.replace("[dict(num_classes=3, **{}), {'type': 'A', 'on': None}] if False else ", ""))
    assert got["model"]["backbone"] == {
        "type": "Swin", "norm_cfg": {"type": "BN", "requires_grad": True}, "depths": [2, 2], "rate": -0.5,
        "size": (64, 64), "ratio": 5.0,
    }  # fmt: skip
    assert not Path("ran").exists()
    for change in ("norm = f()", "norm['type'] = 'GN'", "norm.update(type='GN')", "norm += 1", "del norm"):
        assert "norm" not in parse_config(f"norm = dict(type='BN')\n{change}"), "its first value is not the one meant"
    assert parse_config("a: int = 3\nb = c = [a]\ndef f():\n    a = 4") == {"a": 3, "b": [3], "c": [3]}
    with pytest.raises(InputError, match="expected a configuration in Python"):
        parse_config("model = dict(")


def test_configuration_files(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("_base_ = ['b.py']\nrunner = dict(type='R')\n")
    with pytest.raises(InputError, match=r"expected a setting `model`, came _base_, runner \(it builds on `_base_`"):
        read_config_file(tmp_path / "a.py")
    (tmp_path / "a.json").write_text("[1")
    with pytest.raises(InputError, match="expected JSON"):
        read_config_file(tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot read it"):
        read_config_file(tmp_path / "none.py")
