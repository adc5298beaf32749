"""Models of mmsegmentation and its relatives: configuration -> design and table.

Relatives share its layout (`backbone.`, `decode_head.`, `auxiliary_head.`) and the names of its settings: ViT-Adapter
and EVA (with mmdet's Mask2Former), InternImage, FocalNet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from everyframe.models.backbones.resnet import dilated
from everyframe.models.convert import backbones, mmseg, vit_adapter
from everyframe.models.convert.design import Design, Options, Reading, nearest_backbone, system_of
from everyframe.models.convert.keys import Rule, Table, left_out, nested
from everyframe.models.convert.mmseg_backbone_config import BACKBONES as MMSEG
from everyframe.models.convert.mmseg_backbone_config import NORMS
from everyframe.models.convert.mmseg_config import class_count, head_kind
from everyframe.models.convert.settings import Config, Unsupported
from everyframe.models.segmenter import IMAGENET_MEAN, IMAGENET_STD

BYTE = 255.0


class Published(NamedTuple):
    """What is known of a published backbone.

    Attributes:
        prefixes: of its names in the zoo.
        options: configuration -> options of the zoo's builder.
        table: configuration -> key table.
    """

    prefixes: tuple[str, ...]
    options: Callable[[Config], Options]
    table: Callable[[Config], Table]


def _resnet_options(config: Config) -> Options:
    """Return the zoo's options, which know a coarsest stride in place of strides and dilations."""
    options = MMSEG[config["type"]].options(config)
    strides, dilations = tuple(options.pop("strides")), tuple(options.pop("dilations"))
    for output_stride in (8, 16, 32):
        if dilated(output_stride) == (strides, dilations):
            return {**options, "output_stride": output_stride}
    raise Unsupported(
        f"mmseg {config['type']}: strides={strides} with dilations={dilations} is not supported, only those of a "
        f"coarsest stride of 8, 16 or 32"
    )


BACKBONES: dict[str, Published] = {
    "SwinTransformer": Published(("swin-",), MMSEG["SwinTransformer"].options, mmseg.backbone_table),
    **{name: Published(("resnet",), _resnet_options, mmseg.backbone_table)
       for name in ("ResNet", "ResNetV1c", "ResNetV1d")},
    "HRNet": Published(("hrnet-",), MMSEG["HRNet"].options, mmseg.backbone_table),
    "VisionTransformer": Published(("vit-base",), MMSEG["VisionTransformer"].options, mmseg.backbone_table),
    "BEiTAdapter": Published(
        ("beit-adapter", "beitv2-adapter", "eva-adapter"), vit_adapter.KINDS["BEiTAdapter"].options,
        lambda config: vit_adapter.BACKBONES["BEiTAdapter"],
    ),
    "ViTAdapter": Published(
        ("vit-adapter",), vit_adapter.KINDS["ViTAdapter"].options, lambda config: vit_adapter.BACKBONES["ViTAdapter"]
    ),
    "InternImage": Published(
        ("internimage",), backbones.BACKBONES["InternImage"].options, backbones.TABLES["InternImage"]
    ),
    "FocalNet": Published(("focalnet",), backbones.BACKBONES["FocalNet"].options, backbones.TABLES["FocalNet"]),
    "EVA2": Published(("eva02",), backbones.BACKBONES["EVA2"].options, backbones.TABLES["EVA2"]),
}  # fmt: skip
"""Class name of a backbone -> what is known of it."""


def read_model(config: Mapping[str, Any]) -> Reading:
    """Read a configuration: "model", and what says how frames were normalised.

    Raises:
        Unsupported: a class or setting without a counterpart here.
    """
    model = config["model"]
    body, decode = model["backbone"], model["decode_head"]
    if body["type"] not in BACKBONES:
        raise Unsupported(f"no backbone here for the published {body['type']!r}; there are {', '.join(BACKBONES)}")
    known = BACKBONES[body["type"]]
    if model.get("neck"):
        raise Unsupported(f"models with a neck ({model['neck'].get('type')}) are not supported")
    options = known.options(body)
    cascade = [decode] if isinstance(decode, Mapping) else list(decode)
    kind = head_kind(cascade[-1])
    head = kind.options(cascade[-1])
    auxiliary, tops, notes = _auxiliary(cascade, model.get("auxiliary_head"))
    # Zoo presets add the usual auxiliary head; what the file has, and nothing else, is what is built.
    if kind.name != "ocr" or auxiliary is not None:
        head["auxiliary"] = auxiliary
    table = [*nested(known.table(body), "backbone.", "backbone."), *tops]
    mean, std = normalisation(config)
    design = Design(system_of(kind.name), nearest_backbone(known.prefixes, options), options, head, {}, mean, std)
    return Reading(design, table, class_count(cascade[-1]), notes)


def _auxiliary(cascade: Sequence[Config], given: Any) -> tuple[Options | None, list[Rule], list[str]]:
    """Return the options of the auxiliary head (or None), the tables of all heads, and notes."""
    notes: list[str] = []
    if len(cascade) > 2 or (len(cascade) == 2 and given):
        raise Unsupported(f"a cascade of {len(cascade)} heads with an auxiliary head is not supported")
    decode = cascade[0] if len(cascade) == 1 else cascade
    tops: list[Rule] = [*mmseg.head_table(decode, "decode_head.", "head.")]
    before = cascade[0] if len(cascade) == 2 else given
    if before and (isinstance(before, Sequence) or before["type"] != "FCNHead"):
        if len(cascade) == 2:
            raise Unsupported(f"a cascade that begins with {cascade[0]['type']} is not supported, only with FCNHead")
        kinds = ", ".join(head["type"] for head in before) if isinstance(before, Sequence) else before["type"]
        notes.append(f"the auxiliary head ({kinds}) serves training alone and has no counterpart here")
        return None, [*tops, left_out(r"auxiliary_head\..+", "an auxiliary head of another kind")], notes
    if not before:
        return None, tops, notes
    if len(cascade) == 1:
        tops += mmseg.head_table(before, "auxiliary_head.", "head.auxiliary.")
    return head_kind(before).options(before), tops, notes


def normalisation(config: Mapping[str, Any]) -> tuple[Sequence[float], Sequence[float]]:
    """Return (mean, std) in 0..1, of `data_preprocessor` (mmseg 1.x) or `img_norm_cfg` (0.x); ImageNet's if not said.

    Raises:
        Unsupported: the frames were BGR, or not normalised.
    """
    newer = config["model"].get("data_preprocessor")
    found = newer or config.get("img_norm_cfg")
    if not found:
        return IMAGENET_MEAN, IMAGENET_STD
    # What is not said is False in mmseg 1.x, True in 0.x.
    if not (found.get("bgr_to_rgb", False) if newer else found.get("to_rgb", True)):
        raise Unsupported(
            "this model was trained on BGR frames, which is not supported: expected `bgr_to_rgb` (mmseg 1.x) or "
            "`to_rgb` (0.x) to be True"
        )
    mean, std = found.get("mean"), found.get("std")
    if not mean or not std:
        raise Unsupported("this model was trained on frames as they are, which is not supported: expected mean and std")
    return tuple(round(x / BYTE, 6) for x in mean), tuple(round(x / BYTE, 6) for x in std)


def refuse_other_eps(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Refuse normalisations whose epsilon differs from what our modules have: a saved model cannot say it.

    Raises:
        Unsupported: such a one.
    """
    heads = config["decode_head"] if isinstance(config["decode_head"], Sequence) else [config["decode_head"]]
    for part, settings in (("backbone", config["backbone"]), ("head", heads[-1])):
        eps = (settings.get("norm_cfg") or {}).get("eps")
        own = {m.eps for m in model.get_submodule(part).modules() if isinstance(m, NORMS)}
        if eps is not None and own - {eps}:
            raise Unsupported(f"norm_cfg eps={eps} of the {part} is not supported, only {sorted(own)[0]}")
