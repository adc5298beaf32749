"""Checkpoints of the VSPW baseline code, encoder included: which method, in which size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from everyframe.models.convert import vspw
from everyframe.models.convert.design import Design, Reading, nearest_backbone, system_of
from everyframe.models.convert.keys import Rule, Table, left_out, nested
from everyframe.models.convert.settings import Unsupported
from everyframe.models.convert.shapes import Shapes

ENCODER: Table = [
    *(Rule(rf"conv{i + 1}\.(weight)", rf"stem.{3 * i}.\1") for i in range(3)),
    *(Rule(rf"bn{i + 1}\.(.+)", rf"stem.{3 * i + 1}.\1") for i in range(3)),
    Rule(r"(layer\d\..+)", r"\1"),
    left_out(r"fc_?\d*\..+", "top of the classifier that was pretrained"),
]
"""`ResnetDilated` and `Resnet`: a ResNet with a deep stem of 64, 64 and 128 channels."""

SYNC_BUFFERS = left_out(
    r".+\._(?:tmp_running_mean|tmp_running_var|running_iter)", "a buffer of synchronised batch norm, used in training"
)


def encoder_options(shapes: Shapes, output_stride: int) -> dict[str, Any]:
    """Return the zoo's options of the ResNet whose weights these are, without prefix."""
    how = "dilated to stride 8" if output_stride == 8 else "of stride 4, 8, 16 and 32"
    shapes.assume(f"ResNet stages {how}, as in the authors' configurations")
    bottleneck = "layer1.0.conv3.weight" in shapes
    return {
        "depths": tuple(shapes.count(rf"layer{i}\.(\d+)\..+") for i in range(1, 5)),
        "bottleneck": bottleneck,
        "width": shapes.of("layer1.0.conv1.weight")[0],
        "stem_width": shapes.of("conv3.weight")[0],
        "deep_stem": True,
        "output_stride": output_stride,
        "dilate_both": not bottleneck,
    }


def _psp_head(shapes: Shapes, levels: str, last: str, deep: str) -> dict[str, Any]:
    """Return the head's options; the arguments name a pyramid level, the last convolution and the auxiliary head's."""
    shapes.assume("pyramid pooling over 1, 2, 3 and 6 cells")
    return {
        "width": shapes.of(last)[0],
        "auxiliary_width": shapes.of(deep)[0] if deep in shapes else 0,
        "bins": (1, 2, 3, 6)[: shapes.count(levels)],
    }


def _psp(shapes: Shapes) -> dict[str, Any]:
    # ETC and NetWarp have a last convolution of their own, behind the decoder.
    last = next(name for name in ("conv_last_.0.weight", "decoder.conv_last_.0.weight") if name in shapes)
    return _psp_head(shapes, r"decoder\.ppm\.(\d+)\..+", last, "decoder.cbr_deepsup.0.weight")


def _tcb_psp(shapes: Shapes) -> dict[str, Any]:
    return _psp_head(shapes, r"ppm_conv\.ppm\.(\d+)\..+", "ppm_conv.conv_last_.0.weight", "deepsup.0.weight")


def _ocr(shapes: Shapes) -> dict[str, Any]:
    before = "decoder." if shapes.has(r"decoder\.conv_3x3\..+") else ""
    width = shapes.of(f"{before}conv_3x3.0.weight")[0]
    return {"width": width, "key_width": shapes.of(f"{before}spatial_ocr_head.object_context_block.f_down.0.weight")[0]}


def _uper(shapes: Shapes) -> dict[str, Any]:
    shapes.assume("pyramid pooling over 1, 2, 3 and 6 cells")
    return {
        "width": shapes.of("decoder.ppm_last_conv.0.weight")[0],
        "pool_width": shapes.of("decoder.ppm_conv.0.0.weight")[0],
        "bins": (1, 2, 3, 6)[: shapes.count(r"decoder\.ppm_conv\.(\d+)\..+")],
        "resize_first": True,
        "dropout": 0.0,
    }


def _deeplab(shapes: Shapes) -> dict[str, Any]:
    shapes.assume("dilations 1, 12, 24, 36, as in the authors' DeepLabv3+ of stride 8")
    return {
        "width": shapes.of("decoder.aspp.conv1.weight")[0],
        "fine_width": shapes.of("decoder.decoder.conv1.weight")[0],
        "dilations": (1, 12, 24, 36),
        "projection": 1,
        "align_corners": True,
        "auxiliary_width": 0,
    }


class Method(NamedTuple):
    """A model of the VSPW code.

    Attributes:
        marks: regular expressions of keys that only it has, all of them.
        table: keys behind the encoder -> ours.
        head: key of `zoo.HEADS`.
        temporal: key of `zoo.TEMPORAL`.
        options: shapes -> options of the head.
        classifier: convolution that gives the logits.
        output_stride: of the encoder.
        note: for the report.
    """

    marks: tuple[str, ...]
    table: Table
    head: str
    temporal: str
    options: Callable[[Shapes], dict[str, Any]]
    classifier: str
    output_stride: int = 8
    note: str = ""


_WITH_OCR = r"decoder\.spatial_ocr_head\..+"
_WITH_PSP = r"decoder\.ppm\..+"
_FLOW = "its optical flow came from RAFT; here from DIS unless `temporal.flow: raft` is set"
_DROPOUT = (
    "its training dropped half of the values before and within the last convolutions; here channels are dropped before "
    "the classifier alone"
)
_MEMORY = "a memory at test time leaves no trace in the weights; set `temporal.memory` to have one"


def _decoder(
    mark: str, table: Table, head: str, options: Callable[[Shapes], dict[str, Any]], classifier: str, **more: Any
) -> Method:
    """Return an image model, whose decoder is all that follows its encoder."""
    rules = nested(table, "decoder.", "head.")
    return Method((mark,), rules, head, "", options, f"decoder.{classifier}", **more)


METHODS: dict[str, Method] = {
    "NetWarp on OCRNet": Method(
        (r"flowcnn\..+", _WITH_OCR), vspw.NETWARP_OCR, "ocr", "netwarp", _ocr, "head", note=_FLOW
    ),
    "NetWarp on PSPNet": Method(
        (r"flowcnn\..+", _WITH_PSP), vspw.NETWARP_PSP, "psp", "netwarp", _psp, "conv_last_.4", note=_FLOW
    ),
    "TCB-PPM": Method((r"ppm_conv\..+",), vspw.TCB_PSP, "psp", "tcb", _tcb_psp, "ppm_conv.conv_last_.4"),
    "TCB-OCR": Method(
        (r"spatial_ocr_head\..+", r"encoder\..+"), vspw.TCB_OCR, "ocr", "tcb", _ocr, "head", note=_MEMORY
    ),
    "ETC on OCRNet": Method((r"conv_last_\.weight", _WITH_OCR), vspw.ETC_OCR, "ocr", "etc", _ocr, "conv_last_"),
    "ETC on PSPNet": Method((r"conv_last_\.0\.weight", _WITH_PSP), vspw.ETC_PSP, "psp", "etc", _psp, "conv_last_.4"),
    "OCRNet": _decoder(_WITH_OCR, vspw.OCR, "ocr", _ocr, "head"),
    "PSPNet": _decoder(_WITH_PSP, vspw.PSP, "psp", _psp, "conv_last_.4"),
    "UPerNet": _decoder(r"decoder\.fpn_in\..+", vspw.UPER, "uper", _uper, "conv_last_.1", output_stride=32),
    "DeepLabv3+": _decoder(
        r"decoder\.aspp\..+", vspw.DEEPLAB, "deeplab", _deeplab, "decoder.lastlast_conv.1", note=_DROPOUT
    ),
}
"""Method -> what is known of it; the first whose marks all fit is it."""


def find_method(shapes: Shapes) -> str | None:
    """Return the key of `METHODS`, or None; the encoder must be there under `encoder.`."""
    if not shapes.has(r"encoder\.layer1\..+"):
        return None
    return next((name for name, method in METHODS.items() if all(map(shapes.has, method.marks))), None)


def read_vspw(shapes: Shapes) -> Reading:
    """Tell what model these weights belong to.

    Raises:
        Unsupported: none of `METHODS`.
    """
    name = find_method(shapes)
    if name is None:
        raise Unsupported(
            f"expected the weights of one of {', '.join(METHODS)} with a ResNet as `encoder.`, came "
            f"{', '.join(list(shapes)[:4])}; give encoder_epoch_N.pth and decoder_epoch_N.pth together"
        )
    method = METHODS[name]
    notes = [f"{name} of the VSPW code", *([method.note] if method.note else [])]
    temporal: dict[str, Any] = {}
    if method.temporal == "netwarp":
        temporal["form"] = "vspw"
    if name == "TCB-PPM" and "pspweight_conv.0.weight" in shapes:
        temporal |= {"weighted": True, "form": "vspw"}
    options = encoder_options(shapes.part("encoder."), method.output_stride)
    design = Design(
        system_of(method.head, method.temporal),
        nearest_backbone(("resnet",), options),
        options,
        method.options(shapes),
        temporal,
    )
    table = [SYNC_BUFFERS, *nested(ENCODER, "encoder.", "backbone."), *method.table]
    finish = vspw.join_factors if method.temporal == "netwarp" else None
    return Reading(design, table, shapes.of(f"{method.classifier}.weight")[0], notes, finish=finish)
