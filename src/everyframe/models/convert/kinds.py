"""The kinds of published files: how each is known, and how it is read."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from everyframe.errors import InputError
from everyframe.models.convert.design import Reading
from everyframe.models.convert.infer import backbone_of, infer_config
from everyframe.models.convert.infer_backbones import find_backbone
from everyframe.models.convert.pretrained import find_family, read_pretrained
from everyframe.models.convert.published import read_model, refuse_other_eps
from everyframe.models.convert.raft import is_raft
from everyframe.models.convert.settings import Unsupported
from everyframe.models.convert.shapes import Shapes
from everyframe.models.convert.source import Source
from everyframe.models.convert.transformers import read_transformers
from everyframe.models.convert.vspw_model import find_method, read_vspw


class Kind(NamedTuple):
    """A kind of published file.

    Attributes:
        title: what it is, for people.
        fits: whether a file with these weights is one.
        read: tells what model it is; None for files that are no model (RAFT).
    """

    title: str
    fits: Callable[[Source, Shapes], bool]
    read: Callable[[Source, Shapes, str | None], Reading] | None


def _is_transformers(source: Source, shapes: Shapes) -> bool:
    return bool(source.config and "transformers" in source.config)


def _has_backbone(name: str, source: Source, shapes: Shapes) -> bool:
    return backbone_of(shapes) == name


def _is_mmseg(source: Source, shapes: Shapes) -> bool:
    return backbone_of(shapes) in ("swin", "resnet", "hrnet", "vit")


_TOLD_BY_WEIGHTS: dict[str, dict[str, str]] = {
    "VisionTransformer": {"patch_bias": r"patch_embed\.projection\.bias"},
    "BEiTAdapter": {
        "use_abs_pos_emb": "pos_embed", "use_rel_pos_bias": r"blocks\.0\.attn\.relative_position_bias_table",
    },
    "ViTAdapter": {"layer_scale": r"blocks\.0\.gamma1", "with_cffn": r"interactions\.0\.extractor\.ffn\..+"},
}  # fmt: skip
"""Class of a backbone -> setting -> weight that is there where it is on: settings that configurations leave out and
whose defaults are not the same in all versions of the published code."""


def _completed(config: dict[str, Any], shapes: Shapes) -> dict[str, Any]:
    """Add the settings of `_TOLD_BY_WEIGHTS` that a configuration leaves out."""
    model = config["model"]
    body = model["backbone"]
    own = shapes.part("backbone.")
    told = {key: own.has(mark) for key, mark in _TOLD_BY_WEIGHTS.get(body["type"], {}).items()}
    return {**config, "model": {**model, "backbone": {**told, **body}}}


def _read_model(source: Source, shapes: Shapes, model: str | None) -> Reading:
    """Read the configuration beside the weights; without one, the shapes."""
    config: dict[str, Any] = source.config or infer_config(shapes)
    try:
        config = _completed(config, shapes)
        reading = read_model(config)
    except KeyError as error:
        raise Unsupported(f"the configuration lacks the setting {error}; give a whole one (--config)") from None
    reading.check = partial(refuse_other_eps, config=config["model"])
    test = config["model"].get("test_cfg") or {}
    if test.get("mode") == "slide" and {"crop_size", "stride"} <= set(test):
        window, stride = (side if isinstance(side, int) else side[0] for side in (test["crop_size"], test["stride"]))
        reading.notes.append(f"published test: windows of {window} every {stride} pixels")
    return reading


def _read_vspw(source: Source, shapes: Shapes, model: str | None) -> Reading:
    reading = read_vspw(shapes)
    if reading.classes == 124:
        reading.labels = "vspw"
    return reading


KINDS: dict[str, Kind] = {
    "transformers": Kind(
        "folder of transformers with Mask2Former on Swin",
        _is_transformers, lambda source, shapes, model: read_transformers(source),
    ),
    "vit-adapter": Kind(
        "ViT-Adapter on BEiT, BEiTv2, DeiT, and EVA-01", partial(_has_backbone, "vit-adapter"), _read_model
    ),
    "internimage": Kind("InternImage segmentation", partial(_has_backbone, "internimage"), _read_model),
    "focalnet": Kind("FocalNet segmentation", partial(_has_backbone, "focalnet"), _read_model),
    "eva02": Kind("EVA-02 segmentation", partial(_has_backbone, "eva02"), _read_model),
    "mmseg": Kind("mmsegmentation on Swin, ResNet, HRNet, ViT", _is_mmseg, _read_model),
    "vspw": Kind(
        "the VSPW authors' PSPNet, OCRNet, UPerNet, DeepLabv3+, ETC, NetWarp, TCB",
        lambda source, shapes: find_method(shapes) is not None, _read_vspw,
    ),
    "raft": Kind("RAFT optical flow", lambda source, shapes: is_raft(shapes), None),
    "backbone": Kind(
        "a backbone alone: timm, BEiT, BEiTv2, EVA-01, DeiT, Swin, FocalNet, InternImage, HRNet, ResNet",
        lambda source, shapes: find_family(shapes) is not None,
        lambda source, shapes, model: read_pretrained(source.name, source.state, shapes, model),
    ),
}  # fmt: skip
"""Name -> kind; the first that fits is taken."""


def find_kind(source: Source, shapes: Shapes, kind: str | None = None) -> str:
    """Return the kind of a file.

    Args:
        source: the file.
        shapes: of its weights.
        kind: what the user says it is, or None.

    Raises:
        InputError: no such kind, or none fits.
    """
    if kind is not None:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.4)
            raise InputError(
                f"no kind {kind!r}{f', did you mean {near[0]}?' if near else ''}; there are {list_kinds()}"
            )
        return kind
    found = next((name for name, known in KINDS.items() if known.fits(source, shapes)), None)
    if found is None:
        raise InputError(
            f"{source.name}: expected weights of a known layout, came the keys {', '.join(list(shapes)[:4])}; "
            f"the kinds are {list_kinds()} (--kind chooses one)"
        )
    return found


def list_kinds() -> str:
    """Return the names and titles of all kinds on one line."""
    return "; ".join(f"{name} ({kind.title})" for name, kind in KINDS.items())


def join_sources(sources: Sequence[Source]) -> Source:
    """Join the files of one model: the VSPW code's encoder and decoder, or one file.

    Raises:
        InputError: files that do not belong together.
    """
    if len(sources) == 1:
        return sources[0]
    roles = ["encoder" if find_backbone(Shapes(source.state)) == "resnet" else "decoder" for source in sources]
    if sorted(roles) != ["decoder", "encoder"]:
        raise InputError(
            f"expected one file, or the VSPW code's encoder and decoder, came {len(sources)} files "
            f"({', '.join(source.name for source in sources)}), of which {roles.count('encoder')} hold an encoder"
        )
    state = {f"{role}.{key}": x for role, source in zip(roles, sources, strict=True) for key, x in source.state.items()}
    dropped = {f"{role}.{key}": why for role, s in zip(roles, sources, strict=True) for key, why in s.dropped.items()}
    notes = [note for source in sources for note in source.notes]
    return Source(" + ".join(source.name for source in sources), state, dropped=dropped, notes=notes)
