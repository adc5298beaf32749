"""Published names and shapes, listed independently of our tables: converters use these, and leave nothing empty.

The lists stand in `published_layouts.py` and `published_heads.py`; timm's come from timm.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import published_heads as heads
import published_layouts as layouts
import pytest
import torch
from published_layouts import Layout, joined, under
from safetensors import safe_open
from torch import Tensor

from everyframe.labels import LabelSpace
from everyframe.models.backbones.vit_adapter import ViTAdapter
from everyframe.models.convert.design import Reading
from everyframe.models.convert.keys import rewrite
from everyframe.models.convert.kinds import KINDS, find_kind
from everyframe.models.convert.mmseg_backbone_config import vit_options
from everyframe.models.convert.positions import fit_positions
from everyframe.models.convert.shapes import Shapes
from everyframe.models.convert.source import Source
from everyframe.models.convert.timm import convert_backbone, fit_kernels
from everyframe.models.convert.vit_adapter import trunk_state
from everyframe.models.cost import count_parameters
from everyframe.models.segmenter import Segmenter
from everyframe.models.state import difference
from everyframe.models.zoo import BACKBONES

INITIALISERS = ("kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "trunc_normal_", "uniform_",
                "xavier_uniform_", "zeros_", "constant_")  # fmt: skip


@pytest.fixture(autouse=True)
def _no_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave weights without numbers as they are, which halves the time."""
    for name in INITIALISERS:
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *arguments, **options: tensor)


GOLDEN = Path(os.environ.get("EVERYFRAME_GOLDEN") or Path(__file__).parents[1] / "golden")


# -- the lists against the reference implementations' weights ---------------------------------------------------------


def of_vspw(method: str, source: int, width: int, key: int) -> Layout:
    """Decoders of the golden cases stand alone; the video methods have no encoder there."""
    found = heads.vspw_methods(source, width, key, 6)[method]
    return {name.removeprefix("decoder."): shape for name, shape in found.items()} if "on" not in method else found


def whole(body: Layout, decode: Layout, auxiliary: Layout | None = None) -> Layout:
    more = under("auxiliary_head.", auxiliary) if auxiliary else {}
    return joined(under("backbone.", body), under("decode_head.", decode), more)


SMALL_SWIN = partial(layouts.swin, 8, (2, 2, 2, 2), (1, 2, 4, 4), 4)
SMALL_RESNET = partial(layouts.resnet, (3, 4, 6, 3), width=4, stem=4)
SMALL_M2F = partial(heads.mask2former, width=32, heads=4)

REFERENCES: dict[str, Callable[[], Layout]] = {
    "beit_adapter": lambda: joined(layouts.beit(32, 4, 4, (4, 6), 128), layouts.adapter(32, 4, 0.5, 8)),
    "vit_adapter": lambda: joined(layouts.plain_vit(32, 4, 16), layouts.adapter(32, 4, 1.0, 8)),
    "eva01_adapter": lambda: joined(
        layouts.beit(32, 4, 4, (4, 6), 140, relative=False, absolute=True, scaled=False), layouts.adapter(32, 4, 0.5, 6)
    ),
    "eva01_adapter_relpos": lambda: joined(
        layouts.beit(32, 4, 4, (4, 6), 140, absolute=True), layouts.adapter(32, 4, 0.5, 6)
    ),
    "eva02": lambda: layouts.eva02(24, 4, 3, 16, 64),
    "internimage_b": lambda: layouts.intern_image(14, (1, 1, 2, 1), (2, 4, 7, 14), 28),
    "internimage_h": lambda: layouts.intern_image(12, (1, 1, 4, 1), (2, 4, 6, 12), 24, large=True, extra_norms=2),
    "focalnet": lambda: layouts.focalnet(8, (1, 1, 2, 1), 3, 3),
    "focalnet_conv": lambda: layouts.focalnet(8, (1, 1, 2, 1), 4, 3, large=True),
    "swin_backbone": SMALL_SWIN,
    "swin_upernet_full": lambda: whole(SMALL_SWIN(), heads.uper((8, 16, 32, 64), 16, 6), heads.fcn(32, 8, 6)),
    "mask2former_swin_mmseg_full": lambda: whole(
        SMALL_SWIN(), SMALL_M2F((8, 16, 32, 64), queries=8, count=5, hidden=(32, 32), layers=(2, 4), newer=True)
    ),
    "mask2former_beit_adapter_full": lambda: whole(
        joined(layouts.beit(24, 4, 3, (4, 6), 96), layouts.adapter(24, 3, 0.5, 4)),
        SMALL_M2F((24,) * 4, queries=8, count=7, hidden=(48, 32), layers=(1, 4), newer=False),
    ),
    "resnet50c_pspnet_full": lambda: whole(SMALL_RESNET(), heads.psp(128, 16, 6), heads.fcn(64, 8, 6)),
    "resnet50c_deeplabv3plus_full": lambda: whole(
        SMALL_RESNET(), heads.deeplab(128, 16, 16, 6, 6), heads.fcn(64, 8, 6)
    ),
    "vit_segmenter_full": lambda: whole(layouts.vision_transformer(24, 3, 24), heads.segmenter(24, 24, 2, 7)),
    "deeplabv3plus_head": lambda: under("decode_head.", heads.deeplab(24, 10, 16, 6, 6)),
    "uperhead": lambda: under("decode_head.", heads.uper((8, 12, 16, 20), 16, 7)),
    "psphead": lambda: under("decode_head.", heads.psp(24, 12, 6)),
    "segmenter_head": lambda: under("decode_head.", heads.segmenter(24, 24, 2, 7)),
    "vspw_ppm_deepsup": lambda: of_vspw("PSPNet", 16, 12, 1),
    "vspw_ocrnet": lambda: of_vspw("OCRNet", 16, 12, 6),
    "vspw_etc": lambda: of_vspw("ETC on PSPNet", 16, 8, 6),
    "vspw_etc_ocr": lambda: of_vspw("ETC on OCRNet", 16, 8, 6),
    "vspw_netwarp": lambda: of_vspw("NetWarp on PSPNet", 16, 8, 6),
    "vspw_netwarp_ocr": lambda: of_vspw("NetWarp on OCRNet", 16, 8, 6),
    "vspw_tcb_psp": lambda: of_vspw("TCB-PPM", 16, 12, 1),
    "vspw_tcb_ocr": lambda: of_vspw("TCB-OCR", 16, 12, 6),
}  # fmt: skip
"""Golden case -> the list at its sizes."""


@pytest.mark.parametrize("case", REFERENCES)
def test_lists_are_what_the_references_hold(case: str) -> None:
    path = GOLDEN / f"{case}.safetensors"
    if not path.is_file():
        pytest.skip("this case is not in the folder of golden cases")
    with safe_open(path, "pt") as file:
        names = [key for key in file.keys() if key.startswith("state.")]  # noqa: SIM118 (not a dict)
        held = {name.removeprefix("state."): tuple(file.get_slice(name).get_shape()) for name in names}
    listed = REFERENCES[case]()
    assert sorted(held) == sorted(listed)
    assert held == listed


# -- the converters against the lists, at published sizes, on the meta device -----------------------------------------

BIG_M2F = partial(heads.mask2former, (1024,) * 4, 1024, hidden=(4096, 4096), layers=(6, 9), heads=32, newer=False)
SWIN_DIMS = (2, 2, 18, 2)


def adapter_mask2former(grid: int, queries: int) -> Layout:
    """ViT-Adapter on BEiT or BEiTv2; `conv_seg` is never used."""
    body = joined(layouts.beit(1024, 24, 16, (grid, grid), 4096), layouts.adapter(1024, 16, 0.5))
    return whole(body, joined(BIG_M2F(queries, 150), heads.classes(1024, 150)))


def eva_mask2former(relative: bool) -> Layout:
    body = layouts.beit(1408, 40, 16, (56, 56), 6144, relative=relative, absolute=True, scaled=relative)
    decode = heads.mask2former(
        (1408,) * 4, 1024, 200, 150, hidden=(4096, 4096), layers=(6, 9 if relative else 8), heads=32, newer=False
    )
    return whole(joined(body, layouts.adapter(1408, 16, 0.5)), joined(decode, heads.classes(1024, 150)))


def with_uper(body: Layout, channels: tuple[int, ...], auxiliary: int) -> Layout:
    return whole(body, heads.uper(channels, 512, 150), heads.fcn(auxiliary, 256, 150))


R101 = (3, 4, 23, 3)


def resnet(kind: str, decode: Layout, depths: tuple[int, ...] = R101) -> Layout:
    return whole(layouts.resnet(depths, kind), decode, heads.fcn(1024, 256, decode["conv_seg.bias"][0]))


def vspw(method: str, depths: tuple[int, ...] = (3, 4, 6, 3), count: int = 124) -> Layout:
    """A method of the VSPW code; RAFT and the buffers of synchronised norms are left out."""
    encoder = under("encoder.", heads.vspw_encoder(depths))
    if method == "UPerNet":
        return joined(encoder, under("decoder.", heads.vspw_uper((256, 512, 1024, 2048), 512, count)))
    if method == "DeepLabv3+":
        return joined(encoder, under("decoder.", heads.vspw_deeplab(2048, 256, count)))
    return joined(encoder, heads.vspw_methods(2048, 512, 256, count)[method])


PUBLISHED: dict[str, tuple[str, str, Callable[[], Layout], float | None]] = {
    "BEiT adapter, 640": (
        "vit-adapter", "mask2former-beit-adapter-large", lambda: adapter_mask2former(40, 100), 568.4),
    "BEiTv2 adapter, 896": (
        "vit-adapter", "mask2former-beitv2-adapter-large", lambda: adapter_mask2former(56, 200), 570.9),
    "EVA-01, absolute": ("vit-adapter", "mask2former-eva-adapter-giant", lambda: eva_mask2former(False), None),
    "EVA-01, relative and scaled": (
        "vit-adapter", "mask2former-eva-adapter-giant", lambda: eva_mask2former(True), 1305.6),
    "DeiT adapter": ("vit-adapter", "uper-vit-adapter-base", lambda: with_uper(
        joined(layouts.plain_vit(768, 12, 196), layouts.adapter(768, 12, 0.5)), (768,) * 4, 768), None),
    "Swin-L": ("mmseg", "uper-swin-large", lambda: with_uper(
        layouts.swin(192, SWIN_DIMS, (6, 12, 24, 48), 12), (192, 384, 768, 1536), 768), 234.0),
    "Swin-L Mask2Former": ("mmseg", "mask2former-swin-large", lambda: whole(
        layouts.swin(192, SWIN_DIMS, (6, 12, 24, 48), 12),
        heads.mask2former(
            (192, 384, 768, 1536), 256, 100, 150, hidden=(1024, 2048), layers=(6, 9), heads=8, newer=True),
    ), 215.5),
    "InternImage-XL": ("internimage", "uper-internimage-xl", lambda: with_uper(
        layouts.intern_image(192, (5, 5, 24, 5), (12, 24, 48, 96), 768), (192, 384, 768, 1536), 768), 367.7),
    "InternImage-H": ("internimage", "uper-internimage-xl", lambda: with_uper(layouts.intern_image(
        320, (6, 6, 32, 6), (10, 20, 40, 80), 1280, large=True, extra_norms=6), (320, 640, 1280, 2560), 1280), None),
    "FocalNet-B": ("focalnet", "uper-focalnet-base", lambda: with_uper(
        layouts.focalnet(128, SWIN_DIMS, 3, 9), (128, 256, 512, 1024), 512), 125.7),
    "FocalNet-L": ("focalnet", "uper-focalnet-large", lambda: with_uper(
        layouts.focalnet(192, SWIN_DIMS, 4, 3, large=True), (192, 384, 768, 1536), 768), None),
    "EVA-02-L": ("eva02", "uper-eva02-large", lambda: with_uper(
        layouts.eva02(1024, 24, 16, 1024, 2730), (1024,) * 4, 1024), None),
    "Segmenter": ("mmseg", "segmenter-vit-base", lambda: whole(
        layouts.vision_transformer(768, 12, 1024), heads.segmenter(768, 768, 2, 150)), None),
    "PSPNet on ResNet-101 C": ("mmseg", "psp-resnet101c", lambda: resnet("c", heads.psp(2048, 512, 150)), None),
    "PSPNet on ResNet-50 D": ("mmseg", "psp-resnet50c", lambda: resnet(
        "d", heads.psp(2048, 512, 150), (3, 4, 6, 3)), None),
    "UperNet on ResNet-50": ("mmseg", "uper-resnet50c", lambda: resnet(
        "plain", heads.uper((256, 512, 1024, 2048), 512, 150), (3, 4, 6, 3)), None),
    "DeepLabv3+ on ResNet-101 C": ("mmseg", "deeplab-resnet101c", lambda: resnet(
        "c", heads.deeplab(2048, 256, 512, 48, 150)), None),
    "VSPW, PSPNet": ("vspw", "psp-resnet101", lambda: vspw("PSPNet", R101), 70.545),
    "VSPW, OCRNet": ("vspw", "ocr-resnet101", lambda: vspw("OCRNet", R101), 58.097),
    "VSPW, UPerNet": ("vspw", "uper-resnet101", lambda: vspw("UPerNet", R101), 83.201),
    "VSPW, DeepLabv3+": ("vspw", "deeplab-resnet101", lambda: vspw("DeepLabv3+", R101), 59.495),
    **{f"VSPW, {method}": ("vspw", f"{name}-resnet50", partial(vspw, method), None) for method, name in {
        "ETC on OCRNet": "etc-ocr", "ETC on PSPNet": "etc-psp", "NetWarp on OCRNet": "netwarp-ocr",
        "NetWarp on PSPNet": "netwarp-psp", "TCB-OCR": "tcb-ocr", "TCB-PPM": "tcb-psp"}.items()},
}  # fmt: skip
"""Published model -> kind, name here, list, and millions of parameters where a publication says."""

UNUSED = (".relative_position_index", "decode_head.conv_seg.weight", "decode_head.conv_seg.bias", "rope.freqs_cos",
          "rope.freqs_sin")  # fmt: skip


def converted(
    layout: Layout, kind: str, model: str | None = None, config: dict[str, Any] | None = None
) -> tuple[Segmenter, Reading, dict[str, str]]:
    """Convert weights that have shapes alone; return the model that lacks none, the reading, and what was dropped."""
    with torch.device("meta"):
        state: dict[str, Tensor] = {name: torch.empty(shape) for name, shape in layout.items()}
    source, shapes = Source("list.pth", state, config), Shapes(state)
    assert find_kind(source, shapes) == kind
    reading = KINDS[kind].read(source, shapes, model)
    space = LabelSpace(tuple(map(str, range(reading.classes or 124))))
    with torch.device("meta"):
        built = reading.design.build(space)
    done = rewrite(state, reading.table)
    assert done.unknown == []
    assert done.used.keys() | done.dropped.keys() == layout.keys()
    named = done.state if reading.finish is None else reading.finish(done.state)
    if reading.classes is None:
        named = fit_kernels(fit_positions(named, built)[0], built.state_dict())
    found = difference(built, named)
    missing = [name for name in found.missing if not any(re.fullmatch(pattern, name) for pattern, _ in reading.fresh)]
    assert (missing, found.unexpected, found.mismatched) == ([], (), {})
    return built, reading, done.dropped


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_convert_whole(name: str) -> None:
    kind, ours, layout, millions = PUBLISHED[name]
    listed = layout()
    model, reading, dropped = converted(listed, kind)
    assert reading.design.name == ours
    if millions is not None:
        unused = sum(math.prod(listed[key]) for key in dropped if "conv_seg" in key)  # publications count it
        digits = len(str(millions).partition(".")[2])
        assert round((count_parameters(model) + unused) / 1e6, digits) == millions
    assert [key for key in dropped if not key.endswith(UNUSED) and not key.startswith("decoder.conv_last_")] == []


SHARED = {"num_classes": 150, "norm_cfg": {"type": "SyncBN"}}
VERSIONS: dict[str, tuple[Layout, dict[str, Any]]] = {
    "Segmenter": (
        {"backbone.patch_embed.projection.bias": (768,)},
        {"backbone": {"type": "VisionTransformer", "embed_dims": 768, "num_layers": 12, "num_heads": 12,
                      "img_size": 512, "final_norm": True},
         "decode_head": {"type": "SegmenterMaskTransformerHead", "in_channels": 768, "channels": 768,
                         "num_classes": 150, "num_layers": 2, "num_heads": 12, "embed_dims": 768}}),
    "DeiT adapter": (
        {f"backbone.blocks.{i}.gamma{k}": (768,) for i in range(12) for k in (1, 2)},
        {"backbone": {"type": "ViTAdapter", "interaction_indexes": [[0, 2], [3, 5], [6, 8], [9, 11]],
                      "deform_num_heads": 12, "deform_ratio": 0.5},
         "decode_head": {"type": "UPerHead", "in_channels": [768] * 4, "in_index": [0, 1, 2, 3], "channels": 512,
                         **SHARED},
         "auxiliary_head": {"type": "FCNHead", "in_channels": 768, "in_index": 2, "channels": 256, "num_convs": 1,
                            "concat_input": False, **SHARED}}),
}  # fmt: skip
"""Key of `PUBLISHED` -> weights that other versions of the code have, and a configuration that says nothing of them."""


@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("more", [True, False])
def test_settings_that_differ_between_versions_follow_the_weights(name: str, more: bool) -> None:
    kind, _, layout, _ = PUBLISHED[name]
    weights, model = VERSIONS[name]
    converted(layout() | (weights if more else {}), kind, config={"model": model})


def test_positions_of_vits_are_resized_as_mmseg_does_unless_told() -> None:
    assert vit_options({"type": "VisionTransformer"})["interpolation"] == "bicubic"


# -- backbones alone --------------------------------------------------------------------------------------------------

TOP = layouts.norm("norm", 8) | layouts.layer("head", 10, 8)

PRETRAINED: dict[str, tuple[str, Callable[[], Layout]]] = {
    "BEiT of its code": ("uper-beit-adapter-large", lambda: joined(
        layouts.beit(1024, 24, 16, (14, 14), 4096), layouts.norm("fc_norm", 1024), layouts.layer("head", 10, 1024))),
    "BEiT, one table for all blocks": ("uper-beit-adapter-large", lambda: joined(
        {name: shape for name, shape in layouts.beit(1024, 24, 16, (14, 14), 4096).items() if "relative" not in name},
        {"rel_pos_bias.relative_position_bias_table": (732, 16), "rel_pos_bias.relative_position_index": (197, 197),
         "mask_token": (1, 1, 1024)}, layouts.norm("norm", 1024), layouts.layer("lm_head", 8192, 1024))),
    "EVA-01, patches of 14": ("uper-eva-adapter-giant", lambda: joined(layouts.beit(
        1408, 40, 16, (16, 16), 6144, relative=False, absolute=True, scaled=False, patch=14), TOP)),
    "Swin of its authors": ("uper-swin-small", lambda: joined(
        layouts.original_swin(96, SWIN_DIMS, (3, 6, 12, 24), 7), TOP)),
    "InternImage": ("uper-internimage-xl", lambda: joined(
        layouts.intern_image(192, (5, 5, 24, 5), (12, 24, 48, 96), 768),
        {"conv_head.0.weight": (2304, 1536, 1, 1), **layouts.batch_norm("conv_head.1.0", 2304)},
        layouts.layer("head", 10, 2304))),
    "FocalNet of its authors": ("uper-focalnet-base", lambda: joined(
        {name: shape for name, shape in layouts.focalnet(128, SWIN_DIMS, 3, 3).items() if not name.startswith("norm")},
        TOP)),
    "ResNet of CSAIL": ("uper-resnet101", lambda: joined(heads.vspw_encoder(R101), layouts.layer("fc_1", 10, 2048))),
}  # fmt: skip
"""Pretrained backbone -> name here, list."""


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretrained_backbones_convert_whole(name: str) -> None:
    ours, layout = PRETRAINED[name]
    _, reading, _ = converted(layout(), "backbone")
    assert reading.design.name == ours


WEIGHTS = {name: build.keywords["weights"] for name, build in BACKBONES.items() if build.keywords.get("weights")}


def test_weights_of_the_zoo_are_offered_by_timm() -> None:
    import timm

    assert [name for name in WEIGHTS.values() if not timm.is_model_pretrained(name)] == []


@pytest.mark.parametrize(
    "name",
    ["swin-tiny", "focalnet-tiny", "beitv2-adapter-large", "vit-adapter-small", "resnet101", "resnet101c", "hrnet-w18"],
)
def test_weights_that_timm_offers_fill_the_backbone(name: str) -> None:
    """Downloaded by name, and as a file."""
    import timm

    weights = WEIGHTS[name]
    with torch.device("meta"):
        state = timm.create_model(weights.partition(".")[0]).state_dict()
        backbone = BACKBONES[name](False)
    if isinstance(backbone, ViTAdapter):
        trunk = backbone.trunk
        assert not difference(trunk, trunk_state(state, trunk))
    else:
        assert not difference(backbone, convert_backbone(state, backbone))
    layout = {key: tuple(value.shape) for key, value in state.items()}
    assert converted(layout, "backbone", f"uper-{name}")[1].design.body == name
