"""The models by name, SYSTEM-BACKBONE, made of four dicts that one can read.

A new part costs its file and one line here: `BACKBONES`, `HEADS` or `TEMPORAL`; a pair of head and temporal module
with a name of its own (a published method) one in `METHODS`. Every name of `SYSTEMS` and `MODELS` follows, also when
the line is written at run time, before a model is built or loaded: `HEADS["mine"] = MyHead` in one's own script, or in
a file for `everyframe --import FILE.py`. A temporal module TIME goes by HEAD-TIME with every head.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from torch import nn

from everyframe.errors import InputError
from everyframe.labels import LabelSpace
from everyframe.models.backbones.large import LARGE
from everyframe.models.backbones.standard import STANDARD, timm_model
from everyframe.models.heads.base import Head
from everyframe.models.heads.deeplab import DeepLabV3PlusHead
from everyframe.models.heads.fcn import FCNHead
from everyframe.models.heads.mask2former.presets import mask2former
from everyframe.models.heads.mask_transformer import MaskTransformerHead
from everyframe.models.heads.ocr import OCRHead
from everyframe.models.heads.panoptic_deeplab import PanopticDeepLabHead
from everyframe.models.heads.psp import PSPHead
from everyframe.models.heads.scale_attention import hmsa
from everyframe.models.heads.sized import (
    SizedHead,
    all_maps,
    at_most,
    dilations_of_stride_8,
    half_keys,
    half_of,
    narrow,
)
from everyframe.models.heads.uper import UperHead
from everyframe.models.segmenter import IMAGENET_MEAN, IMAGENET_STD, Segmenter
from everyframe.models.temporal.base import TemporalModule
from everyframe.models.temporal.gru import ConvGRU
from everyframe.models.temporal.identity import Identity
from everyframe.models.temporal.netwarp import NetWarp
from everyframe.models.temporal.ssltm import SSLTM
from everyframe.models.temporal.tcb import PyramidBlending, RegionBlending

Options = Mapping[str, Any]
Entry = TypeVar("Entry")


# -- backbones: (pretrained, **options) -> module with channels and strides ------------------------------------------

BACKBONES: dict[str, Callable[..., nn.Module]] = {**STANDARD, **LARGE}
"""Backbone -> builder. Beside these, "timm:NAME" is timm's model NAME."""


# -- heads: (channels, strides, num_classes, **options) -> head -------------------------------------------------------

HEADS: dict[str, Callable[..., Head]] = {
    "fcn": SizedHead(FCNHead, half_of(at_most(512)), auxiliary=True, shape=all_maps),
    "psp": SizedHead(PSPHead, at_most(512), auxiliary=True),
    "ocr": SizedHead(OCRHead, at_most(512), shape=half_keys),
    "uper": SizedHead(UperHead, narrow),
    "deeplab": SizedHead(DeepLabV3PlusHead, narrow, auxiliary=True, shape=dilations_of_stride_8),
    "panoptic-deeplab": SizedHead(PanopticDeepLabHead, narrow, shape=dilations_of_stride_8),
    "segmenter": SizedHead(MaskTransformerHead, at_most(768)),
    "mask2former": mask2former,
}
"""Head -> builder."""

PUBLISHED_HEADS: dict[tuple[str, str], Options] = {
    ("mask2former", "eva-adapter-giant"): {"queries": 200, "decoder_layers": 8},
}
"""(Head, backbone) -> options that the pair was published with, where they are not the head's own; given ones win."""

HEADS["hmsa-ocr"] = partial(hmsa, HEADS["ocr"])

SEVERAL_SCALES = ("hmsa-ocr",)
"""Heads that read several pyramids of maps; the others read one, as temporal modules hand it on."""
MASK_HEADS = ("mask2former",)
"""Heads that predict masks; the others predict the logits of each pixel, which ETC's losses compare and NetWarp's late
map leads to."""


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

METHODS: dict[str, tuple[str, str]] = {
    "tcb-psp": ("psp", "tcb"),
    "tcb-ocr": ("ocr", "tcb"),
    "tcb-ocr-memory": ("ocr", "tcb-memory"),
    "ssltm": ("ocr", "ssltm"),
}
"""Published methods with names of their own -> keys of `HEADS` and `TEMPORAL`."""


NAMED_FIRST = ("etc", "netwarp")
"""Temporal modules that stand in front of the head in a model's name, and fit heads that predict logits."""
NAMED_APART = ("", "tcb", "tcb-memory")
"""Temporal modules that have no name of their own beside that of the head, or fit the heads of `METHODS` alone."""


def _systems() -> dict[str, tuple[str, str]]:
    one_scale = [head for head in HEADS if head not in SEVERAL_SCALES]
    of_pixels = [head for head in one_scale if head not in MASK_HEADS]
    behind = [time for time in TEMPORAL if time not in (*NAMED_FIRST, *NAMED_APART)]
    named = set(METHODS.values())
    return {
        **{head: (head, "") for head in HEADS},
        **{f"{time}-{head}": (head, time) for time in NAMED_FIRST for head in of_pixels},
        **METHODS,
        **{f"{head}-{time}": (head, time) for time in behind for head in one_scale if (head, time) not in named},
    }


class _Late(Mapping[str, Entry]):
    """A dict that follows from other dicts and is made when it is read, so that they can be extended at run time."""

    def __init__(self, make: Callable[[], dict[str, Entry]]) -> None:
        self._make = make

    def __getitem__(self, name: str) -> Entry:
        return self._make()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())

    def items(self) -> ItemsView[str, Entry]:
        """Return all at once; `Mapping` would make the dict anew for each."""
        return self._make().items()


SYSTEMS: Mapping[str, tuple[str, str]] = _Late(_systems)
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


def _models() -> dict[str, Parts]:
    return {
        f"{system}-{backbone}": Parts(head, time, backbone)
        for system, (head, time) in SYSTEMS.items()
        for backbone in BACKBONES
    }


MODELS: Mapping[str, Parts] = _Late(_models)
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
    near = difflib.get_close_matches(name, MODELS, n=5, cutoff=0.5)
    hint = f"close ones are {', '.join(near)}" if near else "expected SYSTEM-BACKBONE such as ocr-swin-small"
    raise InputError(
        f"no model {name!r}; {hint} (`everyframe models --names` lists all; "
        f"a timm backbone is written {next((s for s in SYSTEMS if front.startswith(s)), 'ocr')}-timm:NAME)"
    )


def create_model(
    name: str,
    label_space: LabelSpace,
    *,
    pretrained: bool = False,
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
    chosen = {**PUBLISHED_HEADS.get((parts.head, parts.backbone), {}), **chosen}
    if isinstance(chosen.get("auxiliary"), Mapping):
        chosen["auxiliary"] = _build(FCNHead, name, "auxiliary head", *shape, **chosen["auxiliary"])
    top = _build(HEADS[parts.head], name, "head", *shape, **chosen)
    time = _build(TEMPORAL[parts.temporal], name, "temporal", top, body.channels[-1], **options["temporal"])
    model = Segmenter(body, top, label_space, time, mean, std)
    given = {part: chosen for part, chosen in options.items() if chosen}
    model.config = {"name": name, "options": {**given, "mean": list(mean), "std": list(std)}}
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
