"""Backbones alone, as timm and the authors publish them after pretraining -> a model of ours with a fresh head."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from everyframe.errors import InputError
from everyframe.models.convert import backbones, timm, vit_adapter, vspw_model
from everyframe.models.convert.design import Design, Reading, system_of
from everyframe.models.convert.infer_backbones import intern_image
from everyframe.models.convert.keys import Rule, Table, left_out, nested, rewrite
from everyframe.models.convert.mask2former import COMPUTED
from everyframe.models.convert.positions import is_position
from everyframe.models.convert.shapes import Shapes
from everyframe.models.state import State
from everyframe.models.zoo import BACKBONES, find_parts

HEAD = "uper"
"""System of the model, unless another is asked for."""

_TOP = left_out(
    # BEiTv2's cls_pt_layers and InternImage's clip_projector and dcnv3_head stand behind the backbone, too.
    r"(?:head|fc_norm|norm|fc|lm_head|mask_token|cls_pt_layers|conv_head|clip_projector|dcnv3_head_x\d)(?:\..+)?",
    timm.PRETRAINING,
)
_K_BIAS = left_out(r"blocks\.\d+\.attn\.k_bias", "always zero")


class Family(NamedTuple):
    """Pretrained backbones of one layout.

    Attributes:
        marks: regular expressions of keys, all of which it has.
        prefixes: of its names in the zoo.
        table: (shapes) -> keys to the names of the zoo's backbone.
    """

    marks: tuple[str, ...]
    prefixes: tuple[str, ...]
    table: Callable[[Shapes], Table]


SHARED = "trunk.relative_position_bias_table"


def spread_biases(state: State) -> dict[str, Tensor]:
    """Give each block the relative positions that BEiT's self-supervised models share, as fine-tuning begins there."""
    done = dict(state)
    for name in (SHARED, f"backbone.{SHARED}"):
        shared = done.pop(name, None)
        if shared is not None:
            blocks = name.replace("relative", "blocks.{}.attention.relative")
            depth = Shapes(state).count(r"(?:backbone\.)?trunk\.blocks\.(\d+)\..+")
            done |= {blocks.format(i): shared.clone() for i in range(depth)}
    return done


def _trunk(table: Table) -> Table:
    shared = [
        Rule(r"rel_pos_bias\.relative_position_bias_table", SHARED),
        left_out(r"rel_pos_bias\.relative_position_index", COMPUTED),
    ]
    return [_TOP, _K_BIAS, *shared, *nested(table, "", "trunk.")]


def _intern_image(shapes: Shapes) -> Table:
    return [_TOP, *backbones.intern_image_table(intern_image(shapes))]


def _resnet(shapes: Shapes) -> Table:
    if "conv3.weight" in shapes:  # CSAIL's, on which the VSPW code's models were trained
        return vspw_model.ENCODER
    return timm.resnet_table("conv1.0.weight" in shapes)


FAMILIES: dict[str, Family] = {
    "BEiT": Family(
        (r"blocks\.0\.attn\.q_bias", r"patch_embed\.proj\.weight"),
        ("beit-adapter", "beitv2-adapter", "eva-adapter"),
        lambda shapes: _trunk(vit_adapter.BEIT),
    ),
    "ViT": Family(
        (r"blocks\.0\.attn\.qkv\.bias", r"patch_embed\.proj\.weight"),
        ("vit-adapter",),
        lambda shapes: [left_out("cls_token", "this trunk has no class token"), *_trunk(vit_adapter.WINDOW_VIT)],
    ),
    "InternImage": Family((r"levels\.0\.blocks\.0\.dcn\..+",), ("internimage",), _intern_image),
    "FocalNet of timm": Family(
        (r"layers\.0\.blocks\.0\.modulation\.f\.weight", r"stem\.proj\.weight"),
        ("focalnet",),
        lambda shapes: timm.focalnet_table(),
    ),
    "FocalNet": Family(
        (r"layers\.0\.blocks\.0\.modulation\.f\.weight", r"patch_embed\.proj\.weight"),
        ("focalnet",),
        lambda shapes: [_TOP, *backbones.FOCALNET],
    ),
    "Swin": Family(
        (r"layers[._]0\.blocks\.0\.attn\.relative_position_bias_table",), ("swin-",),
        lambda shapes: timm.swin_table(merging_last="layers.0.downsample.reduction.weight" in shapes),
    ),
    "HRNet": Family((r"stage2\.0\.branches\..+", r"conv1\.weight"), ("hrnet-",), lambda shapes: timm.HRNET),
    "ResNet": Family((r"layer1\.0\.conv1\.weight", r"conv1(?:\.0)?\.weight", r"bn1\.weight"), ("resnet",), _resnet),
}  # fmt: skip
"""Family -> what is known of it; the first whose marks all fit is it."""

FRESH = (
    (r"head\..+", "a new head"),
    (r"temporal\..+", "a new temporal module"),
    (r"backbone\.norms\..+", "output norms, which are not pretrained"),
    (r"backbone\.(?:level_embed|(?:spm|injectors|extractors|extra_extractors|up)\..+)", "the adapter around the trunk"),
)


def find_family(shapes: Shapes) -> str | None:
    """Return the key of `FAMILIES` that weights belong to."""
    return next((name for name, family in FAMILIES.items() if all(map(shapes.has, family.marks))), None)


def read_pretrained(name: str, state: State, shapes: Shapes, model: str | None = None) -> Reading:
    """Tell which backbone of the zoo has these weights' shapes.

    Args:
        name: of the file; "v2" in it chooses between BEiT and BEiTv2, which have the same shapes.
        state: the weights.
        shapes: their shapes.
        model: a name of `zoo.MODELS` to put the backbone into; None finds the backbone and takes the head `HEAD`.

    Raises:
        InputError: no backbone of the zoo has these shapes.
    """
    found = find_family(shapes)
    if found is None:
        raise InputError(
            f"{name}: expected the backbone alone of {', '.join(FAMILIES)}, came {', '.join(list(shapes)[:4])}"
        )
    family = FAMILIES[found]
    table = family.table(shapes)
    converted = spread_biases(rewrite(state, table).state)
    if model is not None:
        parts = find_parts(model)
        system, candidates = parts.system, [parts.backbone]
    else:
        system = system_of(HEAD)
        candidates = [body for prefix in family.prefixes for body in BACKBONES if body.startswith(prefix)]
        candidates.sort(key=lambda body: "v2" in body and "v2" not in name.rpartition("/")[2])
        candidates.sort(key=lambda body: "v2" in name.rpartition("/")[2] and "v2" not in body)
    body = next((body for body in candidates if _has_shapes(body, converted)), None)
    if body is None:
        raise InputError(
            f"{name}: expected the shapes of one of {', '.join(candidates)}, came a {found} of another size; "
            f"choose the model with --model SYSTEM-BACKBONE"
        )
    note = f"a pretrained {found} backbone; everything else is fresh: train it before it labels anything"
    return Reading(Design(system, body), nested(table, "", "backbone."), None, [note], FRESH, finish=spread_biases)


def _has_shapes(body: str, state: State) -> bool:
    """Whether all of the weights stand in the zoo's backbone under these names and shapes, positions aside."""
    with torch.device("meta"):
        own = BACKBONES[body](False).state_dict()
    fitted = timm.fit_kernels(state, own)
    trunk = [key for key in own if key.startswith("trunk.")] or [key for key in own if not key.startswith("norms.")]
    if set(trunk) - set(fitted) - {key for key in trunk if key.endswith("num_batches_tracked")}:
        return False
    return all(
        key in own and (value.shape == own[key].shape or (key.startswith("trunk.") and is_position(key)))
        for key, value in fitted.items()
    )
