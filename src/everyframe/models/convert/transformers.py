"""Folders of transformers with Mask2Former on Swin -> a model of ours."""

from __future__ import annotations

from everyframe.models.convert import mask2former
from everyframe.models.convert.design import Design, Reading, nearest_backbone, system_of
from everyframe.models.convert.keys import nested
from everyframe.models.convert.mask2former_config import hf_head_options, hf_swin_options
from everyframe.models.convert.settings import Unsupported
from everyframe.models.convert.source import Source
from everyframe.models.segmenter import IMAGENET_MEAN, IMAGENET_STD


def read_transformers(source: Source) -> Reading:
    """Tell what model a folder holds.

    Raises:
        Unsupported: another model than Mask2Former on Swin.
    """
    config = (source.config or {})["transformers"]
    body = config.get("backbone_config") or {}
    kinds = (config.get("model_type"), body.get("model_type"))
    if kinds != ("mask2former", "swin"):
        raise Unsupported(
            f"{source.name}: expected Mask2Former on Swin, came {kinds[0]!r} on {kinds[1]!r}; other models of "
            f"transformers run as they are: `everyframe predict --model FOLDER`"
        )
    images = (source.config or {}).get("preprocessor") or {}
    try:
        options, head = hf_swin_options(body), hf_head_options(config)
    except KeyError as error:
        raise Unsupported(f"{source.name}: config.json lacks the setting {error}; copy the folder anew") from None
    design = Design(
        system_of("mask2former"),
        nearest_backbone(("swin-",), options),
        options,
        head,
        mean=images.get("image_mean") or IMAGENET_MEAN,
        std=images.get("image_std") or IMAGENET_STD,
    )
    table = [
        *nested(mask2former.HF_SWIN, "model.pixel_level_module.encoder.", "backbone."),
        *nested(mask2former.HF_HEAD, "", "head."),
    ]
    classes = len(source.state["class_predictor.weight"]) - 1 if "class_predictor.weight" in source.state else 0
    return Reading(design, table, classes or len(config.get("id2label") or {}), prepare=mask2former.join_projections)
