"""Builders for cases of the VSPW baseline code."""

from __future__ import annotations

from cases import Builder, Case
from torch import Tensor
from torch.nn import functional as F

from everyframe.models.convert import vspw
from everyframe.models.convert.keys import convert
from everyframe.models.heads.base import Head
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.heads.ocr import OCRHead
from everyframe.models.heads.psp import PSPHead
from everyframe.models.state import load_state


def psp(case: Case) -> dict[str, Tensor]:
    """`PPMDeepsup`."""
    encoder, width, _ = case.args["widths"]
    shape = ((encoder // 2, encoder), (8, 8), case.args["classes"])
    auxiliary = FCNHead(*shape, index=0, width=encoder // 4, num_convs=1, concat_input=False)
    model = PSPHead(*shape, width=width, auxiliary=auxiliary)
    load_state(model, convert(case.state, vspw.PSP), case.path)
    outputs, coarse = _run(model, case)
    return {**outputs, "deepsup_log_probs": coarse}


def ocr(case: Case) -> dict[str, Tensor]:
    """`SpatialOCRNet`."""
    encoder, width, key_width = case.args["widths"]
    model = OCRHead((encoder // 2, encoder), (8, 8), case.args["classes"], width=width, key_width=key_width)
    load_state(model, convert(case.state, vspw.OCR), case.path)
    outputs, coarse = _run(model, case)
    return {**outputs, "dsn_log_probs": coarse}


def _run(model: Head, case: Case) -> tuple[dict[str, Tensor], Tensor]:
    maps = [case.inputs["conv4"], case.inputs["conv5"]]
    logits = model.eval()(maps)
    upsampled = F.interpolate(logits, tuple(case.args["seg"]), mode="bilinear", align_corners=False)
    outputs = {"logits": logits, "log_probs": logits.log_softmax(1), "probs": upsampled.softmax(1)}
    return outputs, model.auxiliary(maps).log_softmax(1)


BUILDERS: dict[str, Builder] = {
    "PPMDeepsup": psp,
    "SpatialOCRNet": ocr,
}
"""Class of the VSPW code -> builder."""
