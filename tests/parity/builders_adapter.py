"""Builders for cases of ViT-Adapter and of EVA-01 and EVA-02's segmentation code."""

from __future__ import annotations

import re
from typing import Any

import torch
from builders_mask2former import run_whole
from cases import Builder, Case
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.convert import mmseg, vit_adapter
from everyframe.models.convert.keys import convert
from everyframe.models.convert.mmseg_config import build_head
from everyframe.models.ops.resize import resize
from everyframe.models.state import load_state


def backbone(case: Case) -> dict[str, Tensor]:
    """An adapter alone, its keys without prefix; or the model that it is part of."""
    kind = re.split(r"\W", case.reference)[0]
    if "ctor" not in case.args:
        return mask_model(case) if case.args["decode_head"]["type"] == "Mask2FormerHead" else pixel_model(case)
    model = vit_adapter.KINDS[kind].from_config(case.args["ctor"])
    load_state(model, convert(case.state, vit_adapter.BACKBONES[kind], case.path), case.path)
    return {f"feat.{i}": x for i, x in enumerate(model.eval()(case.inputs["image"]))}


def _whole(case: Case, kind: str) -> nn.ModuleDict:
    body = vit_adapter.KINDS[kind].from_config(case.args["backbone"])
    decode, auxiliary = case.args["decode_head"], case.args.get("auxiliary_head")
    model = nn.ModuleDict({"backbone": body, "head": build_head(decode, body.channels, body.strides, auxiliary)})
    load_state(model, mmseg.convert_model(case.state, case.args, case.path, vit_adapter.BACKBONES[kind]), case.path)
    return model.eval()


def pixel_model(case: Case) -> dict[str, Tensor]:
    """An adapter with a per-pixel head; the reference resizes its logits to the image."""
    model = _whole(case, re.split(r"\W", case.reference)[0])
    maps = model["backbone"](case.inputs["image"])
    logits = resize(model["head"](maps), case.inputs["image"].shape[-2:])
    return {"logits": logits, "aux": model["head"].auxiliary(maps)}


def mask_model(case: Case) -> dict[str, Tensor]:
    """An adapter with Mask2Former; also on a larger image by a sliding window."""
    model = _whole(case, case.args["backbone"]["type"])
    body, top = model["backbone"], model["head"]
    got = run_whole(body, top, case.inputs["image"])
    return {**got, "slide": slide(body, top, case)} if "image_big" in case.inputs else got


def slide(body: nn.Module, top: Any, case: Case) -> Tensor:
    """Mean over the windows that mmsegmentation lays, of scores resized to the window."""
    image, config = case.inputs["image_big"], case.args["test_cfg"]
    (crop_h, crop_w), (step_h, step_w) = config["crop_size"], config["stride"]
    h, w = image.shape[-2:]
    total, count = 0.0, torch.zeros(1, 1, h, w)
    for i in range(max(h - crop_h + step_h - 1, 0) // step_h + 1):
        for j in range(max(w - crop_w + step_w - 1, 0) // step_w + 1):
            top_edge, left = max(min(i * step_h, h - crop_h), 0), max(min(j * step_w, w - crop_w), 0)
            crop = image[..., top_edge : top_edge + crop_h, left : left + crop_w]
            scores = resize(top(body(crop)), crop.shape[-2:])
            margins = (left, w - left - crop.shape[-1], top_edge, h - top_edge - crop.shape[-2])
            total = total + F.pad(scores, margins)
            count = count + F.pad(torch.ones_like(scores[:, :1]), margins)
    return total / count


ADAPTER: dict[str, Builder] = {
    "BEiTAdapter": backbone,
    "ViTAdapter": backbone,
    "EncoderDecoderMask2Former": mask_model,
}
"""Classes of ViT-Adapter -> builder."""

EVA: dict[str, Builder] = {"BEiTAdapter": backbone}
"""Classes of EVA -> builder."""
