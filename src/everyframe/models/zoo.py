"""The models by name, SYSTEM-BACKBONE, made of four dicts that one can read.

A new part costs its file and one line here: `BACKBONES`, `HEADS` or `TEMPORAL`; a pair of head and temporal module
with a name of its own (a published method) one in `SYSTEMS`. Every name of `MODELS` follows.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.backbones.hrnet import HRNet
from everyframe.models.backbones.large import LARGE
from everyframe.models.backbones.resnet import ResNet, dilated
from everyframe.models.backbones.swin import SwinTransformer
from everyframe.models.backbones.timm_backbone import TimmBackbone
from everyframe.models.heads.base import Head
from everyframe.models.heads.deeplab import DeepLabV3PlusHead
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.heads.mask2former.presets import mask2former
from everyframe.models.heads.mask_transformer import MaskTransformerHead
from everyframe.models.heads.ocr import OCRHead
from everyframe.models.heads.psp import PSPHead
from everyframe.models.heads.uper import UperHead
from everyframe.models.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from everyframe.models.temporal.base import TemporalModule
from everyframe.models.temporal.gru import ConvGRU
from everyframe.models.temporal.identity import Identity
from everyframe.models.temporal.netwarp import NetWarp
from everyframe.models.temporal.ssltm import SSLTM
from everyframe.models.temporal.tcb import PyramidBlending, RegionBlending

Options = Mapping[str, Any]


# -- backbones: (pretrained, **options) -> module with channels and strides ------------------------------------------


def resnet(pretrained: bool, *, weights: str, output_stride: int = 8, **options: Any) -> nn.Module:
    """ResNet with dilated stages; `weights` names timm's model of the same shape."""
    strides, dilations = dilated(output_stride)
    return _with_weights(ResNet(strides=strides, dilations=dilations, **options), weights, pretrained)


def swin(pretrained: bool, *, weights: str, **options: Any) -> nn.Module:
    """Swin Transformer; `weights` names timm's model of the same shape."""
    return _with_weights(SwinTransformer(**options), weights, pretrained)


def hrnet(pretrained: bool, *, weights: str, **options: Any) -> nn.Module:
    """HRNet; `weights` names timm's model of the same shape."""
    return _with_weights(HRNet(**options), weights, pretrained)


def tiny(pretrained: bool, **options: Any) -> nn.Module:
    """0.4 M parameters, maps of stride 4, 8, 8, 8: learns from nothing within minutes on two CPU cores."""
    if pretrained:
        raise InputError("backbone 'tiny' has no pretrained weights; leave `pretrained` out: it trains from nothing")
    strides, dilations = dilated(8)
    shape = {"depths": (1, 1, 1, 1), "bottleneck": False, "width": 16, "stem_width": 16}
    return ResNet(**{**shape, "strides": strides, "dilations": dilations, **options})


def timm_model(pretrained: bool, *, name: str, **options: Any) -> nn.Module:
    """Any timm model with feature maps."""
    return TimmBackbone(name, pretrained, **options)


def _with_weights(backbone: nn.Module, weights: str, pretrained: bool) -> nn.Module:
    if pretrained:
        from everyframe.models.convert.timm import load_pretrained

        load_pretrained(backbone, weights)
    return backbone


_SWIN = partial(swin, depths=(2, 2, 18, 2), drop_path=0.3)
_SWIN_224 = "patch4_window7_224"

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "tiny": tiny,
    "resnet18": partial(resnet, depths=(2, 2, 2, 2), bottleneck=False, deep_stem=False, weights="resnet18.a1_in1k"),
    "resnet50": partial(resnet, depths=(3, 4, 6, 3), weights="resnet50c.gluon_in1k"),
    "resnet101": partial(resnet, depths=(3, 4, 23, 3), weights="resnet101c.gluon_in1k"),
    "hrnet-w18": partial(hrnet, widths=(18, 36, 72, 144), weights="hrnet_w18.ms_aug_in1k"),
    "hrnet-w48": partial(hrnet, weights="hrnet_w48.ms_in1k"),
    "swin-tiny": partial(_SWIN, depths=(2, 2, 6, 2), drop_path=0.2, weights=f"swin_tiny_{_SWIN_224}.ms_in1k"),
    "swin-small": partial(_SWIN, weights=f"swin_small_{_SWIN_224}.ms_in1k"),
    "swin-base": partial(_SWIN, width=128, heads=(4, 8, 16, 32), weights=f"swin_base_{_SWIN_224}.ms_in22k"),
    "swin-large": partial(_SWIN, width=192, heads=(6, 12, 24, 48), weights=f"swin_large_{_SWIN_224}.ms_in22k"),
    "convnext-tiny": partial(timm_model, name="convnext_tiny.fb_in22k", output_norms=True),
    "convnext-small": partial(timm_model, name="convnext_small.fb_in22k", output_norms=True),
    "convnext-base": partial(timm_model, name="convnext_base.fb_in22k", output_norms=True),
    **LARGE,
}
"""Backbone -> builder. Beside these, "timm:NAME" is timm's model NAME."""


# -- heads: (channels, strides, num_classes, **options) -> head -------------------------------------------------------


def psp(
    channels: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    width: int | None = None,
    auxiliary_width: int | None = None,
    **options: Any,
) -> Head:
    """PSPNet with the VSPW code's auxiliary head: half the channels of the last map but one; 0 leaves it out."""
    auxiliary_width = channels[-2] // 2 if auxiliary_width is None else auxiliary_width
    chosen = {"auxiliary": _auxiliary(channels, strides, num_classes, auxiliary_width), **options}
    return PSPHead(channels, strides, num_classes, width=width or _width(channels, 512), **chosen)


def ocr(
    channels: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    width: int | None = None,
    key_width: int | None = None,
    **options: Any,
) -> Head:
    """OCRNet of the VSPW code; keys half as wide as pixels."""
    width = width or _width(channels, 512)
    return OCRHead(channels, strides, num_classes, width=width, key_width=key_width or width // 2, **options)


def fcn(
    channels: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    width: int | None = None,
    index: int | Sequence[int] | None = None,
    auxiliary_width: int | None = None,
    **options: Any,
) -> Head:
    """All maps side by side at the finest stride, one 1x1 convolution: the plain head, sharp and cheap."""
    auxiliary_width = channels[-2] // 2 if auxiliary_width is None else auxiliary_width
    shape = {
        "index": tuple(range(len(channels))) if index is None else index,
        "width": width or _width(channels, 512) // 2,
        "num_convs": 1,
        "kernel_size": 1,
        "concat_input": False,
        "auxiliary": _auxiliary(channels, strides, num_classes, auxiliary_width),
    }
    return FCNHead(channels, strides, num_classes, **{**shape, **options})


def uper(
    channels: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    width: int | None = None,
    auxiliary_width: int = 0,
    **options: Any,
) -> Head:
    """UperNet; `auxiliary_width` above 0 adds mmseg's auxiliary head."""
    chosen = {"auxiliary": _auxiliary(channels, strides, num_classes, auxiliary_width), **options}
    return UperHead(channels, strides, num_classes, width=width or _narrow(channels), **chosen)


def deeplab(
    channels: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    width: int | None = None,
    auxiliary_width: int | None = None,
    **options: Any,
) -> Head:
    """DeepLabv3+ with PSPNet's auxiliary head; dilations of stride 8, less for coarser maps."""
    auxiliary_width = channels[-2] // 2 if auxiliary_width is None else auxiliary_width
    shape = {
        "width": width or _narrow(channels),
        "dilations": (1, *(max(2, rate * 8 // strides[-1]) for rate in (12, 24, 36))),
        "auxiliary": _auxiliary(channels, strides, num_classes, auxiliary_width),
    }
    return DeepLabV3PlusHead(channels, strides, num_classes, **{**shape, **options})


def segmenter(
    channels: Sequence[int],
    strides: Sequence[int],
    num_classes: int,
    *,
    width: int | None = None,
    auxiliary_width: int = 0,
    **options: Any,
) -> Head:
    """Segmenter's mask transformer of one block, as wide as the coarsest map and at most 768."""
    chosen = {"auxiliary": _auxiliary(channels, strides, num_classes, auxiliary_width), **options}
    return MaskTransformerHead(channels, strides, num_classes, width=width or _width(channels, 768), **chosen)


def _auxiliary(channels: Sequence[int], strides: Sequence[int], num_classes: int, width: int) -> Head | None:
    """Return the usual auxiliary head, none at width 0."""
    shape = {"index": -2, "width": width, "num_convs": 1, "concat_input": False}
    return FCNHead(channels, strides, num_classes, **shape) if width else None


def _width(channels: Sequence[int], most: int) -> int:
    """Return the published width for large backbones, and no more than the coarsest map's for small ones."""
    return min(most, channels[-1])


def _narrow(channels: Sequence[int]) -> int:
    """Return 256, the width of pyramids, and about a third of the coarsest map's for small backbones."""
    return max(16, min(256, channels[-1] // 24 * 8))


HEADS: dict[str, Callable[..., Head]] = {
    "fcn": fcn,
    "psp": psp,
    "ocr": ocr,
    "uper": uper,
    "deeplab": deeplab,
    "segmenter": segmenter,
    "mask2former": mask2former,
}
"""Head -> builder."""


# -- temporal modules: (head, channels of the coarsest map, **options) -> module --------------------------------------


def gru(head: Head, channels: int, *, hidden: int | None = None, **options: Any) -> TemporalModule:
    """Convolutional GRU on the head's pixels, squeezed to a quarter of their channels."""
    return ConvGRU(head.channels, hidden=hidden or max(16, head.channels // 4), **options)


def ssltm(head: Head, channels: int, *, heads: int | None = None, **options: Any) -> TemporalModule:
    """SSLTM with 8 attention heads, fewer on heads too narrow for them."""
    return SSLTM(head, heads=heads or math.gcd(8, head.channels), **options)


def tcb(head: Head, channels: int, **options: Any) -> TemporalModule:
    """Temporal context blending: of regions on OCR heads, of the pyramid on PSP heads."""
    if isinstance(head, PSPHead):
        return PyramidBlending(head, channels, **options)
    return RegionBlending(head, **options)


TEMPORAL: dict[str, Callable[..., TemporalModule]] = {
    "": lambda head, channels: Identity(),
    "etc": lambda head, channels: Identity(),
    "gru": gru,
    "netwarp": NetWarp,
    "ssltm": ssltm,
    "tcb": tcb,
    "tcb-memory": partial(tcb, memory="fifo"),
}
"""Temporal module -> builder. The empty name treats each frame alone; so does ETC, which differs in its losses."""


# -- models -----------------------------------------------------------------------------------------------------------

PIXEL_HEADS = tuple(head for head in HEADS if head != "mask2former")
"""Heads that predict the logits of each pixel, which ETC's losses compare and NetWarp's late map leads to."""

SYSTEMS: dict[str, tuple[str, str]] = {
    **{head: (head, "") for head in HEADS},
    **{f"{head}-gru": (head, "gru") for head in HEADS},
    **{f"etc-{head}": (head, "etc") for head in PIXEL_HEADS},
    **{f"netwarp-{head}": (head, "netwarp") for head in PIXEL_HEADS},
    "tcb-psp": ("psp", "tcb"),
    "tcb-ocr": ("ocr", "tcb"),
    "tcb-ocr-memory": ("ocr", "tcb-memory"),
    "ssltm": ("ocr", "ssltm"),
}
"""System, the front of a model's name -> keys of `HEADS` and `TEMPORAL`."""


class Parts(NamedTuple):
    """What a model name stands for: keys of `HEADS`, `TEMPORAL`, `BACKBONES`."""

    head: str
    temporal: str
    backbone: str

    @property
    def system(self) -> str:
        """Key of `SYSTEMS`."""
        return next(name for name, pair in SYSTEMS.items() if pair == (self.head, self.temporal))

    @property
    def name(self) -> str:
        """SYSTEM-BACKBONE."""
        return f"{self.system}-{self.backbone}"


MODELS: dict[str, Parts] = {
    f"{system}-{backbone}": Parts(head, time, backbone)
    for system, (head, time) in SYSTEMS.items()
    for backbone in BACKBONES
}
"""Every model name -> its parts."""


def find_parts(name: str) -> Parts:
    """Return the parts of a model name; also of "SYSTEM-timm:NAME".

    Raises:
        InputError: there is no such model; the message lists names that are close.
    """
    if name in MODELS:
        return MODELS[name]
    front, colon, timm_name = name.partition("-timm:")
    if colon and front in SYSTEMS:
        return Parts(*SYSTEMS[front], f"timm:{timm_name}")
    near = difflib.get_close_matches(name, MODELS, n=5, cutoff=0.5) or list(MODELS)[:5]
    raise InputError(
        f"no model {name!r}; close ones are {', '.join(near)} (`everyframe models` lists all; "
        f"a timm backbone is written {next((s for s in SYSTEMS if front.startswith(s)), 'ocr')}-timm:NAME)"
    )


def create_model(
    name: str,
    label_space: LabelSpace,
    *,
    pretrained: bool = False,
    weights: str | None = None,
    backbone: Options | None = None,
    head: Options | None = None,
    temporal: Options | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Segmenter:
    """Build a model by name.

    Args:
        name: a key of `MODELS`, or "SYSTEM-timm:NAME".
        label_space: classes and colours.
        pretrained: whether the backbone's weights are downloaded (they come from timm's pages on the hub).
        weights: folder of a saved model to start from; its backbone must fit, of the rest is taken what fits.
        backbone: options of the backbone, by the names of its constructor, for example {"drop_path": 0.2}.
        head: options of the head, for example {"width": 256}; "auxiliary" may hold those of an `FCNHead`.
        temporal: options of the temporal module, for example {"hidden": 64}.
        mean: RGB mean of the training images, in 0..1.
        std: RGB deviation of the training images, in 0..1.

    Returns:
        The model in training mode; `.config` holds the name and options that build it again (without download).

    Raises:
        InputError: unknown name or option.

    Example:
        >>> model = create_model("fcn-gru-tiny", LabelSpace(("road", "car")), head={"width": 32})
        >>> model.config["name"]
        'fcn-gru-tiny'
    """
    parts = find_parts(name)
    options = {"backbone": dict(backbone or {}), "head": dict(head or {}), "temporal": dict(temporal or {})}
    if parts.backbone.startswith("timm:"):
        body = _build(timm_model, name, "backbone", pretrained, name=parts.backbone[5:], **options["backbone"])
    else:
        body = _build(BACKBONES[parts.backbone], name, "backbone", pretrained, **options["backbone"])
    shape, chosen = (body.channels, body.strides, len(label_space)), dict(options["head"])
    if isinstance(chosen.get("auxiliary"), Mapping):
        chosen["auxiliary"] = _build(FCNHead, name, "auxiliary head", *shape, **chosen["auxiliary"])
    top = _build(HEADS[parts.head], name, "head", *shape, **chosen)
    time = _build(TEMPORAL[parts.temporal], name, "temporal", top, body.channels[-1], **options["temporal"])
    model = Segmenter(body, top, label_space, time, mean, std)
    given = {part: chosen for part, chosen in options.items() if chosen}
    model.config = {"name": name, "options": {**given, "mean": list(mean), "std": list(std)}}
    if weights is not None:
        from everyframe.models.convert.saved import start_from

        start_from(model, weights)
    return model


def _build(builder: Callable[..., Any], model: str, part: str, /, *arguments: Any, **options: Any) -> Any:
    """Call a builder, turning a mistyped option into a clear line."""
    try:
        return builder(*arguments, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(
            f"model {model!r}: its {part} does not know this option: {str(error).split('() ')[-1]}"
        ) from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"model {model!r}: {error}") from None
