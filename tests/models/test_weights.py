"""Reading and converting weights: nothing is unpickled, nothing is lost silently."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from everyframe.errors import InputError
from everyframe.models.backbones.swin import SwinTransformer
from everyframe.models.convert import mmseg
from everyframe.models.convert.keys import Rule, convert, nested
from everyframe.models.convert.mmseg_config import Unsupported, build_backbone, build_head
from everyframe.models.state import difference, load_state, read_state

WEIGHTS = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}


@pytest.mark.parametrize(
    "content",
    [WEIGHTS, {"state_dict": WEIGHTS, "epoch": 3}, {"model": {f"module.{k}": v for k, v in WEIGHTS.items()}}],
    ids=["plain", "state_dict", "model and module"],
)
def test_pth_files_are_unwrapped(tmp_path: Path, content: dict) -> None:
    torch.save(content, tmp_path / "a.pth")
    layer = nn.Linear(3, 2)
    load_state(layer, read_state(tmp_path / "a.pth"))
    assert torch.equal(layer.weight, WEIGHTS["weight"])


def test_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors")
    assert torch.equal(read_state(tmp_path / "a.safetensors")["bias"], WEIGHTS["bias"])


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("unpickled"),))


def test_code_in_a_pth_file_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": WEIGHTS, "extra": Evil()}, "a.pth")
    Path("b.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(InputError, match="cannot read it safely"):
            read_state(name)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_unreadable_files(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pth: expected"):
        read_state(tmp_path / "a.pth")


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="expected a dict of tensors"):
        read_state(tmp_path / "a.pth")


def test_difference_counts_each_kind() -> None:
    found = difference(nn.Linear(3, 2), {"weight": torch.zeros(2, 4), "other": torch.zeros(1)})
    assert found.missing == ("bias",)
    assert found.unexpected == ("other",)
    assert found.mismatched == {"weight": ((2, 3), (2, 4))}
    assert not difference(nn.Linear(3, 2), WEIGHTS)


def test_partial_loading_takes_what_fits() -> None:
    layer = nn.Linear(3, 2)
    before = layer.weight.clone()
    found = load_state(layer, {"weight": torch.zeros(5, 5), "bias": WEIGHTS["bias"]}, strict=False)
    assert found
    assert torch.equal(layer.weight, before)
    assert torch.equal(layer.bias, WEIGHTS["bias"])


# -- key tables -------------------------------------------------------------------------------------------------------


def test_rules_rename_change_and_leave_out() -> None:
    table = [Rule(r"a\.(\d+)", r"b.\1"), Rule("index", None), Rule("t", "t", torch.t)]
    state = {"a.12": torch.zeros(1), "index": torch.zeros(1), "t": torch.zeros(2, 3)}
    converted = convert(state, table)
    assert {name: tuple(value.shape) for name, value in converted.items()} == {"b.12": (1,), "t": (3, 2)}
    assert set(convert({"x.a.3": torch.zeros(1)}, nested(table, "x.", "y."))) == {"y.b.3"}


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(InputError, match="ckpt: 2 keys are not of the expected layout: q, r"):
        convert({"q": torch.zeros(1), "r": torch.zeros(1)}, [Rule("a", "a")], "ckpt")


def test_mmseg_swin_with_some_stages() -> None:
    config = {
        "type": "SwinTransformer", "embed_dims": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 3,
        "out_indices": [1], "strides": [4, 2],
    }  # fmt: skip
    model = build_backbone(config)
    assert isinstance(model, SwinTransformer)
    assert model.channels == (16,)
    converted = convert({"norm1.weight": torch.zeros(16)}, mmseg.backbone_table(config))
    assert set(converted) == {"norms.0.weight"}


def test_settings_that_cannot_be_expressed_are_refused() -> None:
    with pytest.raises(Unsupported, match="style='caffe' is not supported"):
        build_backbone({"type": "ResNet", "depth": 50, "style": "caffe"})
    with pytest.raises(Unsupported, match="setting surprise=1 is not known"):
        build_backbone({"type": "ResNet", "depth": 50, "surprise": 1})
    with pytest.raises(Unsupported, match="mmseg head NoHead is not built yet"):
        build_head({"type": "NoHead"}, (8,), (4,))
    with pytest.raises(InputError, match="no converter for mmseg's 'NoHead'"):
        mmseg.head_table({"type": "NoHead"}, "", "")
