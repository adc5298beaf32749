"""Builders for cases of mmsegmentation: our modules from its configurations, its weights through the converter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cases import Builder, Case, NotBuilt
from torch import Tensor, nn
from torch.nn import functional as F

from everyframe.models.convert import mmseg
from everyframe.models.convert.keys import convert
from everyframe.models.convert.mmseg_config import Unsupported, build_backbone, build_head
from everyframe.models.heads.base import Head
from everyframe.models.heads.deeplab import DeepLabV3PlusHead
from everyframe.models.state import load_state


def backbone(case: Case) -> dict[str, Tensor]:
    """A backbone alone, its keys without prefix."""
    config = case.args["model"]
    model = _built(build_backbone, config)
    load_state(model, convert(case.state, mmseg.backbone_table(config)), case.path)
    return {f"feat.{i}": x for i, x in enumerate(model.eval()(case.inputs["image"]))}


def head(case: Case) -> dict[str, Tensor]:
    """A head alone, its keys under `decode_head.`; a cascade of heads under `decode_head.0.`, `decode_head.1.`."""
    features = case.features()
    config = case.args.get("heads") or case.args["head"]
    model = _built(build_head, config, [x.shape[1] for x in features], [4 << i for i in range(len(features))])
    load_state(model, convert(case.state, mmseg.head_table(config, "decode_head.", "")), case.path)
    return _run_head(model, features)


def encoder_decoder(case: Case) -> dict[str, Tensor]:
    """A whole model; the reference resizes its logits to the image."""
    config = case.args["model"]
    body = _built(build_backbone, config["backbone"])
    decode, auxiliary = config["decode_head"], config.get("auxiliary_head")
    top = _built(build_head, decode, body.channels, body.strides, auxiliary)
    model = nn.ModuleDict({"backbone": body, "head": top})
    load_state(model, mmseg.convert_model(case.state, config, case.path), case.path)
    maps = model.eval()["backbone"](case.inputs["image"])
    outputs = _run_head(top, maps)
    last = decode if isinstance(decode, Mapping) else decode[-1]
    size = case.inputs["image"].shape[-2:]
    logits = F.interpolate(outputs["logits"], size, mode="bilinear", align_corners=last.get("align_corners", False))
    features = {f"feat.{i}": x for i, x in enumerate(maps)}
    return {**outputs, **features, "logits": logits}


def _run_head(model: Head, features: list[Tensor]) -> dict[str, Tensor]:
    before: list[Tensor] = []
    if isinstance(model, DeepLabV3PlusHead):  # mmseg's `_forward_feature` is the pyramid alone
        model.pyramid.register_forward_hook(lambda module, inputs, output: before.append(output))
    elif hasattr(model, "classifier"):
        model.classifier.register_forward_pre_hook(lambda module, inputs: before.append(inputs[0]))
    outputs = {"logits": model.eval()(features)}
    if before:
        outputs["pre_classifier"] = before[0]
    if model.auxiliary is not None:
        coarse = model.auxiliary(features)
        outputs |= {"coarse": coarse, "aux": coarse}
    return outputs


def _built(build: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return build(*arguments)
    except Unsupported as error:
        raise NotBuilt(str(error)) from None


BUILDERS: dict[str, Builder] = {
    "SwinTransformer": backbone,
    "ResNet": backbone,
    "ResNetV1c": backbone,
    "ResNetV1d": backbone,
    "FCNHead": head,
    "PSPHead": head,
    "OCRHead": head,
    "UPerHead": head,
    "DepthwiseSeparableASPPHead": head,
    "SegmenterMaskTransformerHead": head,
    "VisionTransformer": backbone,
    "HRNet": backbone,
    "EncoderDecoder": encoder_decoder,
    "CascadeEncoderDecoder": encoder_decoder,
}
"""mmseg class -> builder."""
