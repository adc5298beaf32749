"""Our own models under published names, through the command, are the same models again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from published_names import RESNET, VSPW_RESNET, config_text, published
from torch import Tensor

import everyframe
from everyframe.cli.__main__ import main
from everyframe.labels import LabelSpace
from everyframe.models.convert import backbones, mask2former, mmseg, vit_adapter
from everyframe.models.convert.infer import infer_config
from everyframe.models.convert.keys import Table, nested
from everyframe.models.convert.published import read_model
from everyframe.models.convert.shapes import Shapes
from everyframe.models.convert.vspw_model import ENCODER, METHODS
from everyframe.models.segmenter import Segmenter
from everyframe.models.zoo import create_model

SPACE = LabelSpace(("road", "car", "tree", "sky", "wall"))

SWIN = {"width": 16, "depths": (2, 2, 2, 1), "heads": (1, 2, 4, 8), "window": 4, "output_norms": True}
AUXILIARY = {"index": 2, "width": 8, "num_convs": 1, "concat_input": False}
BEIT = vit_adapter.BACKBONES["BEiTAdapter"]
SWIN_TABLE = mmseg.backbone_table({"type": "SwinTransformer"})
FCN = {"type": "FCNHead"}


def randomised(name: str, **options: Any) -> Segmenter:
    """Return a model in which every parameter and buffer matters."""
    model = create_model(name, SPACE, **options)
    generator = torch.Generator().manual_seed(3)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.is_floating_point():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1)
    return model.eval()


def logits(model: Segmenter, size: tuple[int, int] = (64, 96), frames: int = 1) -> list[Tensor]:
    """Return what the frames of a stream give."""
    generator = torch.Generator().manual_seed(5)
    clip = torch.randint(0, 256, (frames, 1, 3, *size), dtype=torch.uint8, generator=generator)
    got, state = [], None
    with torch.no_grad():
        for frame in clip:
            out, state = model.step(frame, state)
            got.append(out)
    return got


def same(first: Segmenter, second: Segmenter, size: tuple[int, int] = (64, 96), frames: int = 1) -> None:
    for a, b in zip(logits(first, size, frames), logits(second, size, frames), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def whole(head: Any, auxiliary: Any = None) -> list:
    """Return the tables of a decode head and an auxiliary head."""
    rules = list(mmseg.head_table(head, "decode_head.", "head."))
    return rules + (list(mmseg.head_table(auxiliary, "auxiliary_head.", "head.auxiliary.")) if auxiliary else [])


def newer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of mmdet 3.x for those of 2.x."""
    pairs = (
        ("encoder.layers.{}.attentions.0", "encoder.layers.{}.self_attn"),
        ("transformer_decoder.layers.{}.attentions.0", "transformer_decoder.layers.{}.cross_attn"),
        ("transformer_decoder.layers.{}.attentions.1", "transformer_decoder.layers.{}.self_attn"),
    )
    renamed = {}
    for key, value in state.items():
        for old, new in pairs:
            for i in range(9):
                key = key.replace(old.format(i), new.format(i))
        renamed[key.replace(".ffns.0.", ".ffn.")] = value
    return renamed


def group_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace(".bn.", ".gn.") if "pixel_decoder" in key else key: x for key, x in state.items()}


CASES: dict[str, tuple[str, dict[str, Any], Table, str]] = {
    "swin upernet": (
        "uper-swin-tiny", {"backbone": SWIN, "head": {"width": 16, "auxiliary": AUXILIARY}},
        [*nested(SWIN_TABLE, "backbone.", "backbone."), *whole({"type": "UPerHead"}, FCN)], "mmseg",
    ),
    "resnet pspnet": (
        "psp-resnet18", {"backbone": RESNET, "head": {"width": 16, "auxiliary": AUXILIARY}},
        [*nested(mmseg.RESNET, "backbone.", "backbone."), *whole({"type": "PSPHead"}, FCN)], "mmseg",
    ),
    "resnet deeplab": (
        "deeplab-resnet18",
        {"backbone": RESNET,
         "head": {"width": 16, "fine_width": 6, "dilations": (1, 12, 24, 36), "depthwise": True, "auxiliary": None}},
        [*nested(mmseg.RESNET, "backbone.", "backbone."), *whole({"type": "DepthwiseSeparableASPPHead"})], "mmseg",
    ),
    "resnet upernet, plain stem, stride 32": (
        "uper-resnet18", {"backbone": {**RESNET, "deep_stem": False, "output_stride": 32}, "head": {"width": 16}},
        [*nested(mmseg.RESNET[::-1], "backbone.", "backbone."), *whole({"type": "UPerHead"})], "mmseg",
    ),
    "resnet ocrnet": (
        "ocr-resnet18",
        {"backbone": RESNET, "head": {"width": 16, "key_width": 8, "bias": False, "auxiliary": AUXILIARY}},
        [*nested(mmseg.RESNET, "backbone.", "backbone."), *whole([FCN, {"type": "OCRHead"}])], "mmseg",
    ),
    "hrnet fcn": (
        "fcn-hrnet-w18",
        {"backbone": {"widths": (4, 6, 8, 10), "depth": 1, "modules": (1, 1, 1), "first_width": 8, "first_depth": 1},
         "head": {"width": 28, "auxiliary": None}},
        [*nested(mmseg.HRNET, "backbone.", "backbone."), *whole(FCN)], "mmseg",
    ),
    "vit segmenter": (
        "segmenter-vit-base",
        {"backbone": {"width": 64, "depth": 2, "heads": 1, "size": (64, 64), "out_indices": (-1,)},
         "head": {"width": 64, "depth": 2}, "mean": (0.5,) * 3, "std": (0.5,) * 3},
        [*nested(mmseg.VIT, "backbone.", "backbone."), *whole({"type": "SegmenterMaskTransformerHead"})], "mmseg",
    ),
    "beit adapter mask2former": (
        "mask2former-beit-adapter-micro", {"backbone": {"size": 64}},
        [*nested(BEIT, "backbone.", "backbone."), *whole({"type": "Mask2FormerHead"})],
        "vit-adapter",
    ),
    "vit adapter upernet": (
        "uper-vit-adapter-micro", {"backbone": {"size": 64, "windows": None, "heads": 1}, "head": {"width": 16}},
        [*nested(vit_adapter.BACKBONES["ViTAdapter"], "backbone.", "backbone."), *whole({"type": "UPerHead"})],
        "vit-adapter",
    ),
    "internimage upernet": (
        "uper-internimage-micro", {"head": {"width": 16}},
        [*nested(backbones.intern_image_table({"post_norm": True}), "backbone.", "backbone."),
         *whole({"type": "UPerHead"})], "internimage",
    ),
    "focalnet upernet": (
        "uper-focalnet-micro", {"head": {"width": 16}},
        [*nested(backbones.focalnet_table({}), "backbone.", "backbone."), *whole({"type": "UPerHead"})], "focalnet",
    ),
    "eva02 upernet": (
        "uper-eva02-micro",
        {"backbone": {"width": 64, "depth": 6, "heads": 1, "size": (64, 64), "rotary": 16, "out_indices": (1, 2, 3, 5)},
         "head": {"width": 16}},
        [*nested(backbones.EVA02, "backbone.", "backbone."), *whole({"type": "UPerHead"})], "eva02",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "options", "table", "kind"), CASES.values(), ids=CASES)
def test_sizes_are_read_off_the_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, options: dict, table: Table, kind: str
) -> None:
    model = randomised(name, **options)
    state = group_norms(published(model.state_dict(), table))
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), "--to", str(tmp_path / "m")]) == 0, capsys.readouterr().err
    assert f": {kind} -> {name.split('-')[0]}-" in capsys.readouterr().out
    again = everyframe.load(tmp_path / "m")
    assert again.label_space.names == tuple(f"class {i}" for i in range(5))
    same(model, again)


def test_mask2former_of_mmsegmentation(tmp_path: Path) -> None:
    """The names of mmdet 3.x; masks enlarged before the sigmoid."""
    model = randomised("mask2former-swin-tiny", backbone=SWIN, head={"width": 64, "upsample_first": True})
    table = [*nested(SWIN_TABLE, "backbone.", "backbone."), *whole({"type": "Mask2FormerHead"})]
    state = newer(group_norms(published(model.state_dict(), table)))
    assert "decode_head.transformer_decoder.layers.0.cross_attn.attn.in_proj_weight" in state
    unused = {
        "decode_head.conv_seg.weight": torch.zeros(5, 64, 1, 1),
        "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index": torch.zeros(16, 16, dtype=torch.long),
    }
    torch.save({"state_dict": {**state, **unused}}, tmp_path / "a.pth")
    report = tmp_path / "report.json"
    assert main(["convert", str(tmp_path / "a.pth"), "--to", str(tmp_path / "m"), "--report", str(report)]) == 0
    same(model, everyframe.load(tmp_path / "m"))
    told = json.loads(report.read_text())
    assert told["used"].keys() == state.keys()
    assert set(told["used"].values()) == set(model.state_dict())
    assert told["dropped"].keys() == unused.keys()
    assert "never used" in told["dropped"]["decode_head.conv_seg.weight"]
    assert told["missing"] == told["unused"] == [] == told["fresh_classes"]
    assert any("8 attention heads" in line or "4 attention heads" in line for line in told["assumed"])


def test_the_configuration_beside_the_weights_wins(tmp_path: Path) -> None:
    """What no shape says: heads, windows, dilations, norms of the frames; and the classes with their colours."""
    options = {"window": 4, "heads": (2, 2, 4, 8)}
    std = (0.225, 0.225, 0.25)
    model = randomised("uper-swin-tiny", backbone={**SWIN, **options}, head={"width": 16, "bins": (1, 2)}, std=std)
    table = [*nested(SWIN_TABLE, "backbone.", "backbone."), *whole({"type": "UPerHead"})]
    norm = {"type": "SyncBN", "requires_grad": True}
    text = config_text(
        {
            "type": "EncoderDecoder",
            "pretrained": None,
            "data_preprocessor": {"mean": [123.675, 116.28, 103.53], "std": [57.375, 57.375, 63.75],
                                  "bgr_to_rgb": True},
            "backbone": {"type": "SwinTransformer", "embed_dims": 16, "depths": [2, 2, 2, 1], "window_size": 4,
                         "num_heads": [2, 2, 4, 8], "norm_cfg": {"type": "LN", "requires_grad": True}},
            "decode_head": {"type": "UPerHead", "in_channels": [16, 32, 64, 128], "in_index": [0, 1, 2, 3],
                            "pool_scales": [1, 2], "channels": 16, "num_classes": 5, "norm_cfg": norm,
                            "align_corners": False, "loss_decode": {"type": "CrossEntropyLoss"}},
            "test_cfg": {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)},
        },
        optimizer={"type": "AdamW", "lr": 6e-05},
    )  # fmt: skip
    meta = {"cfg": text, "dataset_meta": {"classes": SPACE.names, "palette": [[i, 0, 0] for i in range(5)]}}
    torch.save({"meta": meta, "state_dict": published(model.state_dict(), table)}, tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), "--to", str(tmp_path / "m")]) == 0
    again = everyframe.load(tmp_path / "m")
    same(model, again)
    assert again.label_space.names == SPACE.names
    assert again.label_space.palette == tuple((i, 0, 0) for i in range(5))
    assert again.std.flatten().tolist() == pytest.approx([57.375, 57.375, 63.75])


# -- the VSPW code ----------------------------------------------------------------------------------------------------

VSPW = {
    "PSPNet": ("psp-resnet18", {"width": 16}),
    "OCRNet": ("ocr-resnet18", {"width": 16, "key_width": 8}),
    "ETC on PSPNet": ("etc-psp-resnet18", {"width": 16}),
    "ETC on OCRNet": ("etc-ocr-resnet18", {"width": 16, "key_width": 8}),
    "NetWarp on PSPNet": ("netwarp-psp-resnet18", {"width": 16}),
    "NetWarp on OCRNet": ("netwarp-ocr-resnet18", {"width": 16, "key_width": 8}),
    "TCB-PPM": ("tcb-psp-resnet18", {"width": 16}),
    "TCB-OCR": ("tcb-ocr-resnet18", {"width": 16, "key_width": 8}),
}


def vspw_state(name: str, model: Segmenter) -> dict[str, Tensor]:
    state = dict(model.state_dict())
    for part in ("coarse_weights", "late_weights"):
        if f"temporal.{part}" in state:
            state |= {f"temporal.{part}.{i}": row for i, row in enumerate(state.pop(f"temporal.{part}"))}
    own = {"ETC on OCRNet": "conv_last_.", "NetWarp on OCRNet": "head."}.get(name, "decoder.head.")
    names = published(state, [*nested(ENCODER, "encoder.", "backbone."), *METHODS[name].table])
    return {key.replace("decoder.head.", own): value for key, value in names.items()}


@pytest.mark.parametrize("name", VSPW)
def test_vspw_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    zoo, head = VSPW[name]
    temporal = {"form": "vspw"} if "NetWarp" in name else {}
    model = randomised(zoo, backbone=VSPW_RESNET, head=head, temporal=temporal)
    state = {f"module.{key}": x for key, x in vspw_state(name, model).items()}
    state["module.encoder.bn1._tmp_running_mean"] = torch.zeros(8)
    if "NetWarp" in name:
        state["module.raft.fnet.conv1.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "model_epoch_20.pth")
    assert main(["convert", str(tmp_path / "model_epoch_20.pth"), "--to", str(tmp_path / "m")]) == 0
    printed = capsys.readouterr().out
    assert f"vspw -> {zoo}" in printed
    assert f"note: {name} of the VSPW code" in printed
    same(model, everyframe.load(tmp_path / "m"), (32, 48), frames=3)


def test_vspw_weighted_pyramid(tmp_path: Path) -> None:
    temporal = {"weighted": True, "form": "vspw"}
    model = randomised("tcb-psp-resnet18", backbone=VSPW_RESNET, head={"width": 16}, temporal=temporal)
    torch.save(vspw_state("TCB-PPM", model), tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), "--to", str(tmp_path / "m")]) == 0
    again = everyframe.load(tmp_path / "m")
    assert again.config["options"]["temporal"] == temporal
    same(model, again, (32, 48), frames=3)


def test_encoder_and_decoder_files(tmp_path: Path) -> None:
    model = randomised("psp-resnet18", backbone=VSPW_RESNET, head={"width": 16})
    state = vspw_state("PSPNet", model)
    paths = []
    for role in ("decoder", "encoder"):
        paths.append(str(tmp_path / f"{role}_epoch_20.pth"))
        torch.save({k.removeprefix(f"{role}."): x for k, x in state.items() if k.startswith(role)}, paths[-1])
    assert main(["convert", *paths, "--to", str(tmp_path / "m")]) == 0
    same(model, everyframe.load(tmp_path / "m"))


# -- transformers -----------------------------------------------------------------------------------------------------


def test_folder_of_transformers(tmp_path: Path) -> None:
    """Their own library is the oracle: class and mask logits of the last layer."""
    transformers = pytest.importorskip("transformers")
    body = transformers.SwinConfig(
        embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=body, hidden_dim=32, feature_size=32, mask_feature_size=32, num_queries=6,
        num_attention_heads=4, encoder_layers=1, encoder_feedforward_dim=32, dim_feedforward=32, decoder_layers=3,
        id2label=dict(enumerate(SPACE.names)),
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    theirs.save_pretrained(tmp_path / "hf")
    report = tmp_path / "report.json"
    assert main(["convert", str(tmp_path / "hf"), "--to", str(tmp_path / "m"), "--report", str(report)]) == 0
    told = json.loads(report.read_text())
    assert told["used"]["model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.query.weight"] == (
        "backbone.stages.0.blocks.0.attention.qkv.weight"
    )
    model = load_native(tmp_path / "m")
    assert model.label_space.names == SPACE.names
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        want = theirs(pixels)
        got = model.head.predict(model.head.embed(model.backbone(pixels)))
    masks = torch.einsum("nqd,ndhw->nqhw", got["mask_embeddings"][:, -1], got["pixels"])
    torch.testing.assert_close(got["class_logits"][:, -1], want.class_queries_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(masks, want.masks_queries_logits, rtol=1e-4, atol=1e-4)


def load_native(folder: Path) -> Segmenter:
    model = everyframe.load(folder)
    assert isinstance(model, Segmenter)
    return model


def test_vspw_classes_keep_their_raw_ids(tmp_path: Path) -> None:
    """Weights of 124 classes in the VSPW code are taken for VSPW's, whose masks hold ids from 1."""
    from everyframe.data.layouts import CLASSES

    space = CLASSES["vspw"]()
    model = create_model("psp-resnet18", space, backbone=VSPW_RESNET, head={"width": 16})
    torch.save(vspw_state("PSPNet", model), tmp_path / "a.pth")
    assert main(["convert", str(tmp_path / "a.pth"), "--to", str(tmp_path / "m")]) == 0
    again = everyframe.load(tmp_path / "m").label_space
    assert again.names == space.names
    assert again.raw_to_train == space.raw_to_train


def test_joined_projections_are_named_in_the_report() -> None:
    name = "x.self_attn.v_proj.bias"
    assert mask2former.joined_name(name) == ("x.self_attn.qkv.bias", 2)
    assert mask2former.joined_name("x.cross_attn.in_proj_bias") is None


SIZES = {
    "mask2former-beit-adapter-large": "Mask2FormerHead",
    "mask2former-beitv2-adapter-large": "Mask2FormerHead",
    "mask2former-eva-adapter-giant": "Mask2FormerHead",
    "uper-vit-adapter-base": "UPerHead",
    "uper-internimage-xl": "UPerHead",
    "uper-internimage-base": "UPerHead",
    "uper-focalnet-large": "UPerHead",
    "uper-eva02-large": "UPerHead",
    "uper-swin-base": "UPerHead",
}
FAMILIES = {
    "adapter": BEIT, "vit-adapter": vit_adapter.BACKBONES["ViTAdapter"], "eva02": backbones.EVA02, "swin": SWIN_TABLE,
    "internimage": backbones.intern_image_table({"post_norm": True}), "focalnet": backbones.focalnet_table({}),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_are_recognised(name: str) -> None:
    """By name, number of weights and every shape, from nothing but the keys and shapes."""
    options = {"backbone": {"output_norms": True}} if "swin" in name else {}
    if "mask2former" in name:
        options["head"] = {"queries": 200}
    family = next(key for key in ("vit-adapter", *FAMILIES) if key in name)
    with torch.device("meta"):
        model = create_model(name, SPACE, **options)
    table = [*nested(FAMILIES[family], "backbone.", "backbone."), *whole({"type": SIZES[name]})]
    shapes = Shapes(group_norms(published(model.state_dict(), table)))
    reading = read_model(infer_config(shapes))
    assert reading.design.name == name
    with torch.device("meta"):
        again = reading.design.build(SPACE)
    assert {k: x.shape for k, x in again.state_dict().items()} == {k: x.shape for k, x in model.state_dict().items()}
    assert plain_options(again.backbone) == plain_options(model.backbone)


def plain_options(module: torch.nn.Module) -> dict[str, Any]:
    """Return what no shape says: numbers of heads and points, scales, groups, of all parts."""
    names = (
        "heads",
        "points",
        "offset_scale",
        "post_norm",
        "groups",
        "trained",
        "out_indices",
        "window",
        "shift",
        "grid",
    )
    return {f"{path}.{name}": getattr(part, name) for path, part in module.named_modules() for name in names
            if isinstance(getattr(part, name, None), int | float | tuple)}  # fmt: skip
