"""Whole published models without a configuration -> one in mmsegmentation's form, read off the shapes."""

from __future__ import annotations

from typing import Any

from everyframe.models.convert.infer_backbones import BACKBONES, find_backbone, resnet_plain
from everyframe.models.convert.infer_heads import infer_head
from everyframe.models.convert.settings import Unsupported
from everyframe.models.convert.shapes import Shapes

DOUBLING = {"SwinTransformer": "embed_dims", "InternImage": "channels", "FocalNet": "embed_dim"}
"""Backbones whose maps double their channels from stage to stage -> setting of the first stage's."""

HALF = [127.5, 127.5, 127.5]
"""Mean and deviation of the frames that the published Segmenter models on plain ViTs were trained on."""


def backbone_of(shapes: Shapes) -> str | None:
    """Return the key of `infer_backbones.BACKBONES` of a whole model, None where it is none."""
    if not shapes.has(r"backbone\..+") or not shapes.has(r"decode_head\..+"):
        return None
    return find_backbone(shapes.part("backbone."))


def infer_config(shapes: Shapes) -> dict[str, Any]:
    """Return the configuration of a whole model; what was taken for granted stands in `shapes.assumed`.

    Raises:
        Unsupported: a backbone that is not known.
        InputError: a head that is not known, or parts that do not fit each other.
    """
    name = backbone_of(shapes)
    if name is None:
        raise Unsupported(
            f"expected `backbone.` of {', '.join(BACKBONES)} and a `decode_head.`, came {', '.join(list(shapes)[:4])}"
        )
    body = BACKBONES[name].infer(shapes.part("backbone."))
    channels = _channels(body)
    top = shapes.part("decode_head.")
    if body["type"].startswith("ResNet") and top.has(r"fpn_bottleneck\..+"):
        body = resnet_plain(body, shapes)
    config: dict[str, Any] = {"backbone": body}
    stages = top.numbers(r"(\d+)\.conv_seg\..+")
    if stages:
        config["decode_head"] = [infer_head(top.part(f"{i}."), channels) for i in stages]
    else:
        config["decode_head"] = infer_head(top, channels)
    auxiliary = shapes.part("auxiliary_head.")
    if auxiliary:
        config["auxiliary_head"] = infer_head(auxiliary, channels)
    if body["type"] == "VisionTransformer":
        shapes.assume("frames normalised by mean and deviation 0.5, as in the published Segmenter on ViT")
        config["data_preprocessor"] = {"mean": HALF, "std": HALF, "bgr_to_rgb": True}
    return {"model": config}


def _channels(body: dict[str, Any]) -> tuple[int, ...]:
    """Return the channels of the backbone's maps."""
    kind = body["type"]
    if kind == "HRNet":
        return tuple(body["extra"]["stage4"]["num_channels"])
    if kind.startswith("ResNet"):
        return tuple(body["base_channels"] * (4 if body["depth"] >= 50 else 1) << i for i in range(4))
    if kind in DOUBLING:
        return tuple(body[DOUBLING[kind]] << i for i in body.get("out_indices", range(4)))
    return (body["embed_dims"],) if kind == "VisionTransformer" else (body["embed_dim"],) * 4
