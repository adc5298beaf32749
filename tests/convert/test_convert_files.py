"""Files as they are published: several weights in one, averaged ones, half precision, archives, what is around them."""

from __future__ import annotations

import sys
import types
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from published_names import RESNET, published, resnet_table
from torch import Tensor
from torch.nn import functional as F

import everyframe
from everyframe.cli.__main__ import main
from everyframe.convert.convert import convert
from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.convert import backbones
from everyframe.models.convert.keys import Rule, rewrite
from everyframe.models.convert.source import read_source, without_prefixes
from everyframe.models.convert.timm import fit_kernels
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("road", "car"))
ONE, TWO = {"a.weight": torch.ones(2)}, {"a.weight": torch.full((2,), 2.0)}


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "a.pth")
    return tmp_path / "a.pth"


# -- which weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "entry", "value", "noted"),
    [
        ({"state_dict": ONE, "state_dict_ema": TWO}, None, 1, "under 'state_dict_ema'"),
        ({"state_dict": ONE, "state_dict_ema": TWO}, "state_dict_ema", 2, ""),
        ({"model": ONE, "ema_state_dict": TWO, "optimizer": {"state": {}}}, "model", 1, ""),
        ({"teacher": {"module.a.weight": TWO["a.weight"]}, "epoch": 3}, None, 2, "those under 'teacher'"),
        ({"student": ONE, "teacher": TWO}, "teacher", 2, ""),
        ({"state_dict": {"student.a.weight": ONE["a.weight"], "teacher.a.weight": TWO["a.weight"]}}, "teacher", 2, ""),
        ({"model": {"state_dict": {"_orig_mod.model.a.weight": TWO["a.weight"]}}}, None, 2, ""),
        ({"state_dict": {"module.model.a.weight": ONE["a.weight"]}}, "module.model", 1, ""),
    ],
)
def test_one_of_several_weights(tmp_path: Path, content: dict, entry: str | None, value: float, noted: str) -> None:
    source = read_source(saved(tmp_path, content), entry)
    assert source.state.keys() == {"a.weight"}
    assert source.state["a.weight"].tolist() == [value, value]
    assert noted in " ".join(source.notes)
    assert bool(noted) == bool(source.notes)


@pytest.mark.parametrize("optimizer", [{}, {"state": {}, "param_groups": [{"lr": 0.1}]}])
def test_an_entry_without_tensors_is_refused(tmp_path: Path, optimizer: dict) -> None:
    """Neither the weights beside it nor a search without end."""
    path = saved(tmp_path, {"state_dict": ONE, "optimizer": optimizer})
    with pytest.raises(InputError, match=r"under 'optimizer' \(--entry\), came no tensor; choose one of state_dict"):
        read_source(path, "optimizer")
    path = saved(tmp_path, {"optimizer": optimizer})
    with pytest.raises(InputError, match="came no tensor; leave --entry out"):
        read_source(path, "optimizer")
    path = saved(tmp_path, {"state_dict": {**ONE, "ema.step": 3}})
    with pytest.raises(InputError, match=r"expected weights under 'ema' \(--entry\), came a.weight, ema.step"):
        read_source(path, "ema")
    assert without_prefixes({}) == {}


def test_several_weights_need_a_choice(tmp_path: Path) -> None:
    path = saved(tmp_path, {"student": ONE, "teacher": TWO, "epoch": 3})
    with pytest.raises(InputError, match="came several: choose with --entry, one of student, teacher"):
        read_source(path)
    with pytest.raises(InputError, match=r"expected weights under 'ema' \(--entry\), came student, teacher"):
        read_source(path, "ema")
    with pytest.raises(InputError, match=r"under 'epoch' \(--entry\), came student, teacher"):
        read_source(path, "epoch")
    with pytest.raises(InputError, match="came something else"):
        read_source(saved(tmp_path, [1, 2]))
    with pytest.raises(InputError, match="--entry teacher chooses weights of a file, came a folder"):
        read_source(tmp_path, "teacher")


def test_averaged_weights_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In bfloat16: what is saved is the same numbers in float32."""
    model = create_model("psp-resnet18", SPACE, backbone=RESNET, head={"width": 8, "auxiliary": None})
    state = published(model.state_dict(), resnet_table("PSPHead"))
    half = {key: x.bfloat16() if x.is_floating_point() else x for key, x in state.items()}
    path = saved(tmp_path, {"model": state, "model_ema": {f"module.{key}": x for key, x in half.items()}})
    assert main(["convert", str(path), "--to", str(tmp_path / "m")]) == 0
    assert "note: the file has other weights too, under 'model_ema': --entry model_ema" in capsys.readouterr().out
    assert main(["convert", str(path), "--to", str(tmp_path / "m"), "--entry", "model_ema"]) == 0
    row = everyframe.load(tmp_path / "m").head.classifier.weight
    assert row.dtype == torch.float32
    assert torch.equal(row, model.head.classifier.weight.bfloat16().float())
    assert not torch.equal(row, model.head.classifier.weight)


def test_two_keys_for_one_weight_are_told(tmp_path: Path) -> None:
    table = [Rule(r"(?:old|new)\.(\w+)", r"x.\1")]
    done = rewrite({"old.weight": ONE["a.weight"], "new.weight": TWO["a.weight"]}, table)
    assert done.unknown == ["new.weight"]
    assert done.state["x.weight"].tolist() == [1, 1]


# -- what stands beside the weights -----------------------------------------------------------------------------------


@contextmanager
def other_programs(*names: str) -> Iterator[list[type]]:
    """Classes that are dictionaries, in modules that are gone again when the file is read."""
    before, made = set(sys.modules), []
    for name in names:
        module, _, own = name.rpartition(".")
        parts = module.split(".")
        for i in range(len(parts)):
            sys.modules.setdefault(".".join(parts[: i + 1]), types.ModuleType(parts[i]))
        made.append(type(own, (dict,), {"__module__": module}))
        setattr(sys.modules[module], own, made[-1])
    yield made
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_configurations_of_other_programs_are_no_danger(tmp_path: Path) -> None:
    """Swin's and FocalNet's training files hold a CfgNode, mmcv's a ConfigDict; and arrays of any kind."""
    with other_programs("yacs.config.CfgNode", "mmengine.config.config.ConfigDict", "addict.addict.Dict") as classes:
        nodes = [made(a=1, b=made(c=[2])) for made in classes]
        nodes[0].__dict__["__immutable__"] = True
        beside = {"config": nodes, "path": Path(tmp_path), "log": defaultdict(list, {"loss": [1.0]})}
        path = saved(tmp_path, {"model": ONE, **beside, "arrays": _arrays()})
    assert read_source(path).state["a.weight"].tolist() == [1, 1]


def _arrays() -> list[object]:
    return [np.zeros(2, kind) for kind in ("uint8", "uint32", "float16", "U3")] + [np.float32(1), np.uint16(2)]


def test_what_stops_the_reader_is_named(tmp_path: Path) -> None:
    with other_programs("deepspeed.LossScaler") as (scaler,):
        path = saved(tmp_path, {"module": ONE, "scaler": scaler()})
    with pytest.raises(InputError, match=r"it would run deepspeed\.LossScaler"):
        read_source(path)


# -- archives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["release/model.pth.tar", "model.safetensors", "model.ckpt"])
def test_endings_in_archives(tmp_path: Path, inside: str) -> None:
    """ViT-Adapter's archives hold a .pth.tar."""
    if inside.endswith(".safetensors"):
        from safetensors.torch import save_file

        save_file(TWO, tmp_path / "a.pth")
    else:
        saved(tmp_path, {"state_dict": TWO})
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "a.pth", inside)
        archive.writestr(f"__MACOSX/._{inside}", "")
    source = read_source(tmp_path / "a.zip")
    assert source.name.endswith(f"a.zip, {inside}")
    assert source.state["a.weight"].tolist() == [2, 2]


def test_damaged_archives(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": {"a": torch.zeros(1000)}})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.pth")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[2000] ^= 255
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match="expected an archive that can be unpacked, came Bad CRC-32"):
        read_source(tmp_path / "a.zip")


def test_damaged_folders_of_transformers(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(ONE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "mask2former", "backbone_config": {"model_type": "swin"}}')
    with pytest.raises(InputError, match=r"config\.json lacks the setting 'depths'"):
        convert(tmp_path, tmp_path / "m")
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match=r"preprocessor_config\.json: expected JSON"):
        read_source(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: expected a JSON object, came list"):
        read_source(tmp_path)


# -- backbones --------------------------------------------------------------------------------------------------------


def test_internimage_of_its_authors(tmp_path: Path) -> None:
    model = create_model("uper-internimage-micro", SPACE, head={"width": 8})
    body = {key: x for key, x in model.backbone.state_dict().items() if not key.startswith("norms.")}
    state: dict[str, Tensor] = published(body, backbones.intern_image_table({"post_norm": True}))
    top = {"conv_head.0.weight": torch.zeros(2, 2, 1, 1), "conv_head.1.0.running_mean": torch.zeros(2),
           "head.bias": torch.zeros(2)}  # fmt: skip
    done = convert(saved(tmp_path, {"model": {**state, **top}}), tmp_path / "m", classes=SPACE)
    assert done.model == "uper-internimage-micro"
    assert done.dropped.keys() == top.keys()
    again = everyframe.load(tmp_path / "m").backbone.state_dict()
    assert all(torch.equal(again[key], x) for key, x in body.items())


def test_beitv2_before_fine_tuning(tmp_path: Path) -> None:
    """Its file has two blocks more, which predict from the class token alone."""
    import timm

    shape = {"embed_dim": 48, "depth": 4, "num_heads": 3, "img_size": 64, "init_values": 0.1}
    state = timm.create_model("beitv2_base_patch16_224", **shape).state_dict()
    more = {f"cls_pt_layers.{i}.{key[9:]}": x for i in range(2) for key, x in state.items() if key[:9] == "blocks.0."}
    path = saved(tmp_path, {"model": {**state, **more, "mask_token": torch.zeros(1, 1, 48)}})
    done = convert(path, tmp_path / "m", classes=SPACE, image_size=64)
    assert done.model == "uper-beit-adapter-micro"
    assert done.dropped.keys() >= more.keys()
    first = everyframe.load(tmp_path / "m").backbone.trunk.blocks[0]
    assert torch.equal(first.mlp[0].weight, state["blocks.0.mlp.fc1.weight"])


def test_patches_of_another_size_are_resized(tmp_path: Path) -> None:
    """EVA-01 was trained on patches of 14, its segmentation models have 16."""
    import timm

    shape = {"embed_dim": 48, "depth": 4, "num_heads": 3, "img_size": 56, "patch_size": 14, "init_values": 0.1}
    state = timm.create_model("beitv2_base_patch16_224", **shape).state_dict()
    done = convert(saved(tmp_path, state), tmp_path / "m", classes=SPACE, image_size=64)
    name = "backbone.trunk.patch_embed.projection.weight"
    assert done.changed[name] == "kernels of 14x14 fitted to 16x16"
    kernel = everyframe.load(tmp_path / "m").state_dict()[name]
    want = F.interpolate(state["patch_embed.proj.weight"], size=(16, 16), mode="bicubic", align_corners=False)
    torch.testing.assert_close(kernel, want)
    assert kernel[:, :, 0].abs().sum() > 0  # no rows of zeros around the old one


def test_other_kernels_are_put_into_the_middle() -> None:
    fitted = fit_kernels({"conv.weight": torch.ones(1, 1, 1, 1)}, {"conv.weight": torch.zeros(1, 1, 3, 3)})
    assert fitted["conv.weight"][0, 0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


# -- classes ----------------------------------------------------------------------------------------------------------


def test_classes_in_another_order_are_not_taken_as_they_stand(tmp_path: Path) -> None:
    """The VSPW code's 124 classes are known by their number: the names decide, not the rows."""
    from everyframe.convert.classes import wanted_classes
    from everyframe.data.layouts import CLASSES
    from everyframe.models.convert.design import Design, Reading
    from everyframe.models.convert.source import Source

    vspw = CLASSES["vspw"]()
    reading = Reading(Design("psp", "resnet18"), [], 124, labels="vspw")
    turned = LabelSpace(vspw.names[::-1])
    wanted = wanted_classes(Source("a.pth", {}), reading, turned, None, None)
    assert wanted.table == {i: 123 - i for i in range(124)}
    ade = Reading(Design("psp", "resnet18"), [], 150)
    named = wanted_classes(Source("a.pth", {}, names=CLASSES["ade20k"]().names), ade, vspw, None, None)
    assert named.notes == ["classes mapped by ade20k_to_vspw"]  # by the classes, not by what they are called
