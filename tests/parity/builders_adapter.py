"""Builders for cases of ViT-Adapter and of EVA-01 and EVA-02's segmentation code."""

from __future__ import annotations

import re
from typing import Any

from builders_mask2former import run_whole
from cases import Builder, Case
from torch import Tensor, nn

from everyframe.inference.predictor import State
from everyframe.inference.window import Window
from everyframe.labels import LabelSpace
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


class Whole(nn.Module):
    """A predictor of frames that are normalised already."""

    def __init__(self, body: nn.Module, top: Any) -> None:
        super().__init__()
        self.body, self.top = body, top
        self.label_space = LabelSpace(tuple(map(str, range(top.num_classes))))

    def step(self, frame: Tensor, state: State = None) -> tuple[Tensor, State]:
        return self.top(self.body(frame)), state


def slide(body: nn.Module, top: Any, case: Case) -> Tensor:
    """`Window` on the windows of the reference's sliding test."""
    config = case.args["test_cfg"]
    return Window(Whole(body, top), config["crop_size"], config["stride"]).step(case.inputs["image_big"])[0]


ADAPTER: dict[str, Builder] = {
    "BEiTAdapter": backbone,
    "ViTAdapter": backbone,
    "EncoderDecoderMask2Former": mask_model,
}
"""Classes of ViT-Adapter -> builder."""

EVA: dict[str, Builder] = {"BEiTAdapter": backbone}
"""Classes of EVA -> builder."""
